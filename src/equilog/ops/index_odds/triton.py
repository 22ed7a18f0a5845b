"""The log odds against a class index on a GPU: two Triton kernels, one reading of the logits each.

The first writes three numbers a set: the log odds, and the largest logit and the sum of exponentials of the other
classes. The second writes the gradient from them. float16 and bfloat16 logits are widened in registers
only, and nothing of the size of the logits is kept but the gradient, which gets memory of its own: writing it over the
logits would raise their version, and with it an error in whoever else had saved them for a backward pass.

With TRITON_INTERPRET=1 in the environment before triton is imported, the same kernels run on the CPU, slowly.
"""

# mypy: allow-untyped-calls, allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from equilog.ops.dtypes import compute_dtype
from equilog.ops.index_odds import reference
from equilog.ops.scores import scores_of
from equilog.ops.second_order import differentiated, is_differentiated_again

_LARGEST_BLOCK = 8192
_FEWEST_SCORES = 2048


def index_log_odds(logits: Tensor, index: Tensor, shift: Tensor | None = None, scale: float = 1.0) -> Tensor:
    """Return the log odds (n,), on a GPU or by the interpreter.

    Logits without shift and scale are read in their own type, with any strides. An index outside 0..C-1 reads nothing
    and gives NaN. The gradient is in the type of the logits; it is 0 where the odds are 0 or infinite, and in a set to
    which 0 flows back, whatever its scores, NaN included.
    """
    z = logits if shift is None and scale == 1.0 else scores_of(logits, shift, scale)
    log_odds: Tensor = _log_odds(z, index)[0]
    return log_odds


@torch.library.custom_op("equilog::index_log_odds", mutates_args=())
def _log_odds(z: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    results = _per_set(z)
    if z.shape[0] > 0:
        with torch.cuda.device_of(z):
            _log_odds_kernel[_grid](z, index, *results, *z.shape, *z.stride(), index.stride(0), **_layout(z))
    return results


@torch.library.custom_op("equilog::index_log_odds_gradient", mutates_args=())
def _gradient(z: Tensor, index: Tensor, peaks: Tensor, totals: Tensor, upstream: Tensor) -> Tensor:
    gradient = _like(z)
    if z.shape[0] > 0:
        strides = *z.stride(), index.stride(0), upstream.stride(0)
        with torch.cuda.device_of(z):
            _gradient_kernel[_grid](z, index, peaks, totals, upstream, gradient, *z.shape, *strides, **_layout(z))
    return gradient


def _save(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, peaks, totals = output
    ctx.mark_non_differentiable(peaks, totals)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs, peaks, totals)


def _backward(ctx: Any, upstream: Tensor | None, *_: None) -> tuple[Tensor | None, None]:
    if upstream is None:
        return None, None
    z, index, peaks, totals = ctx.saved_tensors
    if not is_differentiated_again(upstream):
        return _gradient(z, index, peaks, totals, upstream), None
    in_range = index.clamp(0, z.shape[1] - 1)
    upstream = torch.where((upstream != 0) & (index != in_range), torch.nan, upstream)
    return differentiated(reference.index_log_odds, (z, in_range), upstream), None


def _like(z: Tensor) -> Tensor:
    return torch.empty(z.shape, dtype=z.dtype, device=z.device)


def _per_set(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    shape, dtype = z.shape[:1], compute_dtype(z)
    log_odds, peaks, totals = (torch.empty(shape, dtype=dtype, device=z.device) for _ in range(3))
    return log_odds, peaks, totals


_log_odds.register_fake(lambda z, _: _per_set(z))
_log_odds.register_autograd(_backward, setup_context=_save)
_gradient.register_fake(lambda z, *_: _like(z))


def _layout(z: Tensor) -> dict[str, Any]:
    """Return how a program takes the scores: ROWS sets and BLOCK classes at a time, the classes as columns of LANES.

    Few classes are read by few neighbouring threads that hold several of a set's classes each, so that sums over the
    classes are mostly sums within a thread.
    """
    classes = z.shape[1]
    block = min(triton.next_power_of_2(classes), _LARGEST_BLOCK)
    rows = max(1, _FEWEST_SCORES // block)
    reach = (rows - 1) * z.stride(0) + (classes + block) * z.stride(1)  # of the offsets within one program
    return {
        "ROWS": rows,
        "BLOCK": block,
        "LANES": max(block // 4, min(block, 8)),
        "OFFSET": tl.int32 if reach < 2**31 else tl.int64,
        "UNIT": math.gcd(16, classes, z.stride(0)),  # so that scores in 16 bytes are read at once
        "num_warps": max(rows * block // 1024, 2) if block >= 1024 else 4,
    }


def _grid(arguments: dict[str, Any]) -> tuple[int]:
    return (triton.cdiv(arguments["n"], arguments["ROWS"]),)


@triton.jit
def _log_odds_kernel(
    z, index, log_odds, peaks, totals, n, classes, row_stride, column_stride, index_stride,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, LANES: tl.constexpr, OFFSET: tl.constexpr, UNIT: tl.constexpr,
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
    chosen = tl.load(z + start_of_row + place * column_stride, mask=in_range, other=float("nan")).to(wide)

    # Dimensions: classes a thread holds, sets, neighbouring threads.
    lane = (tl.arange(0, BLOCK // LANES) * LANES)[:, None, None] + tl.arange(0, LANES)[None, None, :]
    peak = tl.full((ROWS,), -float("inf"), wide)
    total = tl.zeros((ROWS,), wide)
    for start in range(0, classes, BLOCK):
        column = start + lane
        address = start_of_row[None, :, None] + column.to(OFFSET) * column_stride
        score = tl.load(z + address, mask=in_range[None, :, None] & (column < classes), other=-float("inf")).to(wide)
        score = tl.where(column == place.to(tl.int32)[None, :, None], -float("inf"), score)
        before = peak
        peak = tl.maximum(peak, tl.max(tl.max(score, 0), 1))
        base = subtractable(peak)
        total = total * tl.exp(before - base) + tl.sum(tl.sum(tl.exp(score - base[None, :, None]), 0), 1)

    base = subtractable(peak)
    against = tl.where(chosen == -float("inf"), float("inf"), tl.log(total) + (base - chosen))
    # What the gradient is divided by: infinity sends nothing back, from odds that are 0 or infinite.
    total = tl.where(tl.abs(against) == float("inf"), float("inf"), tl.where(in_range, total, float("nan")))
    tl.store(log_odds + first + row, against, mask=is_row)
    tl.store(peaks + first + row, base, mask=is_row)
    tl.store(totals + first + row, total, mask=is_row)


@triton.jit
def _gradient_kernel(
    z, index, peaks, totals, upstream, gradient, n, classes, row_stride, column_stride, index_stride, upstream_stride,
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
    upstream += first * upstream_stride
    against = tl.load(upstream + row.to(OFFSET) * upstream_stride, mask=is_row, other=0.0).to(wide)
    reached = (against != 0.0) & (total != float("inf"))
    share = against / total

    z += first * row_stride
    gradient += first * classes
    lane = (tl.arange(0, BLOCK // LANES) * LANES)[:, None, None] + tl.arange(0, LANES)[None, None, :]
    for start in range(0, classes, BLOCK):
        column = start + lane
        is_score = is_row[None, :, None] & (column < classes)
        address = (row.to(OFFSET) * row_stride)[None, :, None] + column.to(OFFSET) * column_stride
        score = tl.load(z + address, mask=is_score & reached[None, :, None], other=-float("inf")).to(wide)
        slope = share[None, :, None] * tl.exp(score - peak[None, :, None])
        slope = tl.where(column == place[None, :, None], -against[None, :, None], slope)
        slope = tl.where(reached[None, :, None], slope, 0.0)
        address = (row * classes)[None, :, None] + column
        tl.store(gradient + address, slope.to(gradient.dtype.element_ty), mask=is_score)


@triton.jit
def subtractable(peak):
    """Keep what can be subtracted; infinities and NaN then go their chosen way through exp."""
    return tl.where(tl.abs(peak) < float("inf"), peak, 0.0)
