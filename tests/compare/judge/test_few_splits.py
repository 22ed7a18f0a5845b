"""Nulls simulated: two contenders that are equally good, few splits, and classes of few test rows."""

import numpy as np
import pytest
from numpy.typing import NDArray

from equilog.compare.judge.intervals import estimate, p_value
from equilog.compare.judge.metrics import METRICS, class_records
from equilog.compare.judge.resolution import resolution

FRACTION = 0.25
TABLES = 600


def null_differences(rows: tuple[int, ...], found: tuple[float, ...], splits: int) -> NDArray[np.float64]:
    """Return differences (tables, splits) of the balanced accuracy of two contenders that are equally good.

    Each finds each row of a class with the class's probability, once and for all; a split tests a quarter of the rows
    of each class, drawn anew, so that the same rows recur as they do in repeated splits of one table.
    """
    rng = np.random.default_rng(0)
    differences = np.zeros((TABLES, splits))
    for count, probability in zip(rows, found, strict=True):
        tested = round(FRACTION * count)
        one, other = rng.random((2, TABLES, count)) < probability
        for split in range(splits):
            drawn = rng.random((TABLES, count)).argsort(axis=1)[:, :tested]
            recalls = (np.take_along_axis(hits, drawn, axis=1).mean(axis=1) for hits in (one, other))
            differences[:, split] += np.subtract(*recalls) / len(rows)
    return differences


def rejected(differences: NDArray[np.float64], row: float) -> float:
    p_values = [p_value(values, FRACTION, row) for values in differences]
    return float(np.mean([p is not None and p < 0.05 for p in p_values]))


@pytest.mark.parametrize("splits", [2, 3, 4])
@pytest.mark.parametrize(
    ("rows", "found"), [((200, 4), (0.9, 0.5)), ((200, 100, 4), (0.9, 0.8, 0.5)), ((100, 48), (0.9, 0.7))]
)
def test_few_splits_reject_no_more_nulls_than_they_say(rows, found, splits):
    row = 1 / (len(rows) * FRACTION * min(rows))
    assert rejected(null_differences(rows, found, splits), row) <= 0.05


def test_without_the_row_that_decides_two_splits_reject_too_many():
    assert rejected(null_differences((200, 4), (0.9, 0.5), 2), 0.0) > 0.1


def test_what_one_row_decides_is_that_of_the_rarest_class_in_the_test_rows():
    target = np.repeat([0, 1, 2], [20, 5, 2])[:, None]
    record = class_records("multiclass", target, target, target, ["y"], [["a", "b", "c", "never tested"]])
    run = {"classes": record}
    assert record[0]["test_count"] == [20, 5, 2, 0]
    assert resolution(METRICS["balanced_accuracy"], [run]) == pytest.approx(1 / (3 * 2))
    assert resolution(METRICS["worst_class_recall"], [run]) == pytest.approx(1 / 2)
    assert resolution(METRICS["accuracy"], [run]) == 0
    assert resolution(METRICS["balanced_accuracy"], [{"classes": record * 2}]) == pytest.approx(1 / (3 * 2) / 2)


def test_intervals_of_few_splits_are_as_wide_as_a_row_and_end_where_the_metric_does():
    narrow, wide = (estimate([0.90, 0.91], FRACTION, resolution=row)["ci95"] for row in (0.0, 0.1))
    assert wide[1] - wide[0] == pytest.approx((narrow[1] - narrow[0]) * (0.1 / 2**0.5) / (0.01 / 2**0.5))
    assert estimate([0.90, 0.91], FRACTION, (0.0, 1.0), 0.1)["ci95"] == [pytest.approx(max(0, wide[0])), 1.0]
    # Five splits say themselves how far they spread.
    five = [0.90, 0.91, 0.90, 0.91, 0.90]
    assert estimate(five, FRACTION, resolution=0.1) == estimate(five, FRACTION)
