"""A metric of rows that were decided on: first sums over rows, so that groups of them can be left out."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from equilog.decisions.inputs import Array, Codes
from equilog.decisions.metrics import Metric, Table


class Judge(ABC):
    """How good decisions are; larger is better."""

    @abstractmethod
    def sums(self, decided: Codes, truth: Array, weight: Array, group: Codes, groups: int) -> Array:
        """Return what the rows of each group add up to (groups, ...).

        Args:
            decided: (n,) classes or (n, L) of 0 and 1.
            truth: (n, C) probabilities of the classes, one-hot where known, or (n, L) of yes.
            weight: (n,).
            group: (n,) group numbers.
            groups: how many there are.
        """

    @abstractmethod
    def values(self, sums: Array) -> Array:
        """Return the metric (groups,) of what the rows of each group add up to."""

    def value(self, sums: Array) -> float:
        """Return the metric of what rows add up to."""
        return float(self.values(sums[None])[0])


class OfClasses(Judge):
    """A metric of hits, predictions and rows."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric

    def sums(self, decided: Codes, truth: Array, weight: Array, group: Codes, groups: int) -> Array:
        """Return hits, predictions and rows (groups, 3, C)."""
        classes = truth.shape[1]
        cell, cells = group * classes + decided, groups * classes
        hit = weight * truth[np.arange(len(decided)), decided]
        hits, predicted = (np.bincount(cell, weights=w, minlength=cells).reshape(-1, classes) for w in (hit, weight))
        return np.stack([hits, predicted, _by_group(truth, weight, group, groups)], axis=1)

    def values(self, sums: Array) -> Array:
        """Return the metric of each group."""
        shares = sums / sums[:, 2].sum(-1)[:, None, None]
        return self.metric.of_classes(Table(shares[:, 0], shares[:, 1], shares[:, 2]))


class OfLabels(Judge):
    """A metric of each label's hits, predictions and rows."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric

    def sums(self, decided: Codes, truth: Array, weight: Array, group: Codes, groups: int) -> Array:
        """Return hits, predictions, positives and all rows (groups, 4, L)."""
        parts = (truth * decided, decided, truth, np.ones_like(truth))
        return np.stack([_by_group(part, weight, group, groups) for part in parts], axis=1)

    def values(self, sums: Array) -> Array:
        """Return the metric of each group."""
        return self.metric.over_labels(Table(*(sums[:, place] / sums[:, 3] for place in range(3))))


class OfConfusion(Judge):
    """A function of the confusion matrix (C, C), true classes being rows."""

    def __init__(self, function: Callable[[Array], Any]) -> None:
        self.function = function

    def sums(self, decided: Codes, truth: Array, weight: Array, group: Codes, groups: int) -> Array:
        """Return confusion matrices (groups, C, C)."""
        classes = truth.shape[1]
        predicted_first = _by_group(truth, weight, group * classes + decided, groups * classes)
        return predicted_first.reshape(groups, classes, classes).swapaxes(1, 2)

    def values(self, sums: Array) -> Array:
        """Return the function's value for each group."""
        return np.array([float(self.function(table)) for table in sums])


class OfTables(Judge):
    """A function of the labels' tables (L, 2, 2), the truth being rows."""

    def __init__(self, function: Callable[[Array], Any]) -> None:
        self.function = function

    def sums(self, decided: Codes, truth: Array, weight: Array, group: Codes, groups: int) -> Array:
        """Return tables (groups, L, 2, 2)."""
        hits = _by_group(truth * decided, weight, group, groups)
        predicted, actual = (_by_group(part, weight, group, groups) for part in (decided, truth))
        rows = _by_group(np.ones_like(truth), weight, group, groups)
        no = np.stack([rows - predicted - actual + hits, predicted - hits], axis=-1)
        return np.stack([no, np.stack([actual - hits, hits], axis=-1)], axis=-2)

    def values(self, sums: Array) -> Array:
        """Return the function's value for each group."""
        return np.array([float(self.function(table)) for table in sums])


def _by_group(values: Any, weight: Array, group: Codes, groups: int) -> Array:
    """Return the weighted sums of rows (n, K) by group (groups, K)."""
    rows = len(weight)
    if groups == 1:
        return np.asarray(weight @ values)[None]
    return np.asarray(csr_array((weight, (group, np.arange(rows))), shape=(groups, rows)) @ values)
