"""How much a single test row can decide: what few splits may find alike by chance."""

from collections.abc import Iterable

import numpy as np

from equilog.compare.judge.metrics import Metric
from equilog.compare.judge.records import RunRecord


def resolution(metric: Metric, runs: Iterable[RunRecord]) -> float:
    """Return how far the metric moves where one test row of the rarest class is found or not; the mean over the runs.

    Of a mean over C classes with n test rows of the rarest it is 1 / (C n). Of metrics that all rows share alike it
    is next to nothing, and 0 is returned.

    Args:
        metric: which one.
        runs: records; such as do not say how many test rows there were count as 0.
    """
    if metric.classes_share is None:
        return 0.0
    largest = []
    for run in runs:
        shares = []
        for column in run.get("classes", []):
            rows = [count for count in column.get("test_count", []) if count > 0]
            if rows:
                shares.append(1 / (min(rows) * (len(rows) if metric.classes_share == "mean" else 1)))
        if shares:
            # The metric is the mean over the target columns, of which a row may decide one.
            largest.append(max(shares) / len(shares))
    return float(np.mean(largest)) if largest else 0.0
