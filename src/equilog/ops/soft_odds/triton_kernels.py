"""The kernels of the summed odds.

With q_k = u_k a_k / (1 - p_k), where a_k is the share of the set in the sum of class k and u_k what flows back to its
log, the gradient of score l is p_l sum_k q_k - q_l. The largest class is kept apart, where 1 - p may be lost in p:
its (1 - p) q is u a. Other inner terms than the odds have a factor more in q, their steepness.

A pool is `size` consecutive sets; or, of `size` pools, the sets that share an id, a chunk of their order at a time.
"""

# mypy: allow-untyped-calls, allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl

from equilog.ops.soft_odds.triton_terms import (
    log_terms,
    odds,
    residual_of,
    shares_at,
    smoothed,
    spread_of,
    steepness,
    with_block,
)
from equilog.ops.triton_rows import scores_at, subtractable
from equilog.ops.triton_slots import chunk_at


@triton.jit(do_not_specialize=["n"])
def sets_kernel(
    z, target, log_weight, shift, of_sets, n, classes, row_stride, column_stride, target_row, target_column,
    scale: tl.float64, smoothing: tl.float64,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, OFFSET: tl.constexpr, ROOTS: tl.constexpr, INDEXED: tl.constexpr,
    SMOOTH: tl.constexpr,
):  # fmt: skip
    """Find the numbers of each set, of rows that no program holds whole."""
    wide = of_sets.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    is_row = row < n
    _, counts = _weights(log_weight, row, is_row)
    top = tl.full((ROWS, 1), -float("inf"), wide)
    nothing = tl.zeros((ROWS, 1), wide)
    peak, rest, roots, number, mass = top, nothing, nothing, nothing, nothing
    for start in range(0, classes, BLOCK):
        column = start + tl.arange(0, BLOCK)[None, :]
        is_class = column < classes
        address = row * row_stride + column.to(OFFSET) * column_stride
        score = scores_at(z, shift, scale, address, column, counts & is_class, is_class, wide)
        top, peak, rest = with_block(score, top, peak, rest)
        if SMOOTH:
            number += _present(score, wide)
        if ROOTS or (SMOOTH and not INDEXED):
            share = shares_at(
                target, row, column.to(OFFSET), counts, is_class, target_row, target_column, wide, INDEXED
            )
            mass += tl.sum(share, 1)[:, None]
            if not SMOOTH:
                roots += tl.sum(tl.sqrt(share), 1)[:, None]
    if INDEXED:
        mass = counts.to(wide)
    spread = spread_of(mass, number, smoothing, wide)
    if ROOTS and SMOOTH:  # the spread is known only now
        for start in range(0, classes, BLOCK):
            column = start + tl.arange(0, BLOCK)[None, :]
            is_class = column < classes
            address = row * row_stride + column.to(OFFSET) * column_stride
            score = scores_at(z, shift, scale, address, column, counts & is_class, is_class, wide)
            share = shares_at(
                target, row, column.to(OFFSET), counts, is_class, target_row, target_column, wide, INDEXED
            )
            roots += tl.sum(tl.sqrt(smoothed(share, spread, score, smoothing, wide)), 1)[:, None]
    _keep(of_sets, n, row, is_row, top, subtractable(peak), rest, roots, spread, SMOOTH)


@triton.jit(do_not_specialize=["n", "size", "chunks", "chunk"])
def sums_kernel(
    z, target, log_weight, shift, of_sets, order, starts, first_chunks, slot_of_chunk, log_sums, residuals, n, classes,
    size, row_stride, column_stride, target_row, target_column, scale: tl.float64, smoothing: tl.float64, chunks, chunk,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr, OFFSET: tl.constexpr, RESIDUAL: tl.constexpr,
    INNER: tl.constexpr, INDEXED: tl.constexpr, SMOOTH: tl.constexpr,
):  # fmt: skip
    """Sum the terms of a chunk of a pool's sets, for a block of classes."""
    wide = of_sets.dtype.element_ty
    part = tl.program_id(0).to(tl.int64)
    if order is not None:
        pool, begin, end = chunk_at(part, starts, first_chunks, slot_of_chunk, size, chunk)
    else:
        pool = part // chunks
        begin = pool * size + part % chunks * chunk
        end = tl.minimum(tl.minimum(begin + chunk, (pool + 1) * size), n)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    is_class = column < classes
    peak = tl.full((1, BLOCK), -float("inf"), wide)
    total, residual = tl.zeros((1, BLOCK), wide), tl.zeros((1, BLOCK), wide)
    for first in range(begin, end, ROWS):
        row = first + tl.arange(0, ROWS)[:, None]
        is_row = row < end
        if order is not None:
            row = tl.load(order + row, mask=is_row, other=0)
        weight, counts = _weights(log_weight, row, is_row)
        address = row * row_stride + column.to(OFFSET) * column_stride
        score = scores_at(z, shift, scale, address, column, counts & is_class, is_class, wide)
        share = shares_at(target, row, column.to(OFFSET), counts, is_class, target_row, target_column, wide, INDEXED)
        if WHOLE:
            top = tl.full((ROWS, 1), -float("inf"), wide)
            top, others, rest = with_block(score, top, top, tl.zeros((ROWS, 1), wide))
            others = subtractable(others)
            spread = spread_of(tl.sum(share, 1)[:, None], _present(score, wide), smoothing, wide)
        else:
            top, others, rest, roots, spread = _kept(of_sets, n, row, is_row, SMOOTH)
        if SMOOTH:
            share = smoothed(share, spread, score, smoothing, wide)
        root = tl.sqrt(share) if RESIDUAL and INNER == "odds" else share
        if WHOLE:
            roots = tl.sum(root, 1)[:, None]
            _keep(of_sets, n, row, is_row, top, others, rest, roots, spread, SMOOTH)
        _, _, _, log_odds = odds(score, top, others, rest)
        log_term = log_terms(share, log_odds, weight, INNER)
        before = peak
        peak = tl.maximum(peak, tl.max(log_term, 0)[None, :])
        base = subtractable(peak)
        total = total * tl.exp(before - base) + tl.sum(tl.exp(log_term - base), 0)[None, :]
        if RESIDUAL:
            residual += tl.sum(tl.exp(weight) * residual_of(share, root, roots, INNER), 0)[None, :]
    tl.store(log_sums + part * classes + column, tl.log(total) + subtractable(peak), mask=is_class)
    if RESIDUAL:
        tl.store(residuals + part * classes + column, residual, mask=is_class)


@triton.jit(do_not_specialize=["n", "size", "chunks"])
def gradient_kernel(
    z, target, log_weight, shift, of_sets, ids, log_sums, upstream, gradient, n, classes, size, row_stride,
    column_stride, target_row, target_column, scale: tl.float64, smoothing: tl.float64, chunks,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr, OFFSET: tl.constexpr, INNER: tl.constexpr,
    INDEXED: tl.constexpr, SMOOTH: tl.constexpr,
):  # fmt: skip
    """Write the gradient of a few sets; where pools are consecutive, of one of them."""
    wide = of_sets.dtype.element_ty
    if ids is not None:
        row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
        is_row = row < n
        pool = tl.load(ids + row, mask=is_row, other=0)
    else:
        pool = tl.program_id(0).to(tl.int64) // chunks
        row = pool * size + tl.program_id(0) % chunks * ROWS + tl.arange(0, ROWS)[:, None]
        is_row = (row < n) & (row < (pool + 1) * size)
    weight, counts = _weights(log_weight, row, is_row)
    top, others, rest, _, spread = _kept(of_sets, n, row, is_row, SMOOTH)
    of_tops, of_rest = tl.zeros((ROWS, 1), wide), tl.zeros((ROWS, 1), wide)
    # The sums over a row, and then the gradient; of whole rows both in one turn.
    for turn in range(0, 1 if WHOLE else 2):
        for start in range(0, classes, BLOCK):
            column = start + tl.arange(0, BLOCK)[None, :]
            is_class = column < classes
            address = row * row_stride + column.to(OFFSET) * column_stride
            score = scores_at(z, shift, scale, address, column, counts & is_class, is_class, wide)
            share = shares_at(
                target, row, column.to(OFFSET), counts, is_class, target_row, target_column, wide, INDEXED
            )
            if SMOOTH:
                share = smoothed(share, spread, score, smoothing, wide)
            exponential, total, complement, log_odds = odds(score, top, others, rest)
            is_sum = is_class
            if ids is not None:
                is_sum = is_row & is_class
            log_sum = tl.load(log_sums + pool * classes + column, mask=is_sum, other=0.0)
            reaching = tl.load(upstream + pool * classes + column, mask=is_sum, other=0.0).to(wide)
            log_term = log_terms(share, log_odds, weight, INNER)
            nothing = (reaching == 0.0) | (tl.abs(log_term) == float("inf"))
            flow = tl.where(nothing, 0.0, reaching * tl.exp(log_term - log_sum))  # u a
            flow = tl.where(nothing, 0.0, flow * steepness(share, log_odds, INNER))
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
                at = gradient + row * classes + column
                tl.store(at, slope.to(gradient.dtype.element_ty), mask=is_row & is_class)


@triton.jit
def _weights(log_weight, row, is_row):
    """Return the log weight of sets and whether they count."""
    weight = tl.load(log_weight + row, mask=is_row, other=-float("inf"))
    return weight, weight != -float("inf")


@triton.jit
def _present(score, wide: tl.constexpr):
    """Return how many classes of a block take part in each set."""
    return tl.sum((score != -float("inf")).to(wide), 1)[:, None]


@triton.jit
def _keep(of_sets, n, row, is_row, top, others, rest, roots, spread, SMOOTH: tl.constexpr):
    tl.store(of_sets + row, top, mask=is_row)
    tl.store(of_sets + n + row, others, mask=is_row)
    tl.store(of_sets + 2 * n + row, rest, mask=is_row)
    tl.store(of_sets + 3 * n + row, roots, mask=is_row)
    if SMOOTH:
        tl.store(of_sets + 4 * n + row, spread, mask=is_row)


@triton.jit
def _kept(of_sets, n, row, is_row, SMOOTH: tl.constexpr):
    top = tl.load(of_sets + row, mask=is_row, other=0.0)
    others = tl.load(of_sets + n + row, mask=is_row, other=0.0)
    rest = tl.load(of_sets + 2 * n + row, mask=is_row, other=0.0)
    roots = tl.load(of_sets + 3 * n + row, mask=is_row, other=0.0)
    spread = roots
    if SMOOTH:
        spread = tl.load(of_sets + 4 * n + row, mask=is_row, other=0.0)
    return top, others, rest, roots, spread
