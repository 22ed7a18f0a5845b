"""What the kernels of the summed odds form in registers: odds, targets, and the inner terms with their derivatives."""

# mypy: allow-untyped-calls, allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl

from equilog.ops.triton_rows import log_one_plus, subtractable


@triton.jit
def shares_at(
    target, row, column, counts, is_class, row_stride, column_stride, wide: tl.constexpr, INDEXED: tl.constexpr
):
    """Read target probabilities, 0 where nothing counts; of class indices those that they stand for."""
    if INDEXED:
        place = tl.load(target + row * row_stride, mask=counts, other=-1)
        share = (is_class & (column == place)).to(wide)
    else:
        address = target + row * row_stride + column * column_stride
        share = tl.load(address, mask=counts & is_class, other=0.0).to(wide)
    return share


@triton.jit
def spread_of(mass, number, smoothing, wide: tl.constexpr):
    """Return what smoothing gives each class of a set, from the set's mass of probability and how many take part."""
    return mass * tl.full((1, 1), smoothing, wide) / tl.maximum(number, 1.0)


@triton.jit
def smoothed(share, spread, score, smoothing, wide: tl.constexpr):
    """Return shares of which smoothing has taken some, and given the classes that take part their part of that."""
    return share * tl.full((1, 1), 1.0 - smoothing, wide) + tl.where(score == -float("inf"), 0.0, spread)


@triton.jit
def with_block(score, top, peak, rest):
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
def odds(score, top, others, rest):
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
def log_terms(share, log_odds, weight, INNER: tl.constexpr):
    """Return the logs of the weighted inner terms; of a share of 0 minus infinity, and for "divergence" log p."""
    positive = tl.where(share > 0.0, share, 1.0)
    log_share = tl.log(positive)
    if INNER == "divergence":
        log_prob = -log_one_plus(log_odds)
        distance, is_some = _log_ratio(share, log_prob)
        log_gap, _ = _gap(distance)
        log_term = tl.where(is_some, log_share + log_gap, log_prob) + weight
    else:
        if INNER == "nll":
            log_term = log_share + tl.where(log_odds < -40.0, log_odds, tl.log(log_one_plus(log_odds)))
        elif INNER == "power":
            excess = positive * log_one_plus(log_odds)
            log_term = positive * log_share + excess + tl.log(_complement_of_exp(excess))
        else:
            log_term = log_share + log_odds
        log_term = tl.where(share > 0.0, log_term + weight, -float("inf"))
    return log_term


@triton.jit
def steepness(share, log_odds, INNER: tl.constexpr):
    """Return (1 - p) times the derivative of an inner term's log by -log p: what 1 is for the odds."""
    if INNER == "odds":
        steep = tl.full((1, 1), 1.0, log_odds.dtype)
    else:
        nll = log_one_plus(log_odds)
        below = tl.where(nll == 0.0, 1.0, nll)
        if INNER == "divergence":
            distance, is_some = _log_ratio(share, -nll)
            _, growth = _gap(distance)
            steep = -_complement_of_exp(nll) * tl.where(is_some, growth, 1.0)
        else:
            if INNER == "power":
                steep = share * _complement_of_exp(below) / _complement_of_exp(share * below)
            else:
                steep = _complement_of_exp(below) / below
            steep = tl.where(nll == 0.0, 1.0, steep)
    return steep


@triton.jit
def residual_of(share, root, roots, INNER: tl.constexpr):
    """Return what the best scores leave of an inner term."""
    log_share = tl.log(tl.where(share > 0.0, share, 1.0))
    if INNER == "nll":
        residual = -share * log_share
    elif INNER == "power":
        residual = _complement_of_exp(-share * log_share)
    elif INNER == "divergence":
        residual = tl.zeros_like(share)
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


@triton.jit
def _log_ratio(share, log_prob):
    """Return log(p / t), and whether there is a share; one whose log a GPU may not have is as good as none."""
    is_some = share > 1e-37
    return tl.where(is_some, log_prob, -1.0) - tl.log(tl.where(is_some, share, 1.0)), is_some


@triton.jit
def _gap(d):
    """Return the log of the gap e^d - 1 - d, and that log's derivative, by three forms that keep their digits.

    At 0, as near above 0 as has a log.
    """
    least = 1e-123 if d.dtype == tl.float64 else 1e-15
    d = tl.where(tl.abs(d) < least, least, d)
    near, above = tl.abs(d) < 1.0, d > 0.0
    close = tl.where(near, d, 0.0)
    series = tl.full((1, 1), 1.0, d.dtype)
    for step in tl.static_range(18):
        series = 1.0 + close / (20 - step) * series
    log_near = 2.0 * tl.log(tl.where(near, tl.abs(d), 1.0)) + tl.log(0.5 * series)
    near_slope = (1.0 + 0.5 * close * series) / tl.where(near, 0.5 * d * series, 1.0)
    far = tl.where(near, 1.0, d)
    inverse = tl.exp(-tl.abs(far))
    shrunk = 1.0 - (1.0 + far) * inverse  # e^-d times the gap, for d above
    gap = inverse - 1.0 - far  # for d below
    log_far = tl.where(above, far + tl.log(tl.where(above, shrunk, 1.0)), tl.log(tl.where(above, 1.0, gap)))
    far_slope = tl.where(above, (1.0 - inverse) / shrunk, (inverse - 1.0) / gap)
    return tl.where(near, log_near, log_far), tl.where(near, near_slope, far_slope)
