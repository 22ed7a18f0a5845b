"""The best threshold of each yes/no label, from the rows in the order of their probabilities.

A metric that is a mean over labels is best where each label's number is, and with one threshold there are as many rules
as rows: all of them are judged. (Koyejo et al., "Consistent binary classification with generalized performance
metrics", NeurIPS 2014: for such metrics a threshold on the probability is the best there is.)
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from equilog.decisions.ascent import STRENGTH
from equilog.decisions.inputs import Array
from equilog.decisions.judge import OfTables
from equilog.decisions.metrics import Metric, Table
from equilog.decisions.recalibration import log_odds

CANDIDATES = 33
"""Thresholds tried for each label where a function of all tables is called for every one."""

PASSES = 2


def best_cut(log_odds: Array, truth: Array, weight: Array, metric: Metric, reference: float) -> float:
    """Return the log odds above which yes is best said, for one label.

    Args:
        log_odds: (n,) finite.
        truth: (n,) probability of yes, 0 or 1 where it is known.
        weight: (n,).
        metric: to maximise, less STRENGTH (cut - reference)^2 / total weight.
        reference: log odds to stay near.
    """
    order = np.argsort(-log_odds, kind="stable")
    falling, total = log_odds[order], weight.sum()
    hits, predicted = (np.append(0.0, np.cumsum(part[order])) / total for part in (weight * truth, weight))
    cuts = np.concatenate([[falling[0] + 1.0], (falling[1:] + falling[:-1]) / 2, [falling[-1] - 1.0]])
    table = Table(hits[:, None], predicted[:, None], hits[-1:])
    worth = metric.of_labels(table)[:, 0] - STRENGTH / total * (cuts - reference) ** 2
    # No threshold parts rows that are alike.
    worth[1:-1][falling[1:] == falling[:-1]] = -np.inf
    worth[np.isnan(worth)] = -np.inf  # a recall of no rows
    return float(cuts[int(worth.argmax())]) if np.isfinite(worth).any() else reference


def best_cuts(log_odds: Array, truth: Array, weight: Array, metric: Metric) -> Array:
    """Return the log odds (L,) above which yes is best said, for log odds and truth (n, L)."""
    actual = (weight @ truth) / weight.sum()
    reference = reference_cuts(metric, actual)
    if metric.average == "pooled":
        every = np.repeat(weight, truth.shape[1])
        return np.full(truth.shape[1], best_cut(log_odds.ravel(), truth.ravel(), every, metric, 0.0))
    return np.array(
        [best_cut(log_odds[:, k], truth[:, k], weight, metric, reference[k]) for k in range(truth.shape[1])]
    )


def reference_cuts(metric: Metric, actual: Array) -> Array:
    """Return the log odds that a good cut is near, from the labels' frequencies; the best where there is a formula."""
    if metric.label_threshold is not None:
        return log_odds(metric.label_threshold(actual))
    return log_odds(actual) if metric.balanced else np.zeros_like(actual)


def best_cuts_together(odds: Array, truth: Array, weight: Array, function: Callable[[Array], Any]) -> Array:
    """Return the log odds (L,) above which yes is best said, for a function of all tables (L, 2, 2).

    One label's threshold is chosen at a time, from quantiles of its log odds, the others' being as they are.
    """
    rows, labels = truth.shape
    judge, cuts = OfTables(function), np.zeros(labels)
    group = np.zeros(rows, np.int64)

    def table(k: int, cut: float) -> Array:
        said = (odds[:, k : k + 1] > cut).astype(np.int64)
        return np.asarray(judge.sums(said, truth[:, k : k + 1], weight, group, 1)[0, 0])

    tables = np.stack([table(k, 0.0) for k in range(labels)])
    for _ in range(PASSES):
        for k in range(labels):
            candidates = np.append(np.quantile(odds[:, k], np.linspace(0, 1, CANDIDATES)), cuts[k])
            best, at = -np.inf, (cuts[k], tables[k])
            for cut in candidates:
                tables[k] = table(k, cut)
                worth = judge.value(tables) - STRENGTH / weight.sum() * cut**2
                if worth > best:
                    best, at = worth, (cut, tables[k].copy())
            cuts[k], tables[k] = at
    return cuts
