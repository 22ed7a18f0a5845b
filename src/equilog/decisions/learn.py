"""From probabilities, and labels where there are any, to the rule that is best for a metric."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import expit

from equilog.decisions.ascent import ascend
from equilog.decisions.decide import ByGains, ByOffsets, ByThresholds, Decision
from equilog.decisions.gains import best_gains
from equilog.decisions.inputs import Array, Codes
from equilog.decisions.judge import Judge, OfClasses, OfConfusion, OfLabels, OfTables
from equilog.decisions.metrics import Metric
from equilog.decisions.recalibration import (
    Recalibration,
    log_probabilities,
    none_of_classes,
    none_of_labels,
    recalibrate_classes,
    recalibrate_labels,
)
from equilog.decisions.thresholds import best_cuts, best_cuts_together, reference_cuts

PROBABILITIES_COUNT = 50.0
"""Labelled rows of a class that its corrected probabilities count for: with so many, labels have half a say in it.

Few labels say little of a class, and nothing of one that is not among them; of many nothing is better known, and
probabilities may be wrong in ways that no slope and shift correct."""


@dataclass(frozen=True)
class Sample:
    """Rows to learn from or to be judged on."""

    probability: Array
    """(n, C) or (n, L)."""
    target: Codes | None
    """(n,) classes or (n, L) of 0 and 1; None where nobody knows."""
    weight: Array
    """(n,)"""

    def truth(self) -> Array:
        """Return labels (n, L), or classes as probabilities (n, C): the classifier's where none are known."""
        if self.target is None:
            return self.probability
        if self.target.ndim == 2:
            return np.asarray(self.target, np.float64)
        return np.asarray(np.eye(self.probability.shape[1])[self.target])

    def counts(self) -> Array:
        """Return the weight of the rows of each class or label."""
        if self.target is None or self.target.ndim == 2:
            return np.asarray(self.weight @ self.truth())
        return np.asarray(np.bincount(self.target, self.weight, self.probability.shape[1]), np.float64)

    def frequency(self) -> Array:
        """Return the share of each class or label."""
        return np.asarray(self.counts() / self.weight.sum())

    def rows(self, index: Any) -> "Sample":
        """Return some rows."""
        target = None if self.target is None else self.target[index]
        return Sample(self.probability[index], target, self.weight[index])


@dataclass(frozen=True)
class Belief:
    """What is taken for true of rows, from their probabilities and labels."""

    recalibration: Recalibration
    """What the labels correct the probabilities by."""
    scores: Array
    """The corrected log probabilities (n, C), or log odds of yes (n, L)."""
    truth: Array
    """(n, C) or (n, L): the labels and the corrected probabilities, so much of each as `label_shares` says."""


def label_shares(sample: Sample) -> Array:
    """Return how much of the truth of each class or label is labels': m / (m + PROBABILITIES_COUNT).

    m is the number of rows of the class, or of the label's rarer answer, and 0 where nobody knows.
    """
    if sample.target is None:
        return np.zeros(sample.probability.shape[1])
    rows = sample.counts()
    if sample.target.ndim == 2:
        rows = np.minimum(rows, sample.weight.sum() - rows)
    return np.asarray(rows / (rows + PROBABILITIES_COUNT))


def _mixed(sample: Sample, corrected: Array) -> Array:
    if sample.target is None:
        return corrected
    shares = label_shares(sample)
    truth = corrected * (1 - shares)
    if sample.target.ndim == 2:
        return np.asarray(truth + shares * sample.target)
    truth[np.arange(len(truth)), sample.target] += shares[sample.target]
    return truth


class Learner(ABC):
    """A metric and the way to the rule that is best for it."""

    judge: Judge

    def believe(self, sample: Sample) -> Belief:
        """Return what is to be learnt from rows with a choice of classes."""
        log_prob = log_probabilities(sample.probability)
        if sample.target is None:
            return Belief(none_of_classes(log_prob.shape[1]), log_prob, sample.probability)
        recalibration = recalibrate_classes(log_prob, sample.target, sample.weight)
        log_prob = recalibration.of_classes(log_prob)
        return Belief(recalibration, log_prob, _mixed(sample, np.exp(log_prob)))

    @abstractmethod
    def learn(self, sample: Sample, belief: Belief) -> Decision:
        """Return the best rule for what is believed of the rows."""

    @abstractmethod
    def unchanged(self, columns: int) -> Decision:
        """Return the rule of the bare probabilities: argmax, or above one half."""


@dataclass(frozen=True)
class Offsets(Learner):
    """A metric of each class's hits, predictions and rows."""

    metric: Metric
    judge: Judge = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "judge", OfClasses(self.metric))

    def learn(self, sample: Sample, belief: Belief) -> Decision:
        """Return offsets; a class without labelled rows keeps what its probabilities say, one without those 0."""
        free = sample.weight @ sample.probability > 0
        offsets = np.zeros(len(free))
        if self.metric.balanced:
            truth = np.exp(belief.scores) if self.metric.closed else belief.truth
            surprise = -np.log(sample.weight @ truth / sample.weight.sum(), where=free, out=offsets.copy())
            offsets[free] = (surprise - surprise[free].mean())[free]
        if not self.metric.closed:
            offsets = ascend(belief.scores, belief.truth, sample.weight, self.metric.of_classes, offsets, free)
        return ByOffsets((belief.recalibration.shift + offsets) / belief.recalibration.slope)

    def unchanged(self, columns: int) -> ByOffsets:
        """Return argmax."""
        return ByOffsets(np.zeros(columns))


@dataclass(frozen=True)
class Gains(Learner):
    """A cost for each pair of true and predicted class, or a function of the confusion matrix."""

    costs: Array | None
    function: Callable[[Array], Any] | None
    judge: Judge = field(init=False)

    def __post_init__(self) -> None:
        costs, function = self.costs, self.function
        if costs is not None:
            object.__setattr__(self, "judge", OfConfusion(lambda table: -(table * costs).sum() / table.sum()))
        else:
            assert function is not None
            object.__setattr__(self, "judge", OfConfusion(function))

    def learn(self, sample: Sample, belief: Belief) -> Decision:
        """Return gains."""
        if self.costs is not None:
            return ByGains(belief.recalibration, -self.costs)
        assert self.function is not None
        gains = best_gains(np.exp(belief.scores), belief.truth, sample.weight, self.function)
        return ByGains(belief.recalibration, gains)

    def unchanged(self, columns: int) -> ByOffsets:
        """Return argmax."""
        return ByOffsets(np.zeros(columns))


@dataclass(frozen=True)
class Thresholds(Learner):
    """A metric of each label's hits, predictions and rows, or a function of all labels' tables."""

    metric: Metric | None
    function: Callable[[Array], Any] | None
    judge: Judge = field(init=False)

    def __post_init__(self) -> None:
        if self.metric is not None:
            object.__setattr__(self, "judge", OfLabels(self.metric))
        else:
            assert self.function is not None
            object.__setattr__(self, "judge", OfTables(self.function))

    def believe(self, sample: Sample) -> Belief:
        """Return what is to be learnt from rows with yes/no labels."""
        recalibration = (
            none_of_labels(sample.probability.shape[1])
            if sample.target is None
            else recalibrate_labels(sample.probability, sample.target, sample.weight)
        )
        odds = recalibration.of_labels(sample.probability)
        return Belief(recalibration, odds, _mixed(sample, expit(odds)))

    def learn(self, sample: Sample, belief: Belief) -> Decision:
        """Return thresholds; a label that no row or every row has keeps one half."""
        frequency = sample.frequency()
        thresholds = expit((self._cuts(sample, belief) - belief.recalibration.shift) / belief.recalibration.slope)
        return ByThresholds(np.where((frequency > 0) & (frequency < 1), thresholds, 0.5))

    def _cuts(self, sample: Sample, belief: Belief) -> Array:
        if self.metric is None:
            assert self.function is not None
            return best_cuts_together(belief.scores, belief.truth, sample.weight, self.function)
        if self.metric.label_threshold is not None:
            corrected = expit(belief.scores)
            return reference_cuts(self.metric, sample.weight @ corrected / sample.weight.sum())
        return best_cuts(belief.scores, belief.truth, sample.weight, self.metric)

    def unchanged(self, columns: int) -> ByThresholds:
        """Return thresholds of one half."""
        return ByThresholds(np.full(columns, 0.5))
