"""The kernels of labels' sums: what each label adds to the positives and to the negatives of its pool.

A label is a set of two classes with the log odds -x against yes and x against no. A pool is `size` consecutive labels;
or, of `size` pools, the labels that share an id, a chunk of their order at a time. The number of label i, for what is
added to its logit, is i // span modulo `labels`.
"""

# mypy: allow-untyped-calls, allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl

from equilog.ops.soft_odds.triton_terms import log_terms, residual_of, steepness
from equilog.ops.triton_rows import subtractable
from equilog.ops.triton_slots import chunk_at


@triton.jit(do_not_specialize=["n"])
def bits_kernel(index, bits, n, most, labels, words, BLOCK: tl.constexpr):
    """Set the bit of every positive that is named."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    label = tl.load(index + place, mask=place < n, other=labels)
    bit = tl.full((BLOCK,), 1, tl.int32) << (label % 32).to(tl.int32)
    tl.atomic_or(bits + place // most * words + label // 32, bit, mask=(label >= 0) & (label < labels))


@triton.jit(do_not_specialize=["n", "size", "chunk"])
def sums_kernel(
    z, target, bits, weight, shift, order, starts, first_chunks, slot_of_chunk, n, size, pool_stride, label_stride,
    target_pool, target_label, words, weight_pool, weight_label, span, labels, scale: tl.float64, parts, log_sums,
    residuals, chunk, ROWS: tl.constexpr, BLOCK: tl.constexpr, INNER: tl.constexpr, NUMBER: tl.constexpr,
):  # fmt: skip
    """Sum both sides of a chunk of the labels of a few pools; of pools by id of one."""
    wide = parts.dtype.element_ty
    part = tl.program_id(0).to(tl.int64)
    if order is not None:
        _, begin, end = chunk_at(part, starts, first_chunks, slot_of_chunk, size, chunk)
        pool = tl.zeros((ROWS, 1), tl.int64)
        is_pool = pool == 0
        part += pool
    else:
        pool = part * ROWS + tl.arange(0, ROWS)[:, None]
        is_pool = pool * size < n
        begin = tl.program_id(1).to(tl.int64) * chunk
        end = tl.minimum(begin + chunk, size)
        part = pool * tl.num_programs(1) + tl.program_id(1)
    yes_peak, yes_total = tl.full((ROWS, 1), -float("inf"), wide), tl.zeros((ROWS, 1), wide)
    no_peak, no_total = yes_peak, yes_total
    yes_left, no_left = yes_total, yes_total
    for start in range(begin, end, BLOCK):
        label = start + tl.arange(0, BLOCK)[None, :]
        if order is not None:
            is_label = label < end
            label = tl.load(order + label, mask=is_label, other=0)
            at = label
        else:
            at = pool * size + label
            is_label = (label < size) & (at < n)
        x, yes, no, factor = _labels_at(
            z, target, bits, weight, shift, pool, label, at.to(NUMBER), is_label, pool_stride, label_stride,
            target_pool, target_label, words, weight_pool, weight_label, span, labels, scale, wide,
        )  # fmt: skip
        share, exponent = _term(yes, factor, -x, INNER)
        yes_peak, yes_total = _added(share, exponent, yes_peak, yes_total)
        share, exponent = _term(no, factor, x, INNER)
        no_peak, no_total = _added(share, exponent, no_peak, no_total)
        if residuals is not None:
            yes_root, no_root = tl.sqrt(yes), tl.sqrt(no)
            yes_left += tl.sum(factor * residual_of(yes, yes_root, yes_root + no_root, INNER), 1)[:, None]
            no_left += tl.sum(factor * residual_of(no, no_root, yes_root + no_root, INNER), 1)[:, None]
    yes_base, no_base = subtractable(yes_peak), subtractable(no_peak)
    tl.store(parts + part * 4, yes_base, mask=is_pool)
    tl.store(parts + part * 4 + 1, yes_total, mask=is_pool)
    tl.store(parts + part * 4 + 2, no_base, mask=is_pool)
    tl.store(parts + part * 4 + 3, no_total, mask=is_pool)
    if residuals is not None:
        tl.store(residuals + part * 2, yes_left, mask=is_pool)
        tl.store(residuals + part * 2 + 1, no_left, mask=is_pool)
    if tl.num_programs(1) == 1:
        tl.store(log_sums + part * 2, tl.log(yes_total) + yes_base, mask=is_pool)
        tl.store(log_sums + part * 2 + 1, tl.log(no_total) + no_base, mask=is_pool)


@triton.jit(do_not_specialize=["n", "size"])
def gradient_kernel(
    z, target, bits, weight, shift, ids, n, size, pool_stride, label_stride, target_pool, target_label, words,
    weight_pool, weight_label, span, labels, scale: tl.float64, of_pools, upstream, gradient, gradient_pool,
    gradient_label, ROWS: tl.constexpr, BLOCK: tl.constexpr, INNER: tl.constexpr, NUMBER: tl.constexpr,
):  # fmt: skip
    """Write the gradient of a block of the labels of a few pools; of pools by id, of `size` labels in a row."""
    wide = of_pools.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    label = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[None, :]
    at = row * size + label
    is_label = (label < size) & (at < n)
    x, yes, no, factor = _labels_at(
        z, target, bits, weight, shift, row, label, at.to(NUMBER), is_label, pool_stride, label_stride, target_pool,
        target_label, words, weight_pool, weight_label, span, labels, scale, wide,
    )  # fmt: skip
    if ids is not None:
        pool, is_pool = tl.load(ids + at, mask=is_label, other=0), is_label
    else:
        pool, is_pool = row, row * size < n
    slope = _slope(no, factor, x, of_pools + pool * 4 + 2, upstream + pool * 2 + 1, is_pool, INNER)
    slope -= _slope(yes, factor, -x, of_pools + pool * 4, upstream + pool * 2, is_pool, INNER)
    slope *= tl.full((1, 1), scale, wide)
    address = gradient + row * gradient_pool + label * gradient_label
    tl.store(address, slope.to(gradient.dtype.element_ty), mask=is_label)


@triton.jit
def _labels_at(
    z, target, bits, weight, shift, pool, label, at, is_label, pool_stride, label_stride, target_pool, target_label,
    words, weight_pool, weight_label, span, labels, scale, wide: tl.constexpr,
):  # fmt: skip
    """Return the scores, the shares t and 1 - t, and the weight; what is left out is not read, and weighs 0."""
    factor = tl.where(is_label, tl.full((1, 1), 1.0, wide), 0.0)
    if weight is not None:
        factor = tl.load(weight + pool * weight_pool + label * weight_label, mask=is_label, other=0.0).to(wide)
    used = factor != 0.0
    x = tl.load(z + pool * pool_stride + label * label_stride, mask=used, other=0.0).to(wide)
    if bits is not None:
        word = tl.load(bits + pool * words + label // 32, mask=used, other=0)
        yes = ((word >> (label % 32).to(tl.int32)) & 1).to(wide)
    else:
        yes = tl.load(target + pool * target_pool + label * target_label, mask=used, other=0).to(wide)
    if shift is not None:
        x += tl.load(shift + at // span % labels, mask=used, other=0.0).to(wide)
    return x * tl.full((1, 1), scale, wide), yes, 1.0 - yes, factor


@triton.jit
def _term(share, factor, log_odds, INNER: tl.constexpr):
    """Return what a label adds to the sum of a side, as a factor and the exponent of what that multiplies."""
    if INNER == "odds":
        scaled, exponent = factor * share, log_odds
    else:
        scaled, exponent = factor, log_terms(share, log_odds, 0.0, INNER)
    return scaled, exponent


@triton.jit
def _added(share, exponent, peak, total):
    """Return peak and sum of rows (ROWS, 1) with a block of shares times exponentials more; a share of 0 adds none."""
    exponent = tl.where(share == 0.0, -float("inf"), exponent)
    before = peak
    peak = tl.maximum(peak, tl.max(exponent, 1)[:, None])
    base = subtractable(peak)
    return peak, total * tl.exp(before - base) + tl.sum(share * tl.exp(exponent - base), 1)[:, None]


@triton.jit
def _slope(share, factor, log_odds, of_sum, upstream, is_pool, INNER: tl.constexpr):
    """Return the gradient of the log odds, 0 where there is no share or nothing flows back.

    It is what flows back to the log of the sum, times the part of the sum that is the label's, times its steepness.
    """
    peak = tl.load(of_sum, mask=is_pool, other=0.0)
    total = tl.load(of_sum + 1, mask=is_pool, other=1.0)
    reaching = tl.load(upstream, mask=is_pool, other=0.0).to(peak.dtype)
    scaled, exponent = _term(share, factor, log_odds, INNER)
    nothing = (scaled == 0.0) | (reaching == 0.0) | (total == float("inf")) | (tl.abs(exponent) == float("inf"))
    part = scaled * (reaching / total) * tl.exp(exponent - peak)
    return tl.where(nothing, 0.0, part * steepness(share, log_odds, INNER))
