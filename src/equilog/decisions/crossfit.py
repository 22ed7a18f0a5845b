"""What a rule is worth on rows it was not learnt from, and whether it is kept."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from equilog.decisions.decide import Decision
from equilog.decisions.inputs import Array, Codes
from equilog.decisions.judge import Judge
from equilog.decisions.learn import Learner, Sample, label_shares

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
    """The gain where every row counts by its label as far as `label_share` says, the rest by its probability."""
    kept: str
    """"rule", or "argmax" where there are labels and `held_back_gain` is not above 0."""
    label_share: float
    """How much of the truth in the search was labels, a mean of the classes; the rest was corrected probabilities."""


def value(judge: Judge, weight: Array, truth: Array, decided: Codes) -> float:
    """Return the metric of decided rows."""
    group = np.zeros(len(weight), np.int64)
    return judge.value(judge.sums(decided, truth, weight, group, 1)[0])


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


def decided_apart(learner: Learner, sample: Sample, fold: Codes) -> Codes:
    """Return what rules learnt from the other folds say of each row."""
    parts = []
    for number in range(int(fold.max()) + 1):
        others = np.flatnonzero(fold != number)
        thin = sample.rows(others[:: -(-len(others) // MOST_ROWS)])
        parts.append(learner.learn(thin, learner.believe(thin)).decide(sample.probability[fold == number]))
    decided = np.concatenate(parts)
    back = np.argsort(np.argsort(fold, kind="stable"), kind="stable")
    return np.asarray(decided[back])


def jackknife(judge: Judge, weight: Array, truth: Array, *decided: Codes) -> tuple[Array, Array]:
    """Return the metric of several decisions of the same rows (k,), and without each group of rows (G, k)."""
    rows = len(weight)
    groups = min(GROUPS, rows)
    group = np.arange(rows) % groups
    values = []
    for one in decided:
        sums = judge.sums(one, truth, weight, group, groups)
        total = sums.sum(0, keepdims=True)
        values.append(judge.values(np.concatenate([total, total - sums])))
    every = np.array(values).T
    return every[0], every[1:]


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
    rows = len(sample.weight)
    few = sample.target is None or rows > TWO_FOLDS_FROM
    plain = unchanged.decide(sample.probability)
    apart = decided_apart(learner, sample, folds(sample, 2 if few else min(count, rows)))
    belief = learner.believe(sample)
    before, after = (value(judge, sample.weight, belief.truth, decided) for decided in (plain, apart))
    held_back_gain = after - before
    seen = sample.target is None or held_back_gain > 0
    rule, truth = learner.learn(sample, belief), sample.truth()
    values, without = jackknife(judge, sample.weight, truth, plain, apart)
    groups, gain = len(without), float(values[1] - values[0])
    report = DecisionReport(
        argmax=float(values[0]),
        rule=value(judge, sample.weight, truth, rule.decide(sample.probability)),
        cross_fitted=float(values[1]),
        interval=interval(float(values[1]), spread(without[:, 1]), groups),
        gain=gain,
        gain_interval=interval(gain, spread(without[:, 1] - without[:, 0]), groups),
        held_back_gain=held_back_gain,
        kept="rule" if seen else "argmax",
        label_share=float(label_shares(sample).mean()),
    )
    return rule if seen else unchanged, report
