"""One run: one model trained on one split, and every way in which it is to decide tested on the test rows."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from joblib import parallel_config
from numpy.typing import NDArray
from sklearn.base import clone

from equilog.compare.data.dataset import Dataset
from equilog.compare.data.preprocessor import Preprocessor
from equilog.compare.data.splits import Rows
from equilog.compare.errors import DataError
from equilog.compare.judge.chosen_metric import MetricChoice
from equilog.compare.judge.metrics import class_records, evaluate, metrics_for, reliability
from equilog.compare.judge.records import RunRecord
from equilog.compare.run.answers import Answers, Array, TargetNames, frequencies
from equilog.compare.run.contenders import Contender
from equilog.compare.run.decisions import decided_by, learnt, prior_off
from equilog.compare.run.models import Features, Fitted, Model, ModelSettings
from equilog.compare.run.shared import let_go, shared
from equilog.decisions.decide import Decision
from equilog.sklearn.threads import one_thread

T = TypeVar("T")

FOLDS = 3
"""Parts of the training rows that the model says the probabilities of, in turn, having been trained on the others."""

ONE_FOLD_FROM = 20_000
"""Training rows from which on a fifth of them says enough, and one further training does."""


@dataclass(frozen=True)
class Split:
    """One split as arrays, preprocessed by what its own training rows teach."""

    seed: int
    train_features: Features
    train_target: NDArray[Any]
    test_features: Features
    test_target: NDArray[Any]


OVERCOME = (ValueError, RuntimeError, ArithmeticError, MemoryError, TypeError, LookupError, AttributeError, DataError)
"""What a training may raise without taking the others with it; the user's own models may raise much."""


@dataclass(frozen=True)
class Failure:
    """A training that could not be finished."""

    loss: str
    """The name of the contender."""
    reason: str


@dataclass(frozen=True)
class RunSettings:
    """What every run is trained and judged with."""

    metric: MetricChoice
    model: ModelSettings = field(default_factory=ModelSettings)
    tune: bool = False


@dataclass(frozen=True)
class FittedContender:
    """A trained model, and what is done to its probabilities before they decide."""

    model: Fitted
    decisions: tuple[Decision, ...] | None = None
    """One for each target; None where the model decides as it does."""

    def answers(self, features: Features) -> Answers:
        """Return what it says of rows (n, d)."""
        said = self.model.answers(features)
        return said if self.decisions is None else decided_by(said, self.decisions)


def prepare(dataset: Dataset, preprocessor: Preprocessor, rows: tuple[Rows, Rows], seed: int) -> Split:
    """Return a split of training and test rows, the preprocessor fitted anew on its training rows."""
    train, test = rows
    fitted = clone(preprocessor)
    with in_this_process():
        fitted.fit(dataset.features, rows=train)
        return Split(
            seed,
            inputs(fitted, dataset, train),
            dataset.target[train],
            inputs(fitted, dataset, test),
            dataset.target[test],
        )


def inputs(fitted: Preprocessor, dataset: Dataset, rows: Rows) -> Features:
    """Return what a fitted preprocessor makes of some rows, where processes can share it."""
    return shared(fitted.blocks(dataset.features, rows), len(rows))


def in_this_process() -> AbstractContextManager[object]:
    """Preprocess in this process: on a cluster scikit-learn would wait in the queue that its own work is filling."""
    context: AbstractContextManager[object] = parallel_config("sequential")
    return context


def attempted(contender: str, rows: str, training: Callable[[], T]) -> T | Failure:
    """Return what a training gives, or why it failed: one that breaks must not take the others with it."""
    try:
        return training()
    except OVERCOME as error:
        return Failure(contender, f"{contender}, {rows}: {error}")


@one_thread()
def attempt(
    split: Split, names: TargetNames, contenders: Sequence[Contender], settings: RunSettings
) -> list[RunRecord | Failure]:
    """Return the record of each contender that shares a training, or why it failed.

    On one thread: the runs themselves are what is spread over the processors.
    """
    start = time.perf_counter()
    place = f"split {split.seed}"
    fitted = attempted(
        contenders[0].trained,
        place,
        lambda: fit(split.train_features, split.train_target, names, contenders[0], settings, split.seed),
    )
    if isinstance(fitted, Failure):
        return [Failure(contender.name, fitted.reason) for contender in contenders]
    seconds = time.perf_counter() - start
    let_go(split.train_features)

    def tested(contender: Contender) -> RunRecord:
        start = time.perf_counter()
        decided = decide(fitted, split.train_features, split.train_target, names, contender, settings, split.seed)
        return record(contender, decided, split, names, settings, lambda: seconds + time.perf_counter() - start)

    return [attempted(contender.name, place, lambda c=contender: tested(c)) for contender in contenders]  # type: ignore[misc]


def fit(
    features: Features, target: NDArray[Any], names: TargetNames, contender: Contender, settings: RunSettings, seed: int
) -> Fitted:
    """Return the contender's model, trained."""
    return _model(names, contender, settings, seed).fit(features, target, names, seed)


def decide(
    model: Fitted,
    features: Features,
    target: NDArray[Any],
    names: TargetNames,
    contender: Contender,
    settings: RunSettings,
    seed: int,
) -> FittedContender:
    """Return the trained model with the contender's decision, learnt from rows that models were not trained on."""
    if contender.decision is None:
        return FittedContender(model)
    if contender.decision == "prior-off":
        return FittedContender(model, tuple(prior_off(frequencies(target, names), names.task)))
    rows, posterior = apart(_model(names, contender, settings, seed), features, target, names, seed)
    rule = settings.metric.metric().rule
    return FittedContender(model, tuple(learnt(rule, posterior, target[rows], names.task)))


def apart(
    model: Model, features: Features, target: NDArray[Any], names: TargetNames, seed: int
) -> tuple[NDArray[np.int64], list[Array]]:
    """Return training rows, and the posteriors of each target that models give them which were not trained on them.

    By cross-fitting: of few rows all of them, in `FOLDS` parts; of many a fifth, for one further training.
    """
    count = FOLDS if len(target) < ONE_FOLD_FROM else 5
    shuffled = np.random.default_rng(seed).permutation(len(target))
    # Every k-th of the rows in the order of their classes has each class in proportion.
    strata = target if names.task != "soft" else target.argmax(axis=1)[:, None]
    order = shuffled[np.lexsort(strata[shuffled].T[::-1])]
    parts = [order[start::count] for start in range(count if count == FOLDS else 1)]
    said = []
    for part in parts:
        others = np.setdiff1d(order, part)
        fitted = model.fit(features[others], target[others], names, seed)
        said.append(fitted.answers(features[part]).posterior)
    return np.concatenate(parts), [np.concatenate(posterior) for posterior in zip(*said, strict=True)]


def record(
    contender: Contender,
    decided: FittedContender,
    split: Split,
    names: TargetNames,
    settings: RunSettings,
    seconds: Callable[[], float],
) -> RunRecord:
    """Return how a trained contender does on the test rows; `seconds` tells what it took so far."""
    predicted, posterior = decided.answers(split.test_features).judged()
    arguments = names.task, split.test_target, predicted, posterior
    return {
        "loss": contender.name,
        "seed": split.seed,
        "metrics": evaluate(*arguments, [*metrics_for(names.task).values(), settings.metric.metric()]),
        "classes": class_records(
            names.task, split.train_target, split.test_target, predicted, names.targets, names.classes
        ),
        "reliability": reliability(*arguments),
        "curve": decided.model.curve,
        "chosen": dict(decided.model.chosen),
        "seconds": seconds(),
    }


def _model(names: TargetNames, contender: Contender, settings: RunSettings, seed: int) -> Model:
    return contender.model(names.task, settings.model, seed=seed, tune=settings.tune)
