"""The logs of each pool on a GPU: the log odds in one reading of the logits, and the rest on three numbers a set.

A program compares the sets of a small pool with each other, so that nothing grows with the number of classes; larger
pools have a sum for each class, of which there are then few for the size of the logits. The gradient is that of the
log odds, whose kernel multiplies what flows back to a pool with the slopes of its sets.
"""

# mypy: allow-untyped-calls, allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from equilog.ops.consecutive import pool_count, slot_ids
from equilog.ops.dtypes import compute_dtype
from equilog.ops.index_logs import reference
from equilog.ops.index_logs.native import Look
from equilog.ops.index_odds.triton import index_log_odds_gradient, index_log_odds_of_scores
from equilog.ops.logspace import log_one_plus as log_one_plus_of
from equilog.ops.second_order import Differentiable, apply, keep
from equilog.ops.sum_by_id.triton import log_sums_by_id
from equilog.ops.triton_rows import kernel_operator, launch, log_one_plus, subtractable
from equilog.ops.units import Units, logs_held, mean_of

_SMALL_POOL = 64
"""Sets that are compared with each other: their square still fits the registers of a program."""
_COMPARISONS = 2048


def pooled_index_logs(
    logits: Tensor,
    index: Tensor,
    log_weight: Tensor | None,
    shift: Tensor | None,
    class_weight: Tensor | None,
    pool_size: int,
    scale: float,
    units: Units | None = None,
    ignored: int | None = None,
) -> Tensor:
    """Return the summed logs (P,), or their mean, on a GPU or by the interpreter; all types are read as they are.

    ignored: the index of sets to leave out; any index may then be out of range, and makes its pool no number.
    """
    values: Tensor
    values, held = apply(TritonIndexLogs, logits, index, log_weight, shift, class_weight, pool_size, scale, ignored)
    return values if units is None else mean_of(values.sum(), units.of_logs(held))


def mean_of_index_logs(
    logits: Tensor, index: Tensor, shift: Tensor | None, pool_size: int, scale: float, look: Look
) -> Tensor:
    """Return the mean of the logs over the sets that are not ignored, which are counted here."""
    kept = index != look.ignored
    if look.counts is not None:
        in_range = index.clamp(0, logits.shape[1] - 1)
        look.counts.zero_().index_add_(0, in_range, kept.to(look.counts.dtype))
    units = Units(0, kept.sum())
    return pooled_index_logs(logits, index, None, shift, None, pool_size, scale, units, look.ignored)


class TritonIndexLogs(Differentiable):
    """The summed logs (P,) of scores scale * (z + shift) (n, C), and how many hold something. Keeps 3 numbers a set."""

    @staticmethod
    def formula(
        z: Tensor,
        index: Tensor,
        log_weight: Tensor | None,
        shift: Tensor | None,
        class_weight: Tensor | None,
        pool_size: int,
        scale: float,
        ignored: int | None,
    ) -> Tensor:
        """Return the summed logs."""
        if ignored is not None:
            in_range = index.clamp(0, z.shape[1] - 1)
            wrong = torch.where(index == ignored, -torch.inf, torch.where(index == in_range, 0.0, torch.nan))
            index, log_weight = in_range, wrong.to(compute_dtype(z))
        return reference.pooled_index_logs(z, index, log_weight, shift, class_weight, pool_size, scale)

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        index: Tensor,
        log_weight: Tensor | None,
        shift: Tensor | None,
        class_weight: Tensor | None,
        pool_size: int,
        scale: float,
        ignored: int | None,
    ) -> tuple[Tensor, Tensor]:
        """Return the summed logs, and how many of them hold something, by weight."""
        tensors, constants = (z, index, log_weight, shift, class_weight), (pool_size, scale, ignored)
        values, held, *kept = pooled_index_logs_of_scores(*tensors, *constants)
        keep(ctx, tensors, constants, *kept)
        ctx.mark_non_differentiable(held)
        return values, held

    @staticmethod
    def gradient(ctx: Any, upstream: Tensor) -> Tensor:
        """Return the gradient of z."""
        z, index, _, shift, _, slopes, peaks, totals = ctx.saved_tensors
        pool_size, scale, _ = ctx.constants
        return index_log_odds_gradient(z, index, shift, peaks, totals, upstream, slopes, pool_size, scale)


def _as_logs(
    z: Tensor,
    index: Tensor,  # noqa: ARG001
    log_weight: Tensor | None,  # noqa: ARG001
    shift: Tensor | None,  # noqa: ARG001
    class_weight: Tensor | None,  # noqa: ARG001
    pool_size: int,
    scale: float,  # noqa: ARG001
    ignored: int | None,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    n, dtype = z.shape[0], compute_dtype(z)
    pools = pool_count(n, pool_size)
    values, held, slopes, peaks, totals = (z.new_empty(size, dtype=dtype) for size in (pools, pools, n, n, n))
    return values, held, slopes, peaks, totals


@kernel_operator(_as_logs)
def pooled_index_logs_of_scores(
    z: Tensor,
    index: Tensor,
    log_weight: Tensor | None,
    shift: Tensor | None,
    class_weight: Tensor | None,
    pool_size: int,
    scale: float,
    ignored: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the summed logs, how many hold something, what flows back to each log odds, and the two numbers of these.

    Two of (P,), three of (n,).
    """
    log_odds, peaks, totals = index_log_odds_of_scores(z, index, shift, scale, ignored)
    logs = _by_comparison if pool_size <= _SMALL_POOL else _by_class
    values, held, slopes = logs(log_odds, index, log_weight, class_weight, pool_size, z.shape[1], ignored)
    return values, held, slopes, peaks, totals


def _by_comparison(
    log_odds: Tensor,
    index: Tensor,
    log_weight: Tensor | None,
    class_weight: Tensor | None,
    size: int,
    _: int,
    ignored: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    pools = pool_count(len(log_odds), size)
    values, held, slopes = log_odds.new_empty(pools), log_odds.new_empty(pools), torch.empty_like(log_odds)
    width = triton.next_power_of_2(size)
    together = max(_COMPARISONS // width**2, 1)
    launch(
        _logs_kernel, (triton.cdiv(pools, together),), log_odds, log_odds, index, log_weight, class_weight, values,
        held, slopes, len(log_odds), size, index.stride(0), ignored, POOLS=together, SIZE=width,
        num_warps=max(together * width**2 // 512, 1),
    )  # fmt: skip
    return values, held, slopes


def _by_class(
    log_odds: Tensor,
    index: Tensor,
    log_weight: Tensor | None,
    class_weight: Tensor | None,
    size: int,
    classes: int,
    ignored: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    pools = pool_count(len(log_odds), size)
    terms = log_odds
    if log_weight is not None:
        terms = torch.where(log_weight == -torch.inf, -torch.inf, log_odds + log_weight)
    slot = slot_ids(index if ignored is None else index.clamp(0, classes - 1), size, classes)
    log_sums = log_sums_by_id(terms, slot, pools * classes)
    log_mass = log_one_plus_of(log_sums)
    slopes = (terms - log_mass[slot]).exp_()
    log_sums, log_mass = log_sums.view(pools, classes), log_mass.view(pools, classes)
    held = logs_held(log_sums, class_weight).to(log_mass.dtype)
    if class_weight is not None:
        slopes *= class_weight[index]
        log_mass = torch.where(class_weight == 0, 0.0, log_mass * class_weight)
    return log_mass.sum(1), held, slopes.masked_fill_(log_odds.isinf() | (terms == -torch.inf), 0.0)


@triton.jit(do_not_specialize=["n", "size", "ignored"])
def _logs_kernel(
    log_odds, index, log_weight, class_weight, values, held, slopes, n, size, index_stride, ignored,
    POOLS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    # The sets of a pool stand twice: as rows, and as the columns that they are compared with.
    pool = tl.program_id(0).to(tl.int64) * POOLS + tl.arange(0, POOLS)[:, None, None]
    slot, rival = tl.arange(0, SIZE)[None, :, None], tl.arange(0, SIZE)[None, None, :]
    row, odds, term, class_index, counts = _terms_of_pools(
        log_odds, index, log_weight, pool * size + slot, slot < size, n, index_stride, ignored
    )
    _, _, rival_term, rival_index, rival_counts = _terms_of_pools(
        log_odds, index, log_weight, pool * size + rival, rival < size, n, index_stride, ignored
    )
    same = counts & rival_counts & (class_index == rival_index)
    terms = tl.where(same, rival_term, -float("inf"))
    base = subtractable(tl.max(terms, 2))[:, :, None]
    log_sum = tl.log(tl.sum(tl.exp(terms - base), 2))[:, :, None] + base
    log_mass = log_one_plus(log_sum)
    slope = tl.exp(term - log_mass)
    holds = (log_sum > -float("inf")).to(odds.dtype)
    if class_weight is not None:
        weight = tl.load(class_weight + class_index, mask=counts, other=0.0)
        slope = tl.where(weight == 0.0, 0.0, slope * weight)
        log_mass = tl.where(weight == 0.0, 0.0, log_mass * weight)
        holds *= weight
    slope = tl.where(counts & (tl.abs(odds) != float("inf")), slope, 0.0)
    tl.store(slopes + row, slope, mask=(slot < size) & (row < n))
    is_first = counts & (tl.sum((same & (rival < slot)).to(tl.int32), 2)[:, :, None] == 0)
    value = tl.sum(tl.where(is_first, log_mass, 0.0), 1)[:, :, None]
    tl.store(values + pool, value, mask=pool * size < n)
    tl.store(held + pool, tl.sum(tl.where(is_first, holds, 0.0), 1)[:, :, None], mask=pool * size < n)


@triton.jit
def _terms_of_pools(log_odds, index, log_weight, row, is_slot, n, index_stride, ignored):
    is_row = is_slot & (row < n)
    odds = tl.load(log_odds + row, mask=is_row, other=-float("inf"))
    class_index = tl.load(index + row * index_stride, mask=is_row, other=-1)
    term, counts = odds, is_row
    if ignored is not None:
        counts &= class_index != ignored
    if log_weight is not None:
        weight = tl.load(log_weight + row, mask=is_row, other=-float("inf"))
        counts &= weight != -float("inf")
        term = odds + weight
    return row, odds, term, class_index, counts
