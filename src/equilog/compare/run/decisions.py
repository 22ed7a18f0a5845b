"""What may be done to a model's probabilities before they decide: the prior taken off, or the metric's own rule."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from equilog.baselines.registry import Task
from equilog.compare.run.answers import Answers, Array, as_columns
from equilog.decisions import DecisionRule
from equilog.decisions.decide import ByGains, ByOffsets, ByThresholds, Decision
from equilog.decisions.recalibration import Recalibration, log_odds, log_probabilities

DECISIONS: dict[str, str] = {
    "prior-off": "the class frequencies of training taken off the probabilities",
    "rule": "the decision rule of the metric, learnt on rows that the model was not trained on",
}
"""Every decision by name, the simplest first; without one a model decides as it does."""


def prior_off(shares: Sequence[Array], task: Task) -> list[Decision]:
    """Return for each target the decision as if its classes (or yes and no) were equally frequent.

    Args:
        shares: the frequencies of the classes in training, or of yes.
        task: which task.
    """
    if task == "multilabel":
        return [ByThresholds(share) for share in shares]
    # A class without training rows has probability 0, and never comes first whatever its offset.
    return [ByOffsets(-np.log(np.where(share > 0, share, 1.0))) for share in shares]


def learnt(rule: Mapping[str, Any], posterior: Sequence[Array], target: NDArray[Any], task: Task) -> list[Decision]:
    """Return for each target the decision that is best for a metric.

    Args:
        rule: arguments of `DecisionRule`.
        posterior: probabilities of rows by models that were not trained on them.
        target: of these rows.
        task: which task.
    """
    decisions: list[Decision] = []
    for probability, column in zip(posterior, as_columns(target, task), strict=True):
        if task != "multilabel" and len(np.unique(column)) < 2:
            decisions.append(ByOffsets(np.zeros(probability.shape[1])))
            continue
        codes = column.astype(np.int64)
        # The rule's class 1 is the one to be found, which in the metric is the rarer one.
        named = isinstance(rule["metric"], str) and rule["metric"] == "recall_at_precision"
        turned = named and task == "multiclass" and codes.mean() > 0.5
        decision = (
            _learnt(rule, probability[:, ::-1], 1 - codes, task) if turned else _learnt(rule, probability, codes, task)
        )
        decisions.append(ByOffsets(decision.offsets[::-1]) if turned and isinstance(decision, ByOffsets) else decision)
    return decisions


def _learnt(rule: Mapping[str, Any], probability: Array, target: NDArray[np.int64], task: Task) -> Decision:
    with warnings.catch_warnings():
        # Few rows may lack a class or a label: what the rule does then is what is wanted.
        warnings.simplefilter("ignore", UserWarning)
        return DecisionRule(multilabel=task == "multilabel", **rule).fit(probability, target)._decision


def decided_by(answers: Answers, decisions: Sequence[Decision]) -> Answers:
    """Return the answers of a model, decided otherwise; the posterior stays."""
    pairs = list(zip(answers.posterior, decisions, strict=True))
    return replace(
        answers,
        balanced=[_weighted(probability, decision) for probability, decision in pairs],
        ruled=[decision.decide(probability) for probability, decision in pairs],
    )


def _weighted(probability: Array, decision: Decision) -> Array:
    """Return the probabilities by which it decides; the posterior where it weighs pairs of classes."""
    if isinstance(decision, ByOffsets):
        return np.asarray(softmax(log_probabilities(probability) + decision.offsets, axis=1))
    if isinstance(decision, ByThresholds):
        return np.asarray(expit(log_odds(probability) - log_odds(decision.thresholds)))
    return probability


def to_config(decision: Decision) -> dict[str, Any]:
    """Return what JSON can hold of a decision."""
    if isinstance(decision, ByOffsets):
        return {"offsets": decision.offsets.tolist()}
    if isinstance(decision, ByThresholds):
        return {"thresholds": decision.thresholds.tolist()}
    assert isinstance(decision, ByGains)
    slope, shift = decision.recalibration
    return {"slope": float(slope), "shift": shift.tolist(), "gains": decision.gains.tolist()}


def from_config(config: Mapping[str, Any]) -> Decision:
    """Return the decision that `to_config` described."""
    numbers = {name: np.asarray(value, dtype=np.float64) for name, value in config.items()}
    if "offsets" in numbers:
        return ByOffsets(numbers["offsets"])
    if "thresholds" in numbers:
        return ByThresholds(numbers["thresholds"])
    return ByGains(Recalibration(numbers["slope"], numbers["shift"]), numbers["gains"])
