"""The metrics that decisions are made for, as functions of three numbers a class: hits, predictions, rows.

With $h_k$ the share of all rows that are of class k and predicted so, $q_k$ the share predicted as k and $\\pi_k$ the
share that are of class k, recall is $h_k/\\pi_k$ and precision $h_k/q_k$. Every array may have leading dimensions, so
that many rules are judged at once. Of yes/no labels k is a label, and the three numbers are those of yes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from equilog.decisions.inputs import Array

LEAST_RECALL = 1e-3
"""What the geometric mean takes a recall of 0 for, so that a class out of reach does not make all rules alike."""

Average = Literal["mean", "least", "pooled"]


class Table(NamedTuple):
    """Shares of the rows, which sum to 1."""

    hits: Array
    """(..., K) of class k and predicted so."""
    predicted: Array
    """(..., K) predicted as class k."""
    actual: Array
    """(K,) or (..., K) of class k."""


@dataclass(frozen=True)
class Metric:
    """How decisions are judged; larger is better."""

    of_classes: Callable[[Table], Array]
    """Table (..., C) to the metric (...)."""
    of_labels: Callable[[Table], Array]
    """Table (..., L) to a number for each label (..., L)."""
    average: Average = "mean"
    """What becomes of those numbers. Where it is "pooled", the table is first summed over the labels."""
    balanced: bool = False
    """Whether every class counts the same, so that a good rule is near the one that takes the prior off."""
    closed: bool = False
    """Whether for right probabilities that rule, or argmax where it is not balanced, is the best there is."""
    label_threshold: Callable[[Array], Array] | None = None
    """The best thresholds of right probabilities from the labels' frequencies, where they are a formula."""

    def over_labels(self, table: Table) -> Array:
        """Return the metric of tables (..., L), leaving out labels for which it is not defined."""
        if self.average == "pooled":
            table = Table(*(part.mean(-1, keepdims=True) for part in table))
        values = self.of_labels(table)
        return _least(values) if self.average == "least" else _mean(values)


def ratio(numerator: Array, denominator: Array, otherwise: float) -> Array:
    """Return numerator / denominator, and `otherwise` where the denominator is 0."""
    shape = np.broadcast_shapes(np.shape(numerator), np.shape(denominator))
    out = np.full(shape, otherwise)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out


def recall(table: Table) -> Array:
    """Return h / pi for each class, NaN for a class without rows."""
    return ratio(table.hits, table.actual, np.nan)


def rejection(table: Table) -> Array:
    """Return the recall of no for each label: the share of the rows without it that are not said to have it."""
    without = 1 - table.actual
    return ratio(without - (table.predicted - table.hits), without, np.nan)


def f_beta(table: Table, beta: float) -> Array:
    """Return (1 + b^2) h / (b^2 pi + q) for each class, NaN for a class without rows."""
    score = ratio((1 + beta**2) * table.hits, beta**2 * table.actual + table.predicted, 0.0)
    return np.where(table.actual > 0, score, np.nan)


def jaccard(table: Table) -> Array:
    """Return h / (pi + q - h) for each class, NaN for a class without rows."""
    score = ratio(table.hits, table.actual + table.predicted - table.hits, 0.0)
    return np.where(table.actual > 0, score, np.nan)


def _mean(values: Array) -> Array:
    """Average over the classes that have rows."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0).sum(-1), known.sum(-1), np.nan)


def _least(values: Array) -> Array:
    least = np.where(np.isnan(values), np.inf, values).min(-1)
    return np.where(np.isinf(least), np.nan, least)


def _g_mean(table: Table) -> Array:
    return np.exp(_mean(np.log(np.maximum(recall(table), LEAST_RECALL))))


def _mcc(table: Table) -> Array:
    """Gorodkin, "Comparing two K-category assignments by a K-category correlation coefficient", 2004."""
    covariance = table.hits.sum(-1) - (table.predicted * table.actual).sum(-1)
    spread = (1 - (table.predicted**2).sum(-1)) * (1 - (table.actual**2).sum(-1))
    return ratio(covariance, np.sqrt(spread.clip(0.0)), 0.0)


def _mcc_of_labels(table: Table) -> Array:
    covariance = table.hits - table.predicted * table.actual
    spread = table.predicted * (1 - table.predicted) * table.actual * (1 - table.actual)
    return np.where(table.actual > 0, ratio(covariance, np.sqrt(spread.clip(0.0)), 0.0), np.nan)


def recall_at_precision(table: Table, precision: float) -> Array:
    """Return recall, or where the precision is too low what it lacks, as a negative number."""
    lacking = ratio(table.hits, table.predicted, 1.0) - precision
    return np.where(lacking >= -1e-12, recall(table), lacking)


def accuracy(table: Table) -> Array:
    """Return the share of rows predicted right, which micro F1 of classes is."""
    return np.asarray(table.hits.sum(-1))


def metrics(beta: float = 1.0, precision: float = 0.9) -> dict[str, Metric]:
    """Return every metric by its name.

    Args:
        beta: of "f_beta".
        precision: of "recall_at_precision".
    """
    return {
        "balanced_accuracy": Metric(
            lambda table: _mean(recall(table)),
            lambda table: (recall(table) + rejection(table)) / 2,
            balanced=True,
            closed=True,
            label_threshold=lambda actual: actual,
        ),
        "macro_f1": Metric(lambda table: _mean(f_beta(table, 1.0)), lambda table: f_beta(table, 1.0)),
        "micro_f1": Metric(accuracy, lambda table: f_beta(table, 1.0), "pooled", closed=True),
        "f_beta": Metric(lambda table: _mean(f_beta(table, beta)), lambda table: f_beta(table, beta)),
        "jaccard": Metric(lambda table: _mean(jaccard(table)), jaccard),
        "g_mean": Metric(_g_mean, lambda table: np.sqrt((recall(table) * rejection(table)).clip(0.0)), balanced=True),
        "mcc": Metric(_mcc, _mcc_of_labels),
        "worst_recall": Metric(
            lambda table: _least(recall(table)),
            lambda table: np.minimum(recall(table), rejection(table)),
            "least",
            balanced=True,
        ),
        "recall_at_precision": Metric(
            lambda table: recall_at_precision(table, precision)[..., 1],
            lambda table: recall_at_precision(table, precision),
        ),
    }


METRICS = tuple(metrics())
"""The names."""


def cost_of_labels(costs: Array) -> Metric:
    """Return minus the mean cost of a yes/no answer, the truth being the rows of `costs` (2, 2)."""

    def value(table: Table) -> Array:
        false, missed = table.predicted - table.hits, table.actual - table.hits
        right = 1 - table.hits - false - missed
        return np.asarray(
            -(costs[0, 0] * right + costs[0, 1] * false + costs[1, 0] * missed + costs[1, 1] * table.hits)
        )

    of_false, of_missed = costs[0, 1] - costs[0, 0], costs[1, 0] - costs[1, 1]
    threshold = of_false / (of_false + of_missed)
    return Metric(value, value, label_threshold=lambda actual: np.full_like(actual, threshold))
