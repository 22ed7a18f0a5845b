"""The positive and negative sums of pools of labels on a GPU: logits and targets are read once a direction.

Each sum is kept relative to its peak. A long pool is cut into chunks, whose sums torch adds up. Positives that are
named become a table of one bit a label, a sixteenth of bfloat16 logits or less, so that no label is compared with all
of its sample's positives. Labels of pools by id are read in the order of their ids, which is the one table made of
them.
"""

# mypy: allow-untyped-calls, allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs

import functools
from typing import Any

import torch
import triton
from torch import Tensor

from equilog.ops import label_terms
from equilog.ops.consecutive import pool_count
from equilog.ops.dtypes import compute_dtype
from equilog.ops.label_sums import reference
from equilog.ops.label_sums.triton_kernels import bits_kernel, gradient_kernel, sums_kernel
from equilog.ops.label_terms.sums import LabelSums
from equilog.ops.logspace import log_of_sum, usable_peak
from equilog.ops.second_order import Differentiable, apply, keep
from equilog.ops.sum_by_id.reference import log_sum_exp_by
from equilog.ops.triton_rows import chunks_of_pools, kernel_operator, launch, like_logits, offset_type, warps_of
from equilog.ops.triton_slots import chunks_of_slots

_BLOCK = 1024
_TILE = 2048
_COLUMN_BLOCK = 32
_BITS = 32


def label_log_sums(logits: Tensor, target: Tensor, weight: Tensor | None, pool_size: int, scale: float) -> Tensor:
    """Return both log sums of each pool (P, 2), on a GPU or by the interpreter; all types are read as they are.

    The logits are (n,) and the target (n,); or (N, L) and the sorted positives (N, k), L where there is none. The
    weight is of the shape of the logits, with any strides, or None. A sum that is infinite sends nothing back.
    """
    return label_terms_sums(logits, target, weight, None, None, LabelSums(pool_size, scale))[0]


def indexed_label_log_sums(
    logits: Tensor, index: Tensor, weight: Tensor | None, scale: float, shift: Tensor | None = None
) -> Tensor:
    """Return both log sums of each sample (N, 2), from logits (N, L) and positives (N, k)."""
    return label_terms_sums(logits, index, weight, shift, None, LabelSums(logits.shape[1], scale))[0]


def label_terms_sums(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    shift: Tensor | None,
    ids: Tensor | None,
    asked: LabelSums,
) -> tuple[Tensor, Tensor | None]:
    """Return the same, and the residual (P, 2) or None, of everything that `pooled_label_terms` may be asked."""
    asked = asked._replace(scale=float(asked.scale))
    log_sums, residual = apply(TritonLogSums, logits, target, weight, shift, ids, *asked)
    return log_sums, residual if asked.with_residual else None


class TritonLogSums(Differentiable):
    """Both log sums of each pool (P, 2), and their residual (P, 2), (0, 2) unless it is asked for.

    Keeps four numbers a pool, and a bit a label where positives are named.
    """

    @staticmethod
    def formula(
        z: Tensor,
        target: Tensor,
        weight: Tensor | None,
        shift: Tensor | None,
        ids: Tensor | None,
        pool_size: int,
        scale: float,
        inner: str,
        span: int,
        columns: int,
        with_residual: bool,  # noqa: ARG004
    ) -> Tensor:
        """Return both log sums."""
        if z.dim() == 2:
            return reference.indexed_label_log_sums(z if shift is None else z + shift, target, weight, scale)
        z, target, weight = label_terms.reference.in_order(z, target, weight, shift, span, columns)
        if inner == "odds" and ids is None:
            return reference.label_log_sums(z, target, weight, pool_size, scale)
        return label_terms.reference.pooled_label_terms(z, target, weight, inner, pool_size, scale, ids)

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        target: Tensor,
        weight: Tensor | None,
        shift: Tensor | None,
        ids: Tensor | None,
        *constants: Any,
    ) -> tuple[Tensor, Tensor]:
        """Return the log sums and the residual."""
        log_sums, of_pools, bits, residual = label_log_sums_of_pools(z, target, weight, shift, ids, *constants)
        keep(ctx, (z, target, weight, shift, ids), constants, of_pools, bits)
        ctx.mark_non_differentiable(residual)
        return log_sums, residual

    @staticmethod
    def gradient(ctx: Any, upstream: Tensor) -> Tensor:
        """Return the gradient of z."""
        # saved_tensors complains if the logits have been changed since.
        z, target, weight, shift, ids, of_pools, bits = ctx.saved_tensors
        return label_log_sums_gradient(z, target, bits, weight, shift, ids, of_pools, upstream, *ctx.constants[:-1])


def _as_sums(
    z: Tensor,
    target: Tensor,  # noqa: ARG001
    weight: Tensor | None,  # noqa: ARG001
    shift: Tensor | None,  # noqa: ARG001
    ids: Tensor | None,
    *asked: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype, sums = compute_dtype(z), LabelSums(*asked)
    pools = sums.pools(z.numel(), ids)
    words = -(-sums.pool_size // _BITS) if z.dim() == 2 else 0
    return (
        z.new_empty(pools, 2, dtype=dtype),
        z.new_empty(pools, 4, dtype=dtype),
        z.new_empty(pools, words, dtype=torch.int32),
        z.new_empty(pools if sums.with_residual else 0, 2, dtype=dtype),
    )


@kernel_operator(_as_sums)
def label_log_sums_of_pools(
    z: Tensor,
    target: Tensor,
    weight: Tensor | None,
    shift: Tensor | None,
    ids: Tensor | None,
    pool_size: int,
    scale: float,
    inner: str,
    span: int,
    columns: int,
    with_residual: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the log sums (P, 2), the peak and the sum relative to it of each (P, 4), bits, and the residual (P, 2).

    The bits are those of named positives, (P, words), without words where each label has a value.
    """
    log_sums, of_pools, bits, residual = _as_sums(
        z, target, weight, shift, ids, pool_size, scale, inner, span, columns, with_residual
    )
    pools = len(log_sums)
    if z.dim() == 2:
        bits.zero_()
        grid = (triton.cdiv(target.numel(), _BLOCK),)
        launch(
            bits_kernel, grid, z, target.contiguous(), bits, target.numel(), target.shape[1], pool_size, bits.shape[1],
            BLOCK=_BLOCK,
        )  # fmt: skip
    if ids is not None:
        layout = _layout(triton.cdiv(z.numel(), max(pools, 1)), 1)
        _, chunk = chunks_of_pools(z.numel(), z.numel(), layout["BLOCK"], 1)
        *where, programs = chunks_of_slots(ids, pools, chunk)
        chunks, count = 1, programs
    else:
        where, layout = [None] * 4, _layout(pool_size, columns=columns > 0)
        programs = triton.cdiv(pools, layout["ROWS"])
        chunks, chunk = chunks_of_pools(pool_size, pool_size, layout["BLOCK"], programs)
        count = pools * chunks
    by_pool = count == pools and ids is None
    parts, part_sums, residuals = of_pools, log_sums, residual
    if not by_pool:
        parts, part_sums = of_pools.new_empty(count, 4), log_sums.new_empty(count if chunks == 1 else 0, 2)
        residuals = residual.new_empty(count if with_residual else 0, 2)
    tables, numbers = _labels(z, target, bits, weight, shift, pool_size, scale, span, columns)
    launch(
        sums_kernel, (programs, chunks), z, *tables, *where, z.numel(), pool_size, *numbers, parts, part_sums,
        residuals if with_residual else None, chunk, INNER=inner, NUMBER=offset_type(z.numel()), **layout,
    )  # fmt: skip
    if by_pool:
        return log_sums, of_pools, bits, residual
    if ids is not None:
        pool = where[-1].clamp(max=pools - 1)  # type: ignore[union-attr] # what is left over adds nothing
        log_sums = log_sum_exp_by(part_sums, pool, pools)
        peak = usable_peak(log_sums)
        total = (log_sums - peak).exp()
        residual = residual.zero_().index_add_(0, pool[: len(residuals)], residuals)
    else:
        parts = parts.view(pools, chunks, 4)
        peak = usable_peak(parts[:, :, ::2].amax(1))
        total = (parts[:, :, 1::2] * (parts[:, :, ::2] - peak[:, None]).exp()).sum(1)
        log_sums = log_of_sum(total) + peak
        residual = residuals.view(len(residual), chunks, 2).sum(1)
    of_pools[:, ::2], of_pools[:, 1::2] = peak, total
    return log_sums, of_pools, bits, residual


def _as_gradient(z: Tensor, *_: Any) -> Tensor:
    return like_logits(z)


@kernel_operator(_as_gradient)
def label_log_sums_gradient(
    z: Tensor,
    target: Tensor,
    bits: Tensor,
    weight: Tensor | None,
    shift: Tensor | None,
    ids: Tensor | None,
    of_pools: Tensor,
    upstream: Tensor,
    pool_size: int,
    scale: float,
    inner: str,
    span: int,
    columns: int,
) -> Tensor:
    """Return the gradient of z from the numbers of each pool, and what flows back to the log sums."""
    size = pool_size if ids is None else _BLOCK  # of pools by id, as many labels in a row as a program takes
    gradient, layout = like_logits(z), _layout(size, columns=columns > 0)
    grid = triton.cdiv(pool_count(z.numel(), size), layout["ROWS"]), triton.cdiv(size, layout["BLOCK"])
    tables, numbers = _labels(z, target, bits, weight, shift, size, scale, span, columns)
    launch(
        gradient_kernel, grid, z, *tables, None if ids is None else ids.contiguous(), z.numel(), size, *numbers,
        of_pools, upstream.contiguous(), gradient, *_strides(gradient, size, columns), INNER=inner,
        NUMBER=offset_type(z.numel()), **layout,
    )  # fmt: skip
    return gradient


def _labels(
    z: Tensor,
    target: Tensor,
    bits: Tensor,
    weight: Tensor | None,
    shift: Tensor | None,
    pool_size: int,
    scale: float,
    span: int,
    columns: int,
) -> tuple[tuple[Tensor | None, ...], tuple[float, ...]]:
    """Return the labels of a call as the kernels take them: tables, and their strides and the other numbers."""
    named = z.dim() == 2
    if target.dtype == torch.bool:
        target = target.view(torch.uint8)
    tables = z, None if named else target, bits if named else None, weight, shift
    read = (z, None if named else target), (weight,)
    strides = [[stride for table in some for stride in _strides(table, pool_size, columns)] for some in read]
    return tables, (*strides[0], bits.shape[1], *strides[1], span, 1 if shift is None else len(shift), scale)


def _strides(table: Tensor | None, pool_size: int, columns: int) -> tuple[int, ...]:
    """Return the strides of pools and of labels."""
    if table is None:
        return 0, 0
    if table.dim() == 2:
        return table.stride()
    step = table.stride(0)
    return (step, columns * step) if columns else (pool_size * step, step)


@functools.cache
def _layout(pool_size: int, most_rows: int = _TILE, columns: bool = False) -> dict[str, int]:
    """Return how many pools and how many of their labels a program takes at a time.

    Of pools side by side in columns many, since these are what lies together in memory.
    """
    block = min(triton.next_power_of_2(pool_size), _COLUMN_BLOCK if columns else _BLOCK)
    rows = min(_TILE // block, most_rows)
    return {"ROWS": rows, "BLOCK": block, "num_warps": warps_of(rows, block)}
