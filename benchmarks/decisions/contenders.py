"""Ways to decide: ours, and what is done otherwise."""

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
from benchmarks.decisions.classifiers import Rows, Scored
from numpy.typing import NDArray

from equilog.decisions import DecisionRule
from equilog.decisions.ascent import ascend
from equilog.decisions.crossfit import jackknife, spread, value
from equilog.decisions.judge import Judge, OfClasses, OfConfusion, OfLabels
from equilog.decisions.metrics import Metric, cost_of_labels, metrics
from equilog.decisions.recalibration import log_odds, log_probabilities
from equilog.decisions.thresholds import best_cut

Array = NDArray[np.float64]
Codes = NDArray[np.int64]
Decide = Callable[[Array], Codes]

CLASS_METRICS = ("balanced_accuracy", "macro_f1", "g_mean", "mcc", "worst_recall", "costs")
LABEL_METRICS = ("macro_f1", "micro_f1", "mcc", "g_mean", "costs")

UNHELD = 1e9
"""A weight of rows with which nothing holds the searches of equilog.decisions back."""


class Case:
    """A metric of a task, and how to judge by it."""

    def __init__(self, metric: str, prior: Array, labels: bool) -> None:
        self.metric, self.labels, self.prior = metric, labels, prior
        self.costs = _costs(prior, labels) if metric == "costs" else None
        self.named: Metric | None = None if self.costs is not None else metrics()[metric]
        self.judge = self._judge()

    def _judge(self) -> Judge:
        costs = self.costs
        if costs is None:
            assert self.named is not None
            return OfLabels(self.named) if self.labels else OfClasses(self.named)
        if self.labels:
            return OfLabels(cost_of_labels(costs))
        return OfConfusion(lambda table: -(table * costs).sum() / table.sum())

    def rule(self, rows: Rows, *, labelled: bool) -> DecisionRule:
        """Return our rule from labelled rows, or from their probabilities alone."""
        rule = DecisionRule(self.metric if self.costs is None else self.costs, multilabel=self.labels)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # fifty rows do not have all classes
            return rule.fit(rows.probability, rows.target if labelled else None)

    def value(self, decided: Codes, rows: Rows) -> float:
        """Return the metric, minus the cost."""
        return value(self.judge, np.ones(len(decided)), self.truth(rows), decided)

    def difference(self, decided: Codes, usual: Codes, rows: Rows) -> tuple[float, float, float]:
        """Return the metric, by how much it is above that of other decisions, and the standard error of that."""
        values, without = jackknife(self.judge, np.ones(len(decided)), self.truth(rows), decided, usual)
        return float(values[0]), float(values[0] - values[1]), spread(without[:, 0] - without[:, 1])

    def truth(self, rows: Rows) -> Array:
        """Return the labels (n, L), or the classes one-hot (n, C)."""
        return rows.target.astype(float) if self.labels else np.eye(rows.probability.shape[1])[rows.target]


def _costs(prior: Array, labels: bool) -> Array:
    """Return costs that no class weights can stand for, so that saying the most frequent class costs 1 a row."""
    if labels:
        return np.array([[0.0, 1.0], [5.0, 0.0]])
    classes = len(prior)
    rarer = np.sqrt(prior.max() / np.maximum(prior, prior[prior > 0].min()))
    costs = np.random.default_rng(0).uniform(0.5, 1.5, (classes, classes)) * rarer[:, None] * (1 - np.eye(classes))
    return costs / (prior @ costs)[prior.argmax()]


def unchanged(case: Case, scored: Scored, rows: Rows) -> Decide:  # noqa: ARG001
    """The largest probability, or above one half."""
    return lambda p: (p > 0.5).astype(np.int64) if case.labels else p.argmax(1)


def rule(case: Case, scored: Scored, rows: Rows) -> Decide:  # noqa: ARG001
    """Ours, from labelled rows."""
    return case.rule(rows, labelled=True).predict


def plug_in(case: Case, scored: Scored, rows: Rows) -> Decide:  # noqa: ARG001
    """Ours, from the same rows without their labels."""
    return case.rule(rows, labelled=False).predict


def prior_off(case: Case, scored: Scored, rows: Rows) -> Decide:  # noqa: ARG001
    """The probability over the frequency in the rows trained on."""
    prior = np.maximum(scored.prior, 1e-6)
    return lambda p: (p > prior).astype(np.int64) if case.labels else (p / prior).argmax(1)


def tuned_apart(case: Case, scored: Scored, rows: Rows) -> Decide | None:  # noqa: ARG001
    """A threshold for each class against the rest, the best for its metric on the labelled rows; the largest ratio."""
    if case.named is None or case.metric == "worst_recall":
        return None
    truth = rows.target if case.labels else np.eye(rows.probability.shape[1])[rows.target]
    odds, weight = log_odds(rows.probability), np.full(len(truth), UNHELD)
    if case.named.average == "pooled":
        every = np.repeat(weight, truth.shape[1])
        cuts = np.full(truth.shape[1], best_cut(odds.ravel(), truth.ravel(), every, case.named, 0.0))
    else:
        cuts = np.array([_cut(odds[:, k], truth[:, k], weight, case.named) for k in range(truth.shape[1])])
    if case.labels:
        return lambda p: (log_odds(p) > cuts).astype(np.int64)
    thresholds = 1 / (1 + np.exp(-cuts))
    return lambda p: (p / thresholds).argmax(1)


def _cut(odds: Array, truth: Array, weight: Array, metric: Metric) -> float:
    return best_cut(odds, truth, weight, metric, 0.0) if 0 < truth.mean() < 1 else 0.0


def tuned_together(case: Case, scored: Scored, rows: Rows) -> Decide | None:  # noqa: ARG001
    """Weights of the classes, one after the other the best for the metric itself on the labelled rows."""
    if case.named is None or case.labels:
        return None
    truth = np.eye(rows.probability.shape[1])[rows.target]
    offsets = _unheld(case.named, rows.probability, truth)
    return lambda p: (log_probabilities(p) + offsets).argmax(1)


def _unheld(metric: Metric, probability: Array, truth: Array) -> Array:
    weight, free = np.full(len(truth), UNHELD), truth.sum(0) > 0
    start = np.zeros(len(free))
    if metric.balanced:
        start[free] = -np.log(truth.mean(0)[free])
    return ascend(log_probabilities(probability), truth, weight, metric.of_classes, start, free)


def xcolumns(case: Case, scored: Scored, rows: Rows) -> Decide | None:  # noqa: ARG001
    """The Frank-Wolfe classifier of xcolumns, drawn at random as it is, for the metrics that it has.

    Steps of a hundredth in its line search and 20 iterations at most, to save time: its defaults are 0.001 and 100.
    """
    from xcolumns import frank_wolfe as library
    from xcolumns import metrics as theirs

    known = (
        {"macro_f1": "macro_f1_score", "micro_f1": "micro_f1_score", "g_mean": "macro_gmean",
         "balanced_accuracy": "macro_balanced_accuracy"}
        if case.labels
        else {"macro_f1": "macro_f1_score", "balanced_accuracy": "macro_recall"}
    )  # fmt: skip
    if case.metric not in known:
        return None
    truth = rows.target if case.labels else np.eye(rows.probability.shape[1])[rows.target]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = library.find_classifier_using_fw(
            truth.astype(np.float64), rows.probability, getattr(theirs, f"{known[case.metric]}_on_conf_matrix"),
            0 if case.labels else 1, init_classifier="top", max_iters=20, alpha_uniform_search_step=0.01, seed=0,
        )  # fmt: skip

    def decide(p: Array) -> Codes:
        said = np.asarray(found.predict(p, seed=0))
        return said.astype(np.int64) if case.labels else said.argmax(1)

    return decide


CONTENDERS: dict[str, Callable[[Case, Scored, Rows], Decide | None]] = {
    "argmax": unchanged,
    "DecisionRule": rule,
    "without labels": plug_in,
    "prior taken off": prior_off,
    "tuned one against the rest": tuned_apart,
    "tuned together": tuned_together,
    **({"xcolumns": xcolumns} if find_spec("xcolumns") else {}),
}
"""Each makes of a case, a classifier and calibration rows a way to decide, or None where it has none."""


def oracle(case: Case, rows: Rows) -> float:
    """Return the best value that a rule of our form has on the very rows it is judged by."""
    if case.costs is not None:
        return case.value(case.rule(rows, labelled=True).predict(rows.probability), rows)
    if case.labels:
        decide: Any = tuned_apart(case, None, rows)  # type: ignore[arg-type]
        return case.value(decide(rows.probability), rows)
    assert case.named is not None
    offsets = _unheld(case.named, rows.probability, np.eye(rows.probability.shape[1])[rows.target])
    return case.value((log_probabilities(rows.probability) + offsets).argmax(1), rows)
