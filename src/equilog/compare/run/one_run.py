"""One run: one loss trained on one split and tested on its test rows."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
from joblib import parallel_config
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.compose import ColumnTransformer

from equilog.baselines.registry import Task
from equilog.compare.data.dataset import Dataset
from equilog.compare.data.splits import Rows
from equilog.compare.judge.metrics import class_records, evaluate, reliability
from equilog.compare.judge.records import Curve, RunRecord
from equilog.sklearn import LogBalancedClassifier
from equilog.sklearn.threads import one_thread

T = TypeVar("T")


@dataclass(frozen=True)
class ModelSettings:
    """The model every loss trains: parameters of `LogBalancedClassifier`."""

    hidden_units: tuple[int, ...] = (128,)
    max_epochs: int = 100
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    batch_size: int = 128
    patience: int = 10
    device: str = "cpu"

    def classifier(self, loss: str, task: Task, seed: int) -> LogBalancedClassifier:
        """Return an unfitted classifier; the same seed gives every loss the same initial weights and batches."""
        return LogBalancedClassifier(loss, task=task, random_state=seed, **asdict(self))


@dataclass(frozen=True)
class Split:
    """One split as arrays, preprocessed by what its own training rows teach."""

    seed: int
    train_features: NDArray[np.float32]
    train_target: NDArray[Any]
    test_features: NDArray[np.float32]
    test_target: NDArray[Any]


OVERCOME = (ValueError, RuntimeError, ArithmeticError, MemoryError)
"""What a training may raise without taking the others with it."""


@dataclass(frozen=True)
class Failure:
    """A training that could not be finished."""

    loss: str
    reason: str


@dataclass(frozen=True)
class TargetNames:
    """What the columns of the targets are called."""

    task: Task
    targets: tuple[str, ...]
    classes: tuple[tuple[str, ...], ...]


def prepare(dataset: Dataset, preprocessor: ColumnTransformer, rows: tuple[Rows, Rows], seed: int) -> Split:
    """Return a split of training and test rows, the preprocessor fitted anew on its training rows."""
    train, test = rows
    fitted = clone(preprocessor)
    with in_this_process():
        return Split(
            seed,
            fitted.fit_transform(dataset.features.iloc[train]),
            dataset.target[train],
            fitted.transform(dataset.features.iloc[test]),
            dataset.target[test],
        )


def in_this_process() -> AbstractContextManager[object]:
    """Preprocess in this process: on a cluster scikit-learn would wait in the queue that its own work is filling."""
    context: AbstractContextManager[object] = parallel_config("sequential")
    return context


def attempted(loss: str, rows: str, training: Callable[[], T]) -> T | Failure:
    """Return what a training gives, or why it failed: one loss that breaks must not take the others with it."""
    try:
        return training()
    except OVERCOME as error:
        return Failure(loss, f"{loss}, {rows}: {error}")


def attempt(split: Split, names: TargetNames, loss: str, settings: ModelSettings) -> RunRecord | Failure:
    """Return the run's record, or why it failed."""
    return attempted(loss, f"split {split.seed}", lambda: train_and_test(split, names, loss, settings))


def train_and_test(split: Split, names: TargetNames, loss: str, settings: ModelSettings) -> RunRecord:
    """Train one loss on a split, test it, and return its record."""
    start = time.perf_counter()
    # One thread a run: the runs themselves are what is spread over the processors.
    with one_thread():
        model = settings.classifier(loss, names.task, split.seed)
        model.fit(split.train_features, as_fitted(split.train_target, names.task))
        predicted, posterior = judged(model, split.test_features, names)
    return {
        "loss": loss,
        "seed": split.seed,
        "metrics": evaluate(names.task, split.test_target, predicted, posterior),
        "classes": class_records(
            names.task, split.train_target, split.test_target, predicted, names.targets, names.classes
        ),
        "reliability": reliability(names.task, split.test_target, predicted, posterior),
        "curve": _curve(model.history_),
        "seconds": time.perf_counter() - start,
    }


def as_fitted(target: NDArray[Any], task: Task) -> NDArray[Any]:
    """Return the target as the classifier takes it: a single column of classes as a vector."""
    return target[:, 0] if task == "multiclass" and target.shape[1] == 1 else target


def judged(model: LogBalancedClassifier, features: NDArray[np.float32], names: TargetNames) -> tuple[Any, Any]:
    """Return predicted codes and posteriors in the shapes that `metrics.evaluate` takes."""
    predicted = model.predict(features)
    if names.task != "multiclass":
        return predicted, model.predict_proba(features, "posterior")
    return predicted.reshape(len(features), -1), all_classes(model, features, "posterior", names)


def all_classes(
    model: LogBalancedClassifier, features: NDArray[np.float32], kind: Any, names: TargetNames
) -> list[NDArray[np.float64]]:
    """Return the probabilities (n, C) of each target column, 0 for classes its training rows had none of."""
    single = len(names.targets) == 1
    predicted = model.predict_proba(features, kind)
    whole = []
    for probs, known, classes in zip(
        [predicted] if single else predicted, [model.classes_] if single else model.classes_, names.classes, strict=True
    ):
        spread = np.zeros((len(features), len(classes)))
        spread[:, known] = probs
        whole.append(spread)
    return whole


def _curve(history: dict[str, list[float]]) -> Curve:
    """Return the history up to where the loss overflowed, if it did: the model is that of the best epoch before."""
    losses = [history["train_loss"], history["valid_loss"]]
    epochs = min((epoch for loss in losses for epoch in np.flatnonzero(~np.isfinite(loss))), default=None)
    return {
        "train_loss": history["train_loss"][:epochs],
        "valid_loss": history["valid_loss"][:epochs],
        "valid_score": history["valid_score"][:epochs],
    }
