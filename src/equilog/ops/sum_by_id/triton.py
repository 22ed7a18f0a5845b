"""The log sum exp of the values that share one of few ids, on a GPU.

torch adds by id with atomic operations. With a million sets and twenty classes these queue for a few addresses, and
take longer than the two readings of the logits. Here each program keeps the sums of all ids to itself, and torch adds
up the programs.
"""

# mypy: allow-untyped-calls, allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from equilog.ops.logspace import log_of_sum, usable_peak
from equilog.ops.second_order import Differentiable, apply, keep
from equilog.ops.sum_by_id import reference
from equilog.ops.triton_rows import kernel_operator, launch, subtractable

_PROGRAMS = 512
_TILE = 4096


def log_sum_exp_by(values: Tensor, ids: Tensor, count: int) -> Tensor:
    """Return the log sum exp (count,) of the values (n,) that share an id (n,), on a GPU or by the interpreter.

    Args:
        values: (n,) float32 or float64, with any stride.
        ids: (n,) int64 in 0..count-1.
        count: number of ids; the work grows with it.

    Returns:
        In the type of the values; minus infinity where nothing has the id.
    """
    log_sums: Tensor = apply(TritonLogSumExpBy, values, ids, count)
    return log_sums


class TritonLogSumExpBy(Differentiable):
    """The log sums (count,) of the values (n,) with one id."""

    formula = staticmethod(reference.log_sum_exp_by)

    @staticmethod
    def forward(ctx: Any, values: Tensor, ids: Tensor, count: int) -> Tensor:
        """Return the log sums."""
        log_sums, *kept = log_sum_exp_by_few(values, ids, count)
        keep(ctx, (values, ids), (count,), *kept)
        return log_sums

    @staticmethod
    def gradient(ctx: Any, upstream: Tensor) -> Tensor:
        """Return each value's share of what flows back to its sum."""
        values, ids, peak, total = ctx.saved_tensors
        share = torch.where(total == 0, 0.0, upstream / total)
        gradient: Tensor = share[ids] * (values - peak[ids]).exp()
        return gradient


def log_sums_by_id(values: Tensor, ids: Tensor, count: int) -> Tensor:
    """Return the log sums alone, as a part of a larger operator: without a gradient, for any number of ids."""
    if count <= reference.FEW_SUMS:
        return log_sum_exp_by_few(values, ids, count)[0]
    return reference.log_sum_exp_by(values, ids, count)


def _as_sums(values: Tensor, ids: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG001
    return values.new_empty(count), values.new_empty(count), values.new_empty(count)


@kernel_operator(_as_sums)
def log_sum_exp_by_few(values: Tensor, ids: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log sums, and the peak of each and its sum of exponentials relative to that, each (count,)."""
    slots = triton.next_power_of_2(max(count, 16))
    rows = max(_TILE // slots, 1)
    programs = min(triton.cdiv(values.shape[0], rows), _PROGRAMS)
    peaks, totals = (values.new_empty(programs, count) for _ in range(2))
    launch(
        _sums_kernel, (programs if count else 0,), values, values, ids, peaks, totals, len(values), count,
        values.stride(0), ids.stride(0), ROWS=rows, SLOTS=slots,
    )  # fmt: skip
    peak = usable_peak(peaks.amax(0)) if programs else values.new_zeros(count)
    total = (totals * (peaks - peak).exp()).sum(0)
    return log_of_sum(total) + peak, peak, total


@triton.jit(do_not_specialize=["n"])
def _sums_kernel(
    values, ids, peaks, totals, n, count, value_stride, id_stride, ROWS: tl.constexpr, SLOTS: tl.constexpr
):
    wide = totals.dtype.element_ty
    slot = tl.arange(0, SLOTS)
    peak = tl.full((SLOTS,), -float("inf"), wide)
    total = tl.zeros((SLOTS,), wide)
    for start in range(tl.program_id(0).to(tl.int64) * ROWS, n, tl.num_programs(0) * ROWS):
        row = start + tl.arange(0, ROWS)
        is_row = row < n
        value = tl.load(values + row * value_stride, mask=is_row, other=-float("inf"))
        row_id = tl.load(ids + row * id_stride, mask=is_row, other=-1)
        terms = tl.where(row_id[:, None] == slot[None, :], value[:, None], -float("inf"))
        before = peak
        peak = tl.maximum(peak, tl.max(terms, 0))
        base = subtractable(peak)
        total = total * tl.exp(before - base) + tl.sum(tl.exp(terms - base[None, :]), 0)
    address = tl.program_id(0) * count + slot
    tl.store(peaks + address, peak, mask=slot < count)
    tl.store(totals + address, total, mask=slot < count)
