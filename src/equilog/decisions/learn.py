"""From probabilities, and labels where there are any, to the rule that is best for a metric."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
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

    def frequency(self) -> Array:
        """Return the share of each class or label."""
        return np.asarray(self.weight @ self.truth() / self.weight.sum())

    def rows(self, index: Any) -> "Sample":
        """Return some rows."""
        target = None if self.target is None else self.target[index]
        return Sample(self.probability[index], target, self.weight[index])


class Learner(ABC):
    """A metric and the way to the rule that is best for it."""

    judge: Judge
    mixes = True
    """Whether a share of the truth can be the labels' and the rest the probabilities'."""

    @abstractmethod
    def learn(self, sample: Sample, *shares: float) -> list[Decision]:
        """Return for each share the best rule for a truth that is so much label and the rest corrected probability."""

    @abstractmethod
    def unchanged(self, columns: int) -> Decision:
        """Return the rule of the bare probabilities: argmax, or above one half."""

    def corrected(self, sample: Sample) -> Array:
        """Return the probabilities of the rows, corrected by their labels where they have some."""
        return np.exp(_corrected_classes(sample)[1])


def mixed(sample: Sample, corrected: Array, share: float) -> Array:
    """Return the truth that is learnt from."""
    return corrected if share == 0 else share * sample.truth() + (1 - share) * corrected


def _corrected_classes(sample: Sample) -> tuple[Recalibration, Array]:
    log_prob = log_probabilities(sample.probability)
    if sample.target is None:
        return none_of_classes(log_prob.shape[1]), log_prob
    recalibration = recalibrate_classes(log_prob, sample.target, sample.weight)
    return recalibration, recalibration.of_classes(log_prob)


def _corrected_labels(sample: Sample) -> tuple[Recalibration, Array]:
    recalibration = (
        none_of_labels(sample.probability.shape[1])
        if sample.target is None
        else recalibrate_labels(sample.probability, sample.target, sample.weight)
    )
    return recalibration, recalibration.of_labels(sample.probability)


@dataclass(frozen=True)
class Offsets(Learner):
    """A metric of each class's hits, predictions and rows."""

    metric: Metric
    judge: Judge = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "judge", OfClasses(self.metric))

    @property
    def mixes(self) -> bool:  # type: ignore[override]
        """Whether labels have a say beside correcting the probabilities: not where the rule is a formula."""
        return not self.metric.closed

    def learn(self, sample: Sample, *shares: float) -> list[Decision]:
        """Return offsets; a class without labelled rows keeps what its probabilities say, one without those 0."""
        recalibration, log_prob = _corrected_classes(sample)
        corrected = np.exp(log_prob)
        free = sample.weight @ sample.probability > 0
        best = (self._offsets(sample, log_prob, mixed(sample, corrected, share), free) for share in shares)
        return [ByOffsets((recalibration.shift + offsets) / recalibration.slope) for offsets in best]

    def _offsets(self, sample: Sample, log_prob: Array, truth: Array, free: NDArray[np.bool_]) -> Array:
        offsets = np.zeros(len(free))
        if self.metric.balanced:
            surprise = -np.log(sample.weight @ truth / sample.weight.sum(), where=free, out=offsets.copy())
            offsets[free] = (surprise - surprise[free].mean())[free]
        if not self.metric.closed:
            offsets = ascend(log_prob, truth, sample.weight, self.metric.of_classes, offsets, free)
        return offsets

    def unchanged(self, columns: int) -> ByOffsets:
        """Return argmax."""
        return ByOffsets(np.zeros(columns))


@dataclass(frozen=True)
class Gains(Learner):
    """A cost for each pair of true and predicted class, or a function of the confusion matrix."""

    costs: Array | None
    function: Callable[[Array], Any] | None
    judge: Judge = field(init=False)
    mixes = False

    def __post_init__(self) -> None:
        costs, function = self.costs, self.function
        if costs is not None:
            object.__setattr__(self, "judge", OfConfusion(lambda table: -(table * costs).sum() / table.sum()))
        else:
            assert function is not None
            object.__setattr__(self, "judge", OfConfusion(function))

    def learn(self, sample: Sample, *shares: float) -> list[Decision]:
        """Return gains, which are the same for every share."""
        recalibration, log_prob = _corrected_classes(sample)
        if self.costs is not None:
            gains = -self.costs
        else:
            assert self.function is not None
            gains = best_gains(np.exp(log_prob), sample.weight, self.function)
        return [ByGains(recalibration, gains)] * len(shares)

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

    def learn(self, sample: Sample, *shares: float) -> list[Decision]:
        """Return thresholds; a label that no row or every row has keeps one half."""
        recalibration, odds = _corrected_labels(sample)
        frequency = sample.frequency()
        rules: list[Decision] = []
        for share in shares:
            cuts = self._cuts(sample, odds, mixed(sample, expit(odds), share), formula=share == 0)
            thresholds = expit((cuts - recalibration.shift) / recalibration.slope)
            rules.append(ByThresholds(np.where((frequency > 0) & (frequency < 1), thresholds, 0.5)))
        return rules

    def corrected(self, sample: Sample) -> Array:
        """Return the probabilities of the rows, corrected by their labels where they have some."""
        return np.asarray(expit(_corrected_labels(sample)[1]))

    def _cuts(self, sample: Sample, odds: Array, truth: Array, *, formula: bool) -> Array:
        if self.metric is None:
            assert self.function is not None
            return best_cuts_together(odds, truth, sample.weight, self.function)
        if formula and self.metric.label_threshold is not None:
            return reference_cuts(self.metric, sample.weight @ truth / sample.weight.sum())
        return best_cuts(odds, truth, sample.weight, self.metric)

    def unchanged(self, columns: int) -> ByThresholds:
        """Return thresholds of one half."""
        return ByThresholds(np.full(columns, 0.5))
