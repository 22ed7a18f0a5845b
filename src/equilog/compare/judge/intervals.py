"""What repeated splits can say: intervals that know the splits share rows, and p-values that know of the choice."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

from equilog.compare.judge.records import Interval

LEVEL = 0.95
"""The level of every interval, and 1 minus the error allowed to the tests."""


FEW = 5
"""With fewer splits than this the spread between them is held to be at least what one test row makes."""


def _mean_and_error(
    values: Sequence[float], test_fraction: float, resolution: float
) -> tuple[float, float, int] | None:
    """Return the mean, its standard error and the degrees of freedom; None where nothing tells the error."""
    if not 0 < test_fraction < 1:
        raise ValueError(f"estimate: test_fraction must lie between 0 and 1; got {test_fraction}.")
    # Equal runs (up to the rounding of a difference) would claim to know the mean without error.
    if len(values) < 2 or np.ptp(values) < 1e-12:
        return None
    overlap = test_fraction / (1 - test_fraction)
    spread = float(np.var(values, ddof=1))
    if len(values) < FEW:
        spread = max(spread, resolution**2 / 2)
    variance = spread * (1 / len(values) + overlap)
    return float(np.mean(values)), float(np.sqrt(variance)), len(values) - 1


def estimate(
    values: Sequence[float],
    test_fraction: float,
    limits: tuple[float, float] = (-np.inf, np.inf),
    resolution: float = 0.0,
) -> Interval:
    """Return the mean over K random splits with its 95 % interval.

    Random splits of the same rows share most of their training rows, so their results are not independent and
    the usual variance of a mean, s²/K, is too small. This takes s² (1/K + n_test/n_train) with Student's t on
    K - 1 degrees of freedom, for single results as for paired differences.

    Of fewer than five splits s² is at least r²/2, where r is how far one test row of the rarest class moves the metric:
    the same row found in two splits out of two makes them so alike that without it up to one null in six is rejected
    at 5 %, and with it none in twenty (tests/compare/judge/test_few_splits.py).

    Args:
        values: one value a split.
        test_fraction: the share of the rows tested on in each split, between 0 and 1.
        limits: the least and the largest value that there can be, where the interval is cut off.
        resolution: r, as `resolution` gives it.

    Raises:
        ValueError: a test fraction outside (0, 1).

    Source: Nadeau & Bengio, Inference for the Generalization Error, Machine Learning 52 (2003), the corrected
    resampled t-test.

    Example:
        >>> low, high = estimate([0.90, 0.92, 0.94], test_fraction=0.25)["ci95"]
        >>> round(low, 3), round(high, 3)
        (0.85, 0.99)
        >>> estimate([0.9], test_fraction=0.25)["ci95"] is None
        True
    """
    known = _mean_and_error(values, test_fraction, resolution)
    ends = None
    if known is not None:
        mean, error, freedom = known
        reach = stdtrit(freedom, (1 + LEVEL) / 2) * error
        ends = np.clip([mean - reach, mean + reach], *limits).tolist()
    return {
        "mean": float(np.mean(values)),
        "ci95": ends,
        "runs": [float(value) for value in values],
    }


def p_value(differences: Sequence[float], test_fraction: float, resolution: float = 0.0) -> float | None:
    """Return the two-sided p-value of a mean of 0, by the distribution of `estimate`; None where it gives none."""
    known = _mean_and_error(differences, test_fraction, resolution)
    if known is None:
        return None
    mean, error, freedom = known
    return float(2 * stdtr(freedom, -abs(mean) / error))


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return p-values corrected for the number of tests: rejecting those below 0.05 errs in 5 % of families.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statistics 6 (1979).

    Example:
        >>> holm([0.01, 0.04, 0.03])
        array([0.03, 0.06, 0.06])
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    steps = np.maximum.accumulate(np.arange(p.size, 0, -1) * p[order])
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(steps, 1.0)
    return corrected
