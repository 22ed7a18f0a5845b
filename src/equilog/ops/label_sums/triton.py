"""The positive and negative sums of pools of labels on a GPU: logits and targets are read once a direction.

Each sum is kept relative to its peak. A long pool is cut into chunks, whose sums torch adds up. Positives that are
named become a table of one bit a label, a sixteenth of bfloat16 logits or less, so that no label is compared with all
of its sample's positives.
"""

# mypy: allow-untyped-calls, allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from equilog.ops.consecutive import pool_count
from equilog.ops.dtypes import compute_dtype
from equilog.ops.label_sums import reference
from equilog.ops.logspace import log_of_sum, usable_peak
from equilog.ops.second_order import Differentiable, apply, keep
from equilog.ops.triton_rows import chunks_of_pools, kernel_operator, launch, like_logits, subtractable, warps_of

_BLOCK = 1024
_TILE = 2048
_BITS = 32


def label_log_sums(logits: Tensor, target: Tensor, weight: Tensor | None, pool_size: int, scale: float) -> Tensor:
    """Return both log sums of each pool (P, 2), on a GPU or by the interpreter; all types are read as they are.

    The logits are (n,) and the target (n,); or (N, L) and the sorted positives (N, k), L where there is none. The
    weight is of the shape of the logits, with any strides, or None. A sum that is infinite sends nothing back.
    """
    log_sums: Tensor = apply(TritonLogSums, logits, target, weight, pool_size, float(scale))
    return log_sums


def indexed_label_log_sums(logits: Tensor, index: Tensor, weight: Tensor | None, scale: float) -> Tensor:
    """Return both log sums of each sample (N, 2), from logits (N, L) and positives (N, k)."""
    return label_log_sums(logits, index, weight, logits.shape[1], scale)


class TritonLogSums(Differentiable):
    """Both log sums of each pool (P, 2). Keeps four numbers a pool, and a bit a label where positives are named."""

    @staticmethod
    def formula(z: Tensor, target: Tensor, weight: Tensor | None, pool_size: int, scale: float) -> Tensor:
        """Return both log sums."""
        if z.dim() == 2:
            return reference.indexed_label_log_sums(z, target, weight, scale)
        return reference.label_log_sums(z, target, weight, pool_size, scale)

    @staticmethod
    def forward(ctx: Any, z: Tensor, target: Tensor, weight: Tensor | None, pool_size: int, scale: float) -> Tensor:
        """Return the log sums."""
        log_sums, of_pools, bits = label_log_sums_of_pools(z, target, weight, pool_size, scale)
        keep(ctx, (z, target, weight), (pool_size, scale), of_pools, bits)
        return log_sums

    @staticmethod
    def gradient(ctx: Any, upstream: Tensor) -> Tensor:
        """Return the gradient of z."""
        # saved_tensors complains if the logits have been changed since.
        z, target, weight, of_pools, bits = ctx.saved_tensors
        gradient: Tensor = label_log_sums_gradient(z, target, bits, weight, of_pools, upstream, *ctx.constants)
        return gradient


def _as_sums(
    z: Tensor,
    target: Tensor,  # noqa: ARG001
    weight: Tensor | None,  # noqa: ARG001
    pool_size: int,
    scale: float,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor]:
    dtype, pools = compute_dtype(z), pool_count(z.numel(), pool_size)
    words = -(-pool_size // _BITS) if z.dim() == 2 else 0
    return (
        z.new_empty(pools, 2, dtype=dtype),
        z.new_empty(pools, 4, dtype=dtype),
        z.new_empty(pools, words, dtype=torch.int32),
    )


@kernel_operator(_as_sums)
def label_log_sums_of_pools(
    z: Tensor, target: Tensor, weight: Tensor | None, pool_size: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log sums (P, 2), the peak and the sum relative to it of each (P, 4), and the bits of named positives.

    These are (P, words), without words where each label has a value.
    """
    log_sums, of_pools, bits = _as_sums(z, target, weight, pool_size, scale)
    if z.dim() == 2:
        bits.zero_()
        grid = (triton.cdiv(target.numel(), _BLOCK),)
        launch(
            _bits_kernel, grid, z, target.contiguous(), bits, target.numel(), target.shape[1], pool_size, bits.shape[1],
            BLOCK=_BLOCK,
        )  # fmt: skip
    args, layout = _labels(z, target, bits, weight, pool_size, scale), _layout(pool_size)
    pools = len(log_sums)
    programs = triton.cdiv(pools, layout["ROWS"])
    chunks, chunk = chunks_of_pools(pool_size, pool_size, layout["BLOCK"], programs)
    parts = of_pools if chunks == 1 else of_pools.new_empty(pools, chunks, 4)
    launch(_sums_kernel, (programs, chunks), z, *args, parts, log_sums, chunk, **layout)
    if chunks == 1:
        return log_sums, of_pools, bits
    peak = usable_peak(parts[:, :, ::2].amax(1))
    total = (parts[:, :, 1::2] * (parts[:, :, ::2] - peak[:, None]).exp()).sum(1)
    of_pools[:, ::2], of_pools[:, 1::2] = peak, total
    return log_of_sum(total) + peak, of_pools, bits


def _as_gradient(z: Tensor, *_: Any) -> Tensor:
    return like_logits(z)


@kernel_operator(_as_gradient)
def label_log_sums_gradient(
    z: Tensor,
    target: Tensor,
    bits: Tensor,
    weight: Tensor | None,
    of_pools: Tensor,
    upstream: Tensor,
    pool_size: int,
    scale: float,
) -> Tensor:
    """Return the gradient of z from the numbers of each pool, and what flows back to the log sums."""
    gradient, layout = like_logits(z), _layout(pool_size)
    grid = triton.cdiv(len(of_pools), layout["ROWS"]), triton.cdiv(pool_size, layout["BLOCK"])
    args = _labels(z, target, bits, weight, pool_size, scale)
    launch(_gradient_kernel, grid, z, *args, of_pools, upstream.contiguous(), gradient, **layout)
    return gradient


def _labels(
    z: Tensor, target: Tensor, bits: Tensor, weight: Tensor | None, pool_size: int, scale: float
) -> tuple[Any, ...]:
    """Return the labels of a call as the kernels take them."""
    named = z.dim() == 2
    if target.dtype == torch.bool:
        target = target.view(torch.uint8)
    tables = z, None if named else target, bits if named else None, weight
    strides = (*_strides(z, pool_size), *((0, 0) if named else _strides(target, pool_size)), bits.shape[1])
    return *tables, z.numel(), pool_size, *strides, *((0, 0) if weight is None else _strides(weight, pool_size)), scale


def _strides(table: Tensor, pool_size: int) -> tuple[int, int]:
    """Return the strides of pools and of labels."""
    return table.stride() if table.dim() == 2 else (pool_size * table.stride(0), table.stride(0))  # type: ignore[return-value]


@functools.cache
def _layout(pool_size: int) -> dict[str, int]:
    """Return how many pools and how many of their labels a program takes at a time."""
    block = min(triton.next_power_of_2(pool_size), _BLOCK)
    rows = _TILE // block
    return {"ROWS": rows, "BLOCK": block, "num_warps": warps_of(rows, block)}


@triton.jit(do_not_specialize=["n"])
def _bits_kernel(index, bits, n, most, labels, words, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    label = tl.load(index + place, mask=place < n, other=labels)
    bit = tl.full((BLOCK,), 1, tl.int32) << (label % 32).to(tl.int32)
    tl.atomic_or(bits + place // most * words + label // 32, bit, mask=(label >= 0) & (label < labels))


@triton.jit
def _shares(
    z, target, bits, weight, pool, label, is_label, pool_stride, label_stride, target_pool, target_label, words,
    weight_pool, weight_label, scale, wide: tl.constexpr,
):  # fmt: skip
    """Return scaled logits, and the factors v t and v (1 - t); what is left out is not read."""
    share = tl.full((1, 1), 1.0, wide)
    if weight is not None:
        share = tl.load(weight + pool * weight_pool + label * weight_label, mask=is_label, other=0.0).to(wide)
    used = is_label & (share != 0.0)
    x = tl.load(z + pool * pool_stride + label * label_stride, mask=used, other=0.0).to(wide)
    if bits is not None:
        word = tl.load(bits + pool * words + label // 32, mask=used, other=0)
        positive = ((word >> (label % 32).to(tl.int32)) & 1).to(wide)
    else:
        positive = tl.load(target + pool * target_pool + label * target_label, mask=used, other=0).to(wide)
    yes, no = tl.where(used, share * positive, 0.0), tl.where(used, share * (1.0 - positive), 0.0)
    return x * tl.full((1, 1), scale, wide), yes, no, used


@triton.jit
def _added(share, exponent, peak, total):
    """Return peak and sum of rows (ROWS, 1) with a block of shares times exponentials more; a share of 0 adds none."""
    exponent = tl.where(share == 0.0, -float("inf"), exponent)
    before = peak
    peak = tl.maximum(peak, tl.max(exponent, 1)[:, None])
    base = subtractable(peak)
    return peak, total * tl.exp(before - base) + tl.sum(share * tl.exp(exponent - base), 1)[:, None]


@triton.jit(do_not_specialize=["n", "chunk"])
def _sums_kernel(
    z, target, bits, weight, n, size, pool_stride, label_stride, target_pool, target_label, words, weight_pool,
    weight_label, scale: tl.float64, of_pools, log_sums, chunk, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    wide = of_pools.dtype.element_ty
    pool = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    begin = tl.program_id(1).to(tl.int64) * chunk
    yes_peak, yes_total = tl.full((ROWS, 1), -float("inf"), wide), tl.zeros((ROWS, 1), wide)
    no_peak, no_total = yes_peak, yes_total
    for start in range(begin, tl.minimum(begin + chunk, size), BLOCK):
        label = start + tl.arange(0, BLOCK)[None, :]
        is_label = (label < size) & (pool * size + label < n)
        x, yes, no, _ = _shares(
            z, target, bits, weight, pool, label, is_label, pool_stride, label_stride, target_pool, target_label, words,
            weight_pool, weight_label, scale, wide,
        )  # fmt: skip
        yes_peak, yes_total = _added(yes, -x, yes_peak, yes_total)
        no_peak, no_total = _added(no, x, no_peak, no_total)
    is_pool = pool * size < n
    part = of_pools + (pool * tl.num_programs(1) + tl.program_id(1)) * 4
    yes_base, no_base = subtractable(yes_peak), subtractable(no_peak)
    tl.store(part, yes_base, mask=is_pool)
    tl.store(part + 1, yes_total, mask=is_pool)
    tl.store(part + 2, no_base, mask=is_pool)
    tl.store(part + 3, no_total, mask=is_pool)
    if tl.num_programs(1) == 1:
        tl.store(log_sums + pool * 2, tl.log(yes_total) + yes_base, mask=is_pool)
        tl.store(log_sums + pool * 2 + 1, tl.log(no_total) + no_base, mask=is_pool)


@triton.jit(do_not_specialize=["n"])
def _gradient_kernel(
    z, target, bits, weight, n, size, pool_stride, label_stride, target_pool, target_label, words, weight_pool,
    weight_label, scale: tl.float64, of_pools, upstream, gradient, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    wide = of_pools.dtype.element_ty
    pool = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    label = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[None, :]
    is_label = (label < size) & (pool * size + label < n)
    x, yes, no, used = _shares(
        z, target, bits, weight, pool, label, is_label, pool_stride, label_stride, target_pool, target_label, words,
        weight_pool, weight_label, scale, wide,
    )  # fmt: skip
    is_pool = pool * size < n
    slope = _part(no, x, of_pools + pool * 4 + 2, upstream + pool * 2 + 1, is_pool)
    slope -= _part(yes, -x, of_pools + pool * 4, upstream + pool * 2, is_pool)
    slope = tl.where(used, slope * tl.full((1, 1), scale, wide), 0.0)
    tl.store(gradient + pool * size + label, slope.to(gradient.dtype.element_ty), mask=is_label)


@triton.jit
def _part(share, exponent, of_sum, upstream, is_pool):
    """Return upstream * share * exp(exponent) over the sum, 0 where there is no share or nothing flows back."""
    peak = tl.load(of_sum, mask=is_pool, other=0.0)
    total = tl.load(of_sum + 1, mask=is_pool, other=1.0)
    reaching = tl.load(upstream, mask=is_pool, other=0.0).to(peak.dtype)
    nothing = (share == 0.0) | (reaching == 0.0) | (total == float("inf"))
    return tl.where(nothing, 0.0, share * (reaching / total) * tl.exp(exponent - peak))
