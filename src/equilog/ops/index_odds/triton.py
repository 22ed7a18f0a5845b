"""The log odds against a class index on a GPU: two Triton kernels, one reading of the logits each.

The first writes three numbers a set: the log odds, and the largest score and the sum of exponentials of the other
classes. The second writes the gradient from them. float16 and bfloat16 logits are widened in registers only, where
shift and scale are applied too, and nothing of the size of the logits is kept but the gradient, which gets memory of
its own: writing it over the logits would raise their version, and with it an error in whoever else had saved them for
a backward pass.
"""

# mypy: allow-untyped-calls, allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs

import functools
import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from equilog.ops.dtypes import compute_dtype
from equilog.ops.index_odds import reference
from equilog.ops.second_order import Differentiable, apply, keep
from equilog.ops.triton_rows import kernel_operator, launch, like_logits, offset_type, scores_at, subtractable

_LARGEST_BLOCK = 8192
_FEWEST_SCORES = 2048


def index_log_odds(logits: Tensor, index: Tensor, shift: Tensor | None = None, scale: float = 1.0) -> Tensor:
    """Return the log odds (n,), on a GPU or by the interpreter.

    Logits are read in their own type, with any strides. An index outside 0..C-1 reads nothing and gives NaN. The
    gradient is in the type of the logits; it is 0 where the odds are 0 or infinite, and in a set to which 0 flows back,
    whatever its scores, NaN included. NaN in a set to which something flows back stays NaN in the gradient of its set,
    but for that of the index, as by the C++ kernel.
    """
    log_odds: Tensor = apply(TritonLogOdds, logits, index, shift, scale)
    return log_odds


class TritonLogOdds(Differentiable):
    """The log odds (n,) of scores scale * (z + shift) (n, C). Keeps two numbers a set."""

    @staticmethod
    def formula(z: Tensor, index: Tensor, shift: Tensor | None, scale: float) -> Tensor:
        """Return the log odds, of an index out of range a NaN that is constant."""
        in_range = index.clamp(0, z.shape[1] - 1)
        log_odds = reference.index_log_odds(z, in_range, shift, scale)
        return torch.where(index == in_range, log_odds, torch.nan)

    @staticmethod
    def forward(ctx: Any, z: Tensor, index: Tensor, shift: Tensor | None, scale: float) -> Tensor:
        """Return the log odds."""
        log_odds, *kept = index_log_odds_of_scores(z, index, shift, scale)
        keep(ctx, (z, index, shift), (scale,), *kept)
        return log_odds

    @staticmethod
    def gradient(ctx: Any, upstream: Tensor) -> Tensor:
        """Return upstream * scale * (softmax over the others - one-hot)."""
        # saved_tensors complains if the logits have been changed since.
        z, index, shift, peaks, totals = ctx.saved_tensors
        return index_log_odds_gradient(z, index, shift, peaks, totals, upstream, None, 1, *ctx.constants)


def _per_set(z: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    shape, dtype = z.shape[:1], compute_dtype(z)
    log_odds, peaks, totals = (torch.empty(shape, dtype=dtype, device=z.device) for _ in range(3))
    return log_odds, peaks, totals


@kernel_operator(_per_set)
def index_log_odds_of_scores(
    z: Tensor, index: Tensor, shift: Tensor | None, scale: float, ignored: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log odds, the largest score and the sum of exponentials of the other classes, each (n,).

    ignored: the index of sets to leave out, whose log odds are minus infinity.
    """
    results = _per_set(z)
    layout = _layout(z.shape[1], *z.stride())
    grid = (triton.cdiv(z.shape[0], layout["ROWS"]),)
    launch(
        _log_odds_kernel, grid, z, z, index, shift, *results, *z.shape, *z.stride(), index.stride(0), scale, ignored,
        **layout,
    )  # fmt: skip
    return results


@kernel_operator(like_logits)
def index_log_odds_gradient(
    z: Tensor,
    index: Tensor,
    shift: Tensor | None,
    peaks: Tensor,
    totals: Tensor,
    upstream: Tensor,
    slopes: Tensor | None,
    pool_size: int,
    scale: float,
) -> Tensor:
    """Return the gradient of z from two numbers of each set, and what flows back to its log odds.

    That is upstream[i // pool_size] * slopes[i], the slopes 1 where there are none.
    """
    gradient = like_logits(z)
    layout = _layout(z.shape[1], *z.stride())
    launch(
        _gradient_kernel, (triton.cdiv(z.shape[0], layout["ROWS"]),), z, z, index, shift, peaks, totals, upstream,
        slopes, gradient, *z.shape, pool_size, *z.stride(), index.stride(0), upstream.stride(0), scale, **layout,
    )  # fmt: skip
    return gradient


@functools.cache
def _layout(classes: int, row_stride: int, column_stride: int) -> dict[str, Any]:
    """Return how a program takes the scores: ROWS sets and BLOCK classes at a time, the classes as columns of LANES.

    Few classes are read by few neighbouring threads that hold several of a set's classes each, so that sums over the
    classes are mostly sums within a thread.
    """
    block = min(triton.next_power_of_2(classes), _LARGEST_BLOCK)
    rows = max(1, _FEWEST_SCORES // block)
    return {
        "ROWS": rows,
        "BLOCK": block,
        "LANES": max(block // 4, min(block, 8)),
        "OFFSET": offset_type((rows - 1) * row_stride + (classes + block) * column_stride),
        "UNIT": math.gcd(16, classes, row_stride),  # so that scores in 16 bytes are read at once
        "num_warps": max(rows * block // 1024, 2) if block >= 1024 else 4,
    }


@triton.jit(do_not_specialize=["n", "ignored"])
def _log_odds_kernel(
    z, index, shift, log_odds, peaks, totals, n, classes, row_stride, column_stride, index_stride, scale: tl.float64,
    ignored, ROWS: tl.constexpr, BLOCK: tl.constexpr, LANES: tl.constexpr, OFFSET: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    classes, row_stride = classes // UNIT * UNIT, row_stride // UNIT * UNIT  # now known to be multiples
    wide = totals.dtype.element_ty
    first = tl.program_id(0).to(tl.int64) * ROWS  # a score's offset from the first may pass 2^31
    row = tl.arange(0, ROWS)
    is_row = row < n - first
    place = tl.load(index + first * index_stride + row.to(OFFSET) * index_stride, mask=is_row, other=-1)
    in_range = (place >= 0) & (place < classes)
    z += first * row_stride
    start_of_row = row.to(OFFSET) * row_stride
    chosen = scores_at(z, shift, scale, start_of_row + place * column_stride, place, in_range, in_range, wide)

    # Dimensions: classes a thread holds, sets, neighbouring threads.
    lane = (tl.arange(0, BLOCK // LANES) * LANES)[:, None, None] + tl.arange(0, LANES)[None, None, :]
    peak = tl.full((ROWS,), -float("inf"), wide)
    total = tl.zeros((ROWS,), wide)
    for start in range(0, classes, BLOCK):
        column = start + lane
        address = start_of_row[None, :, None] + column.to(OFFSET) * column_stride
        is_class = column < classes
        score = scores_at(z, shift, scale, address, column, in_range[None, :, None] & is_class, is_class, wide)
        score = tl.where(column == place.to(tl.int32)[None, :, None], -float("inf"), score)
        before = peak
        peak = tl.maximum(peak, tl.max(tl.max(score, 0), 1))
        base = subtractable(peak)
        total = total * tl.exp(before - base) + tl.sum(tl.sum(tl.exp(score - base[None, :, None]), 0), 1)

    base = subtractable(peak)
    against = tl.where(chosen == -float("inf"), float("inf"), tl.log(total) + (base - chosen))
    against = tl.where(in_range, against, float("nan"))
    if ignored is not None:
        against = tl.where(place == ignored, -float("inf"), against)
    # What the gradient is divided by: infinity sends nothing back, from odds that are 0 or infinite.
    total = tl.where(tl.abs(against) == float("inf"), float("inf"), tl.where(in_range, total, float("nan")))
    tl.store(log_odds + first + row, against, mask=is_row)
    tl.store(peaks + first + row, base, mask=is_row)
    tl.store(totals + first + row, total, mask=is_row)


@triton.jit(do_not_specialize=["n", "pool_size"])
def _gradient_kernel(
    z, index, shift, peaks, totals, upstream, slopes, gradient, n, classes, pool_size, row_stride, column_stride,
    index_stride, upstream_stride, scale: tl.float64,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, LANES: tl.constexpr, OFFSET: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    classes, row_stride = classes // UNIT * UNIT, row_stride // UNIT * UNIT  # now known to be multiples
    wide = totals.dtype.element_ty
    first = tl.program_id(0).to(tl.int64) * ROWS
    row = tl.arange(0, ROWS)
    is_row = row < n - first
    place = tl.load(index + first * index_stride + row.to(OFFSET) * index_stride, mask=is_row, other=-1)
    place = tl.where((place >= 0) & (place < classes), place, -1).to(tl.int32)
    peak = tl.load(peaks + first + row, mask=is_row, other=0.0)
    total = tl.load(totals + first + row, mask=is_row, other=1.0)
    against = tl.load(upstream + (first + row) // pool_size * upstream_stride, mask=is_row, other=0.0).to(wide)
    if slopes is not None:
        # A slope of 0 sends nothing back, whatever its pool does.
        slope_of_set = tl.load(slopes + first + row, mask=is_row, other=0.0)
        against = tl.where(slope_of_set == 0.0, 0.0, against * slope_of_set)
    reached = (against != 0.0) & (total != float("inf"))
    against *= tl.full((1,), scale, wide)
    share = against / total

    z += first * row_stride
    gradient += first * classes
    lane = (tl.arange(0, BLOCK // LANES) * LANES)[:, None, None] + tl.arange(0, LANES)[None, None, :]
    for start in range(0, classes, BLOCK):
        column = start + lane
        is_class = column < classes
        is_score = is_row[None, :, None] & is_class
        address = (row.to(OFFSET) * row_stride)[None, :, None] + column.to(OFFSET) * column_stride
        score = scores_at(z, shift, scale, address, column, is_score & reached[None, :, None], is_class, wide)
        slope = share[None, :, None] * tl.exp(score - peak[None, :, None])
        slope = tl.where(column == place[None, :, None], -against[None, :, None], slope)
        slope = tl.where(reached[None, :, None], slope, 0.0)
        address = (row * classes)[None, :, None] + column
        tl.store(gradient + address, slope.to(gradient.dtype.element_ty), mask=is_score)
