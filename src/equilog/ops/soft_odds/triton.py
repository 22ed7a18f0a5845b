"""The odds against every class, summed over pools on a GPU: nothing of the logits' size is made but the gradient.

A program takes some rows of one pool and keeps the sum of each class, relative to its peak, in registers. Up to
`_WHOLE` classes a row is held whole, and logits and targets are read once a direction. Of more classes the numbers of
each set (its largest score, and the others' exponentials) are found in a reading of their own, and in the gradient the
sum over a row.

With q_k = u_k a_k / (1 - p_k), where a_k is the share of the set in the sum of class k and u_k what flows back to its
log, the gradient of score l is p_l sum_k q_k - q_l. The largest class is kept apart, where 1 - p may be lost in p:
its (1 - p) q is u a. Other inner terms than the odds have a factor more in q, their steepness.
"""

# mypy: allow-untyped-calls, allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs

import functools
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from equilog.ops.consecutive import pool_count
from equilog.ops.dtypes import compute_dtype
from equilog.ops.scores import scores_of
from equilog.ops.second_order import Differentiable, apply, keep
from equilog.ops.soft_odds import reference
from equilog.ops.triton_rows import (
    chunks_of_pools,
    kernel_operator,
    launch,
    like_logits,
    log_one_plus,
    offset_type,
    scores_at,
    subtractable,
    warps_of,
)

_WHOLE = 4096
"""Classes of a row that a program holds."""
_TILE = 2048
"""Scores that a program holds where a row is not whole, or several rows are."""
_BLOCK = 1024


def pooled_class_log_odds(
    logits: Tensor,
    target: Tensor,
    log_weight: Tensor,
    pool_size: int,
    with_residual: bool,
    shift: Tensor | None,
    scale: float,
    inner: str = "odds",
) -> tuple[Tensor, Tensor | None]:
    """Return the log sums (P, C), and the residual (P, C) or None, on a GPU or by the interpreter.

    Logits and targets of any floating type are read in their own. A class whose sum is infinite sends nothing back.
    """
    log_sums, residual = apply(
        TritonLogOddsSums, logits, target, log_weight, shift, pool_size, with_residual, float(scale), inner
    )
    return log_sums, residual if with_residual else None


class TritonLogOddsSums(Differentiable):
    """The log sums (P, C), and the residual (P, C), (0, C) unless it is asked for. Keeps three numbers a set."""

    @staticmethod
    def formula(
        z: Tensor,
        target: Tensor,
        log_weight: Tensor,
        shift: Tensor | None,
        pool_size: int,
        with_residual: bool,  # noqa: ARG004
        scale: float,
        inner: str,
    ) -> Tensor:
        """Return the log sums."""
        scores = scores_of(z, shift, scale)
        return reference.log_sums(scores, target.to(scores.dtype), log_weight, pool_size, inner)

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        target: Tensor,
        log_weight: Tensor,
        shift: Tensor | None,
        pool_size: int,
        with_residual: bool,
        scale: float,
        inner: str,
    ) -> tuple[Tensor, Tensor]:
        """Return the log sums and the residual."""
        args = z, target, log_weight, shift, pool_size, with_residual, scale, inner
        log_sums, of_sets, residual = class_log_odds_sums(*args)
        keep(ctx, args[:4], args[4:], log_sums, of_sets)
        ctx.mark_non_differentiable(residual)
        return log_sums, residual

    @staticmethod
    def gradient(ctx: Any, upstream: Tensor) -> Tensor:
        """Return the gradient of z."""
        # saved_tensors complains if the logits have been changed since.
        z, target, log_weight, shift, log_sums, of_sets = ctx.saved_tensors
        pool_size, _, scale, inner = ctx.constants
        return class_log_odds_sums_gradient(
            z, target, log_weight, shift, log_sums, of_sets, upstream, pool_size, scale, inner
        )


def _as_sums(
    z: Tensor,
    target: Tensor,  # noqa: ARG001
    log_weight: Tensor,  # noqa: ARG001
    shift: Tensor | None,  # noqa: ARG001
    pool_size: int,
    with_residual: bool,
    scale: float,  # noqa: ARG001
    inner: str,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor]:
    dtype, (sets, classes) = compute_dtype(z), z.shape
    pools = pool_count(sets, pool_size)
    return (
        z.new_empty(pools, classes, dtype=dtype),
        z.new_empty(4, sets, dtype=dtype),
        z.new_empty(pools if with_residual else 0, classes, dtype=dtype),
    )


@kernel_operator(_as_sums)
def class_log_odds_sums(
    z: Tensor,
    target: Tensor,
    log_weight: Tensor,
    shift: Tensor | None,
    pool_size: int,
    with_residual: bool,
    scale: float,
    inner: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log sums (P, C), four numbers of each set (4, n), and the residual (P, C).

    The numbers are the largest score; the peak of the others, and their exponentials' sum relative to it; and where
    there is a residual the sum of the targets' roots.
    """
    log_sums, of_sets, residual = _as_sums(z, target, log_weight, shift, pool_size, with_residual, scale, inner)
    n, classes = z.shape
    layout = _layout(classes, pool_size, *_largest_strides(z, target))
    rows, blocks = layout["ROWS"], triton.cdiv(classes, layout["BLOCK"])
    tables = z, target, log_weight.contiguous(), shift, of_sets
    strides = *z.stride(), *target.stride(), scale
    options = layout | {"RESIDUAL": with_residual, "INNER": inner}
    if not options["WHOLE"]:
        without = {name: value for name, value in options.items() if name not in ("WHOLE", "INNER")}
        launch(_sets_kernel, (triton.cdiv(n, rows),), z, *tables, n, classes, *strides, **without)
    pools, (chunks, chunk) = len(log_sums), chunks_of_pools(n, pool_size, rows, blocks)
    parts, residuals = log_sums, residual
    if chunks > 1:
        parts, residuals = (table.new_empty(len(table), chunks, classes) for table in (log_sums, residual))
    launch(
        _sums_kernel, (pools * chunks, blocks), z, *tables, parts, residuals, n, classes, pool_size, *strides, chunks,
        chunk, **options,
    )  # fmt: skip
    return (parts.logsumexp(1), of_sets, residuals.sum(1)) if chunks > 1 else (parts, of_sets, residuals)


@kernel_operator(like_logits)
def class_log_odds_sums_gradient(
    z: Tensor,
    target: Tensor,
    log_weight: Tensor,
    shift: Tensor | None,
    log_sums: Tensor,
    of_sets: Tensor,
    upstream: Tensor,
    pool_size: int,
    scale: float,
    inner: str,
) -> Tensor:
    """Return the gradient of z from the numbers of each set, and what flows back to the log sums."""
    gradient, (n, classes) = like_logits(z), z.shape
    layout = _layout(classes, pool_size, *_largest_strides(z, target))
    chunks = triton.cdiv(min(n, pool_size), layout["ROWS"])
    launch(
        _gradient_kernel, (len(log_sums) * chunks,), z, z, target, log_weight.contiguous(), shift, of_sets,
        log_sums.contiguous(), upstream.contiguous(), gradient, n, classes, pool_size, *z.stride(), *target.stride(),
        scale, chunks, **layout, INNER=inner,
    )  # fmt: skip
    return gradient


def _largest_strides(z: Tensor, target: Tensor) -> tuple[int, int]:
    return max(z.stride(0), target.stride(0)), max(z.stride(1), target.stride(1))


@functools.cache
def _layout(classes: int, pool_size: int, row_stride: int, column_stride: int) -> dict[str, Any]:
    """Return how a program takes the scores: ROWS sets of a pool and BLOCK classes at a time."""
    whole = classes <= _WHOLE
    block = triton.next_power_of_2(classes) if whole else _BLOCK
    rows = min(max(_TILE // block, 1), triton.next_power_of_2(pool_size))
    return {
        "ROWS": rows,
        "BLOCK": block,
        "WHOLE": whole,
        "OFFSET": offset_type((rows - 1) * row_stride + (classes + block) * column_stride),
        "num_warps": warps_of(rows, block),
    }


@triton.jit(do_not_specialize=["n"])
def _sets_kernel(
    z, target, log_weight, shift, of_sets, n, classes, row_stride, column_stride, target_row, target_column,
    scale: tl.float64, ROWS: tl.constexpr, BLOCK: tl.constexpr, OFFSET: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    wide = of_sets.dtype.element_ty
    first = tl.program_id(0).to(tl.int64) * ROWS
    row = tl.arange(0, ROWS)[:, None]
    is_row = first + row < n
    _, counts = _weights(log_weight, first + row, is_row)
    top = tl.full((ROWS, 1), -float("inf"), wide)
    peak, rest, roots = top, tl.zeros((ROWS, 1), wide), tl.zeros((ROWS, 1), wide)
    for start in range(0, classes, BLOCK):
        column = start + tl.arange(0, BLOCK)[None, :]
        is_class = column < classes
        address = first * row_stride + row.to(OFFSET) * row_stride + column.to(OFFSET) * column_stride
        score = scores_at(z, shift, scale, address, column, counts & is_class, is_class, wide)
        top, peak, rest = _with_block(score, top, peak, rest)
        if RESIDUAL:
            address = first * target_row + row.to(OFFSET) * target_row + column.to(OFFSET) * target_column
            share = tl.load(target + address, mask=counts & is_class, other=0.0).to(wide)
            roots += tl.sum(tl.sqrt(share), 1)[:, None]
    _keep(of_sets + first, n, row, is_row, top, subtractable(peak), rest, roots)


@triton.jit(do_not_specialize=["n", "size", "chunks", "chunk"])
def _sums_kernel(
    z, target, log_weight, shift, of_sets, log_sums, residuals, n, classes, size, row_stride, column_stride, target_row,
    target_column, scale: tl.float64, chunks, chunk,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr, OFFSET: tl.constexpr, RESIDUAL: tl.constexpr,
    INNER: tl.constexpr,
):  # fmt: skip
    wide = of_sets.dtype.element_ty
    part = tl.program_id(0).to(tl.int64)
    pool = part // chunks
    begin = pool * size + part % chunks * chunk
    end = tl.minimum(tl.minimum(begin + chunk, (pool + 1) * size), n)
    row = tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    is_class = column < classes
    peak = tl.full((1, BLOCK), -float("inf"), wide)
    total, residual = tl.zeros((1, BLOCK), wide), tl.zeros((1, BLOCK), wide)
    for first in range(begin, end, ROWS):
        is_row = first + row < end
        weight, counts = _weights(log_weight, first + row, is_row)
        address = first * row_stride + row.to(OFFSET) * row_stride + column.to(OFFSET) * column_stride
        score = scores_at(z, shift, scale, address, column, counts & is_class, is_class, wide)
        address = first * target_row + row.to(OFFSET) * target_row + column.to(OFFSET) * target_column
        share = tl.load(target + address, mask=counts & is_class, other=0.0).to(wide)
        root = tl.sqrt(share) if RESIDUAL else share
        if WHOLE:
            top = tl.full((ROWS, 1), -float("inf"), wide)
            top, others, rest = _with_block(score, top, top, tl.zeros((ROWS, 1), wide))
            others, roots = subtractable(others), tl.sum(root, 1)[:, None]
            _keep(of_sets + first, n, row, is_row, top, others, rest, roots)
        else:
            top, others, rest, roots = _kept(of_sets + first, n, row, is_row)
        _, _, _, log_odds = _odds(score, top, others, rest)
        log_term = _log_terms(share, log_odds, weight, INNER)
        before = peak
        peak = tl.maximum(peak, tl.max(log_term, 0)[None, :])
        base = subtractable(peak)
        total = total * tl.exp(before - base) + tl.sum(tl.exp(log_term - base), 0)[None, :]
        if RESIDUAL:
            residual += tl.sum(tl.exp(weight) * _residual(share, root, roots, INNER), 0)[None, :]
    tl.store(log_sums + part * classes + column, tl.log(total) + subtractable(peak), mask=is_class)
    if RESIDUAL:
        tl.store(residuals + part * classes + column, residual, mask=is_class)


@triton.jit(do_not_specialize=["n", "size", "chunks"])
def _gradient_kernel(
    z, target, log_weight, shift, of_sets, log_sums, upstream, gradient, n, classes, size, row_stride, column_stride,
    target_row, target_column, scale: tl.float64, chunks,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr, OFFSET: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    wide = of_sets.dtype.element_ty
    pool = tl.program_id(0).to(tl.int64) // chunks
    first = pool * size + tl.program_id(0) % chunks * ROWS
    row = tl.arange(0, ROWS)[:, None]
    is_row = (first + row < n) & (first + row < (pool + 1) * size)
    weight, counts = _weights(log_weight, first + row, is_row)
    top, others, rest, _ = _kept(of_sets + first, n, row, is_row)
    of_tops, of_rest = tl.zeros((ROWS, 1), wide), tl.zeros((ROWS, 1), wide)
    # The sums over a row, and then the gradient; of whole rows both in one turn.
    for turn in range(0, 1 if WHOLE else 2):
        for start in range(0, classes, BLOCK):
            column = start + tl.arange(0, BLOCK)[None, :]
            is_class = column < classes
            address = first * row_stride + row.to(OFFSET) * row_stride + column.to(OFFSET) * column_stride
            score = scores_at(z, shift, scale, address, column, counts & is_class, is_class, wide)
            address = first * target_row + row.to(OFFSET) * target_row + column.to(OFFSET) * target_column
            share = tl.load(target + address, mask=counts & is_class, other=0.0).to(wide)
            exponential, total, complement, log_odds = _odds(score, top, others, rest)
            log_sum = tl.load(log_sums + pool * classes + column, mask=is_class, other=0.0)
            reaching = tl.load(upstream + pool * classes + column, mask=is_class, other=0.0).to(wide)
            log_term = _log_terms(share, log_odds, weight, INNER)
            nothing = (reaching == 0.0) | (tl.abs(log_term) == float("inf"))
            flow = tl.where(nothing, 0.0, reaching * tl.exp(log_term - log_sum))  # u a
            flow = tl.where(nothing, 0.0, flow * _steepness(share, log_odds, INNER))
            is_top = score == top
            flow = tl.where(is_top, flow, flow * (total / complement))
            if turn == 0:
                of_tops += tl.sum(tl.where(is_top, flow, 0.0), 1)[:, None]
                of_rest += tl.sum(tl.where(is_top, 0.0, flow), 1)[:, None]
            if WHOLE or turn == 1:
                # Of a class among those that are not the largest: its share there, at most 1.
                among = tl.exp(tl.minimum(score - others, 0.0)) / tl.where(rest == 0.0, 1.0, rest)
                from_tops = tl.where(is_top, of_tops - flow, of_tops) * among
                slope = exponential / total * of_rest + from_tops - flow
                slope = tl.where(counts & (score != -float("inf")), slope * tl.full((1,), scale, wide), 0.0)
                at = gradient + first * classes + row.to(tl.int64) * classes + column
                tl.store(at, slope.to(gradient.dtype.element_ty), mask=is_row & is_class)


@triton.jit
def _weights(log_weight, row, is_row):
    """Return the log weight of sets and whether they count."""
    weight = tl.load(log_weight + row, mask=is_row, other=-float("inf"))
    return weight, weight != -float("inf")


@triton.jit
def _keep(of_sets, n, row, is_row, top, others, rest, roots):
    tl.store(of_sets + row, top, mask=is_row)
    tl.store(of_sets + n + row, others, mask=is_row)
    tl.store(of_sets + 2 * n + row, rest, mask=is_row)
    tl.store(of_sets + 3 * n + row, roots, mask=is_row)


@triton.jit
def _kept(of_sets, n, row, is_row):
    top = tl.load(of_sets + row, mask=is_row, other=0.0)
    others = tl.load(of_sets + n + row, mask=is_row, other=0.0)
    rest = tl.load(of_sets + 2 * n + row, mask=is_row, other=0.0)
    roots = tl.load(of_sets + 3 * n + row, mask=is_row, other=0.0)
    return top, others, rest, roots


@triton.jit
def _with_block(score, top, peak, rest):
    """Return the largest score of a row, and of all others the peak and the sum of exponentials relative to it.

    From those so far and a block of scores more. Of several that are largest all but one are among the others.
    """
    highest = tl.max(score, 1)[:, None]
    is_highest = score == highest
    again = tl.sum(is_highest.to(tl.int32), 1)[:, None] - 1
    others = tl.where(is_highest, -float("inf"), score)
    loser = tl.minimum(top, highest)
    before = peak
    peak = tl.maximum(
        tl.maximum(peak, loser), tl.maximum(tl.max(others, 1)[:, None], tl.where(again > 0, highest, loser))
    )
    base = subtractable(peak)
    rest = rest * tl.exp(before - base) + tl.exp(loser - base) + tl.sum(tl.exp(others - base), 1)[:, None]
    rest += tl.where(again > 0, again * tl.exp(tl.minimum(highest, base) - base), 0.0)
    return tl.maximum(top, highest), peak, rest


@triton.jit
def _odds(score, top, others, rest):
    """Return exponentials relative to the largest score, their total, that without each one, and the log odds."""
    base = subtractable(top)
    distance = score - base
    exponential = tl.exp(distance)
    log_rest = tl.log(rest) + (others - base)
    total = 1.0 + tl.exp(log_rest)
    # What is not the largest is at most half of the total.
    complement = tl.where(score == top, 1.0, total - exponential)
    log_odds = tl.where(score == top, log_rest, tl.log(complement)) - distance
    return exponential, total, complement, tl.where(score == -float("inf"), float("inf"), log_odds)


@triton.jit
def _log_terms(share, log_odds, weight, INNER: tl.constexpr):
    """Return the logs of the weighted inner terms, minus infinity wherever the share is 0."""
    positive = tl.where(share > 0.0, share, 1.0)
    log_share = tl.log(positive)
    if INNER == "nll":
        log_term = log_share + tl.where(log_odds < -40.0, log_odds, tl.log(log_one_plus(log_odds)))
    elif INNER == "power":
        excess = positive * log_one_plus(log_odds)
        log_term = positive * log_share + excess + tl.log(_complement_of_exp(excess))
    else:
        log_term = log_share + log_odds
    return tl.where(share > 0.0, log_term + weight, -float("inf"))


@triton.jit
def _steepness(share, log_odds, INNER: tl.constexpr):
    """Return (1 - p) times the derivative of an inner term's log by -log p: what 1 is for the odds."""
    if INNER == "odds":
        steepness = tl.full((1, 1), 1.0, log_odds.dtype)
    else:
        nll = log_one_plus(log_odds)
        below = tl.where(nll == 0.0, 1.0, nll)
        if INNER == "power":
            steepness = share * _complement_of_exp(below) / _complement_of_exp(share * below)
        else:
            steepness = _complement_of_exp(below) / below
        steepness = tl.where(nll == 0.0, 1.0, steepness)
    return steepness


@triton.jit
def _residual(share, root, roots, INNER: tl.constexpr):
    """Return what the best scores leave of an inner term."""
    log_share = tl.log(tl.where(share > 0.0, share, 1.0))
    if INNER == "nll":
        residual = -share * log_share
    elif INNER == "power":
        residual = _complement_of_exp(-share * log_share)
    else:
        residual = root * (roots - root)
    return residual


@triton.jit
def _complement_of_exp(x):
    """Return 1 - exp(-x) of x 0 or more, with all its digits: a factor brings back what rounding exp(-x) leaves out."""
    below = tl.exp(-x)
    rounded = (below == 1.0) | (below == 0.0)
    return tl.where(
        below == 1.0, x, tl.where(rounded, 1.0, (1.0 - below) * (x / -tl.log(tl.where(rounded, 0.5, below))))
    )
