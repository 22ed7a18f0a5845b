"""What a rule is worth on rows it was not learnt from, and whether it is kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

from equilog.decisions.decide import Decision
from equilog.decisions.inputs import Array, Codes
from equilog.decisions.judge import Judge
from equilog.decisions.learn import Learner, Sample, mixed

SHARES = (0.0, 0.5)
"""How much of the truth a rule may learn from the labels, the rest being the corrected probabilities."""

BELIEF = 0.5
"""The labels' share in what rules are compared by; the rest is the corrected probabilities'."""

GROUPS = 30
"""Groups of rows that the jackknife leaves out in turn."""

TWO_FOLDS_FROM = 20_000
"""Rows from which on two folds say enough."""

MOST_ROWS = 5_000
"""Rows that a rule of cross-fitting learns from at most; the rule that is kept learns from all."""


@dataclass(frozen=True)
class DecisionReport:
    """What a fitted rule is worth. Larger is better; costs are negative."""

    argmax: float
    """The metric of the largest probability (of labels: above one half), on the rows of fit."""
    rule: float
    """The metric of the rule on the rows that it was learnt from, which is too good."""
    cross_fitted: float
    """The metric of rules that were each learnt from the other folds' rows."""
    interval: tuple[float, float]
    """95 % interval of `cross_fitted`, by a jackknife over groups of rows."""
    gain: float
    """`cross_fitted` less `argmax`."""
    gain_interval: tuple[float, float]
    """95 % interval of `gain`, by the same jackknife."""
    held_back_gain: float
    """The gain where every row counts half by its label and half by its corrected probability, as few rows need."""
    kept: str
    """"rule", or "argmax" where there are labels and `held_back_gain` is not above 0."""
    label_share: float
    """How much of the truth was taken from the labels in the search, the rest from the corrected probabilities."""


def value(judge: Judge, sample: Sample, decided: Codes) -> float:
    """Return the metric of decided rows."""
    group = np.zeros(len(decided), np.int64)
    return judge.value(judge.sums(decided, sample.truth(), sample.weight, group, 1)[0])


def folds(sample: Sample, count: int) -> Codes:
    """Return a fold for each row (n,), every class and every label shared out as evenly as it goes."""
    rows = len(sample.weight)
    if sample.target is None:
        return np.arange(rows) % count
    strata = sample.target if sample.target.ndim == 1 else _rarest(sample.target)
    order = np.argsort(strata, kind="stable")
    fold = np.empty(rows, np.int64)
    fold[order] = np.arange(rows) % count
    return fold


def _rarest(labels: Codes) -> Codes:
    """Return for each row the rarest label that it has, or one number more where it has none."""
    count = labels.sum(0)
    rare = np.where(labels > 0, count, count.sum() + 1)
    return np.asarray(np.where(labels.any(1), rare.argmin(1), labels.shape[1]))


def decided_apart(learner: Learner, sample: Sample, shares: Sequence[float], fold: Codes) -> list[Codes]:
    """Return for each share what rules learnt from the other folds say of each row."""
    decided: list[Any] = [None] * len(shares)
    for number in range(int(fold.max()) + 1):
        others, here = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        thin = others[:: -(-len(others) // MOST_ROWS)]
        for place, rule in enumerate(learner.learn(sample.rows(thin), *shares)):
            said = rule.decide(sample.probability[here])
            if decided[place] is None:
                decided[place] = np.empty((len(fold), *said.shape[1:]), np.int64)
            decided[place][here] = said
    return decided


def jackknife(judge: Judge, weight: Array, truth: Array, *decided: Codes) -> tuple[Array, Array]:
    """Return the metric of several decisions of the same rows (k,), and without each group of rows (G, k)."""
    rows = len(weight)
    groups = min(GROUPS, rows)
    group = np.arange(rows) % groups
    full, without = [], []
    for one in decided:
        sums = judge.sums(one, truth, weight, group, groups)
        total = sums.sum(0)
        full.append(judge.value(total))
        without.append([judge.value(total - part) for part in sums])
    return np.array(full), np.array(without).T


def spread(without: Array) -> float:
    """Return the standard error from what a number is without each group (G,)."""
    known = without[np.isfinite(without)]
    return float(np.sqrt(max(len(known) - 1, 0) * known.var())) if len(known) > 1 else np.nan


def interval(centre: float, error: float, groups: int) -> tuple[float, float]:
    """Return a 95 % interval of a jackknife over that many groups."""
    reach = float(student.ppf(0.975, max(groups - 1, 1))) * error
    return centre - reach, centre + reach


def learn_and_report(learner: Learner, sample: Sample, count: int) -> tuple[Decision, DecisionReport]:
    """Return the rule to go by and what it is worth: argmax where cross-fitting sees no gain.

    Args:
        learner: for a metric.
        sample: the rows.
        count: of folds.
    """
    judge = learner.judge
    unchanged = learner.unchanged(sample.probability.shape[1])
    shares = SHARES if sample.target is not None and learner.mixes else SHARES[:1]
    rows = len(sample.weight)
    few = sample.target is None or rows > TWO_FOLDS_FROM
    fold = folds(sample, 2 if few else min(count, rows))
    plain = unchanged.decide(sample.probability)
    apart = decided_apart(learner, sample, shares, fold)
    decided = (plain, *apart)
    # The labels of few rows say little of a metric, and nothing of classes that are not among them.
    believed = mixed(sample, learner.corrected(sample), BELIEF)
    values, without = jackknife(judge, sample.weight, believed, *decided)
    chosen = 1
    for other in range(2, len(values)):
        if values[other] - values[chosen] > spread(without[:, other] - without[:, chosen]):
            chosen = other
    held_back_gain = float(values[chosen] - values[0])
    seen = sample.target is None or held_back_gain > 0
    [rule] = learner.learn(sample, shares[chosen - 1])
    values, without = jackknife(judge, sample.weight, sample.truth(), plain, apart[chosen - 1])
    groups, gain = len(without), float(values[1] - values[0])
    report = DecisionReport(
        argmax=float(values[0]),
        rule=value(judge, sample, rule.decide(sample.probability)),
        cross_fitted=float(values[1]),
        interval=interval(float(values[1]), spread(without[:, 1]), groups),
        gain=gain,
        gain_interval=interval(gain, spread(without[:, 1] - without[:, 0]), groups),
        held_back_gain=held_back_gain,
        kept="rule" if seen else "argmax",
        label_share=shares[chosen - 1],
    )
    return rule if seen else unchanged, report
