"""The pairwise terms of index targets, summed over pools on a GPU: the logits are read once a direction.

A slot is a pool and an index, whose sets a program sums up in registers, a chunk at most. Nothing is made of the
logits' size but the gradient, where the sums are not of that size themselves.
"""

# mypy: allow-untyped-calls, allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from equilog.ops.dtypes import compute_dtype
from equilog.ops.logspace import log_of_sum
from equilog.ops.pair_sums import reference
from equilog.ops.second_order import Differentiable, apply, keep
from equilog.ops.triton_rows import kernel_operator, launch, like_logits, scores_at, subtractable, warps_of
from equilog.ops.triton_slots import chunk_at, chunks_of_slots

_BLOCK = 1024
_TILE = 2048
_PROGRAMS = 1024
_FEWEST_SETS = 64


def pooled_pair_log_sums(
    logits: Tensor,
    index: Tensor,
    log_weight: Tensor,
    pool_size: int,
    shift: Tensor | None,
    scale: float,
    ids: Tensor | None = None,
) -> Tensor:
    """Return the log sums (P, C * C), on a GPU or by the interpreter; logits of any type are read in their own.

    A sum that is infinite sends nothing back.
    """
    slot, pools = reference.slots_of(index, logits.shape[1], pool_size, ids)
    fits_a_chunk = ids is None and min(len(index), pool_size) <= _most_sets(len(index))
    log_sums: Tensor = apply(TritonPairSums, logits, slot, log_weight, shift, pools, fits_a_chunk, float(scale))
    return log_sums


class TritonPairSums(Differentiable):
    """The log sums (P, C * C) of scores scale * (z + shift) (n, C). Keeps the peak and the total of each."""

    @staticmethod
    def formula(
        z: Tensor,
        slot: Tensor,
        log_weight: Tensor,
        shift: Tensor | None,
        pools: int,
        fits_a_chunk: bool,  # noqa: ARG004
        scale: float,
    ) -> Tensor:
        """Return the log sums."""
        return reference.log_sums_of_slots(z, slot, log_weight, pools, shift, scale)

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        slot: Tensor,
        log_weight: Tensor,
        shift: Tensor | None,
        pools: int,
        fits_a_chunk: bool,
        scale: float,
    ) -> Tensor:
        """Return the log sums."""
        tensors, constants = (z, slot, log_weight, shift), (pools, fits_a_chunk, scale)
        log_sums, *kept = pair_log_sums_of_pools(*tensors, *constants)
        keep(ctx, tensors, constants, *kept)
        return log_sums

    @staticmethod
    def gradient(ctx: Any, upstream: Tensor) -> Tensor:
        """Return the gradient of z."""
        # saved_tensors complains if the logits have been changed since.
        z, slot, log_weight, shift, peaks, totals = ctx.saved_tensors
        return pair_log_sums_gradient(z, slot, log_weight, shift, peaks, totals, upstream, ctx.constants[-1])


def _as_sums(
    z: Tensor,
    slot: Tensor,  # noqa: ARG001
    log_weight: Tensor,  # noqa: ARG001
    shift: Tensor | None,  # noqa: ARG001
    pools: int,
    fits_a_chunk: bool,  # noqa: ARG001
    scale: float,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor]:
    classes, dtype = z.shape[1], compute_dtype(z)
    peaks, totals = (z.new_empty(pools * classes, classes, dtype=dtype) for _ in range(2))
    return z.new_empty(pools, classes * classes, dtype=dtype), peaks, totals


@kernel_operator(_as_sums)
def pair_log_sums_of_pools(
    z: Tensor,
    slot: Tensor,
    log_weight: Tensor,
    shift: Tensor | None,
    pools: int,
    fits_a_chunk: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log sums (P, C * C), and of each its peak and its sum relative to that (P * C, C).

    Where the sets of every slot (n,) fit a chunk, chunks are slots, and there is nothing to add up.
    """
    n, classes = z.shape
    slots, most, layout = pools * classes, _most_sets(n), layout_of(classes)
    *where, chunks = chunks_of_slots(slot, slots, most, always=not fits_a_chunk)
    peaks, totals = (z.new_empty(chunks, classes, dtype=compute_dtype(z)) for _ in range(2))
    blocks = triton.cdiv(classes, layout["BLOCK"])
    launch(
        _sums_kernel, (chunks, blocks), z, z, log_weight.contiguous(), shift, *where, peaks, totals, slots, classes,
        most, *z.stride(), scale, **layout,
    )  # fmt: skip
    first_chunks = where[2]
    if first_chunks is not None:
        parts = peaks, totals
        peaks, totals = (z.new_empty(slots, classes, dtype=peaks.dtype) for _ in range(2))
        launch(
            _together_kernel, (slots, blocks), z, *parts, first_chunks, peaks, totals, classes, BLOCK=layout["BLOCK"]
        )
    return (log_of_sum(totals) + peaks).view(pools, classes * classes), peaks, totals


@kernel_operator(like_logits)
def pair_log_sums_gradient(
    z: Tensor,
    slot: Tensor,
    log_weight: Tensor,
    shift: Tensor | None,
    peaks: Tensor,
    totals: Tensor,
    upstream: Tensor,
    scale: float,
) -> Tensor:
    """Return the gradient of z from the peaks and totals of the sums, and what flows back to their logs."""
    gradient, layout = like_logits(z), layout_of(z.shape[1])
    factors = upstream.reshape(totals.shape) / totals
    factors = factors.masked_fill_((totals == 0) | (totals == torch.inf), 0.0)
    launch(
        gradient_kernel, (triton.cdiv(z.shape[0], layout["ROWS"]),), z, z, slot, None, log_weight.contiguous(), shift,
        peaks, factors, gradient, *z.shape, z.shape[1], *z.stride(), slot.stride(0), scale, **layout,
    )  # fmt: skip
    return gradient


def _most_sets(n: int) -> int:
    """Return how many sets a program takes at most, of n."""
    return max(-(-n // _PROGRAMS), _FEWEST_SETS)


@functools.cache
def layout_of(classes: int) -> dict[str, int]:
    """Return how many sets and classes a program takes at a time."""
    block = min(triton.next_power_of_2(classes), _BLOCK)
    rows = max(_TILE // block, 1)
    return {"ROWS": rows, "BLOCK": block, "num_warps": warps_of(rows, block)}


@triton.jit(do_not_specialize=["slots", "most"])
def _sums_kernel(
    z, log_weight, shift, order, starts, first_chunks, slot_of_chunk, peaks, totals, slots, classes, most, row_stride,
    column_stride, scale: tl.float64, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    wide = totals.dtype.element_ty
    chunk = tl.program_id(0).to(tl.int64)
    slot, begin, end = chunk_at(chunk, starts, first_chunks, slot_of_chunk, slots, most)
    place = slot % classes + tl.zeros((ROWS, 1), tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    is_class = column < classes
    peak, total = tl.full((1, BLOCK), -float("inf"), wide), tl.zeros((1, BLOCK), wide)
    for first in range(begin, end, ROWS):
        at = first + tl.arange(0, ROWS)[:, None]
        row = tl.load(order + at, mask=at < end, other=0)
        term = terms_at(
            z, log_weight, shift, scale, row, at < end, place, column, is_class, row_stride, column_stride, wide
        )
        before = peak
        peak = tl.maximum(peak, tl.max(term, 0)[None, :])
        base = subtractable(peak)
        total = total * tl.exp(before - base) + tl.sum(tl.exp(term - base), 0)[None, :]
    tl.store(peaks + chunk * classes + column, subtractable(peak), mask=is_class)
    tl.store(totals + chunk * classes + column, total, mask=is_class)


@triton.jit
def _together_kernel(part_peaks, part_totals, first_chunks, peaks, totals, classes, BLOCK: tl.constexpr):
    wide = totals.dtype.element_ty
    slot = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_class = column < classes
    peak, total = tl.full((BLOCK,), -float("inf"), wide), tl.zeros((BLOCK,), wide)
    for chunk in range(tl.load(first_chunks + slot), tl.load(first_chunks + slot + 1)):
        part = tl.load(part_totals + chunk * classes + column, mask=is_class, other=0.0)
        of_part = tl.load(part_peaks + chunk * classes + column, mask=is_class, other=0.0)
        of_part = tl.where(part == 0.0, -float("inf"), of_part)
        before = peak
        peak = tl.maximum(peak, of_part)
        base = subtractable(peak)
        total = total * tl.exp(before - base) + part * tl.exp(of_part - base)
    tl.store(peaks + slot * classes + column, subtractable(peak), mask=is_class)
    tl.store(totals + slot * classes + column, total, mask=is_class)


@triton.jit(do_not_specialize=["n"])
def gradient_kernel(
    z, slot, block, log_weight, shift, peaks, factors, gradient, n, classes, groups, row_stride, column_stride,
    slot_stride, scale: tl.float64, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the gradient of a few sets, from sums by slot and class; or by set and block of classes, of slots that are
    indices."""
    wide = peaks.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    is_row = row < n
    slot = tl.load(slot + row * slot_stride, mask=is_row, other=0)
    place = slot % classes
    if block is not None:
        slot = row
    sent = tl.zeros((ROWS, 1), wide)
    for start in range(0, classes, BLOCK):
        column = start + tl.arange(0, BLOCK)[None, :]
        is_class = column < classes
        term = terms_at(
            z, log_weight, shift, scale, row, is_row, place, column, is_class, row_stride, column_stride, wide
        )
        group = column
        if block is not None:
            group = tl.load(block + column, mask=is_class, other=0)
        factor = tl.load(factors + slot * groups + group, mask=is_row & is_class, other=0.0)
        peak = tl.load(peaks + slot * groups + group, mask=is_row & is_class, other=0.0)
        nothing = (factor == 0.0) | (tl.abs(term) == float("inf"))
        slope = tl.where(nothing, 0.0, factor * tl.exp(term - peak)) * tl.full((1, 1), scale, wide)
        sent += tl.sum(slope, 1)[:, None]
        at = gradient + row * classes + column
        tl.store(at, slope.to(gradient.dtype.element_ty), mask=is_row & is_class & (column != place))
    tl.store(gradient + row * classes + place, (-sent).to(gradient.dtype.element_ty), mask=is_row)


@triton.jit
def terms_at(
    z, log_weight, shift, scale, row, is_row, place, column, is_class, row_stride, column_stride, wide: tl.constexpr
):
    """Return the logs of weighted pairwise terms, minus infinity of the class itself; what is left out is not read."""
    weight = tl.load(log_weight + row, mask=is_row, other=-float("inf"))
    counts = weight != -float("inf")
    chosen = scores_at(z, shift, scale, row * row_stride + place * column_stride, place, counts, counts, wide)
    score = scores_at(
        z, shift, scale, row * row_stride + column * column_stride, column, counts & is_class, is_class, wide
    )
    term = tl.where(chosen == -float("inf"), float("inf"), score - chosen) + weight
    return tl.where(counts & is_class & (column != place), term, -float("inf"))
