"""The classifiers whose probabilities are decided on, and those probabilities, fitted once and kept."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from benchmarks.decisions.tasks import Task, split
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from equilog.sklearn import LogBalancedClassifier


@dataclass(frozen=True)
class Rows:
    """Rows as a classifier sees them."""

    probability: NDArray[np.float64]
    """(n, C) or, of yes, (n, L)."""
    target: NDArray[np.int64]
    """(n,) classes or (n, L) of 0 and 1."""

    def first(self, count: int) -> "Rows":
        """Return so many rows."""
        return Rows(self.probability[:count], self.target[:count])


@dataclass(frozen=True)
class Scored:
    """A trained classifier's probabilities."""

    calibration: Rows
    test: Rows
    prior: NDArray[np.float64]
    """(C,) frequencies of the classes, or of yes (L,), in the rows it was trained on."""


def _encoder(categorical: bool) -> OneHotEncoder | StandardScaler:
    return OneHotEncoder(handle_unknown="ignore", sparse_output=False) if categorical else StandardScaler()


def _log_balanced(task: Task, labels: bool, seed: int) -> object:  # noqa: ARG001
    return make_pipeline(
        _encoder(task.categorical),
        LogBalancedClassifier(hidden_units=(64,), max_epochs=40, patience=5, random_state=seed),
    )


def _linear(task: Task, labels: bool, seed: int) -> object:  # noqa: ARG001
    model = LogisticRegression(max_iter=200)
    return make_pipeline(_encoder(task.categorical), MultiOutputClassifier(model) if labels else model)


def _boosting(task: Task, labels: bool, seed: int) -> object:  # noqa: ARG001
    model = HistGradientBoostingClassifier(max_iter=40, max_leaf_nodes=15, random_state=seed)
    return MultiOutputClassifier(model) if labels else model


CLASSIFIERS: dict[str, Callable[[Task, bool, int], object]] = {
    "LogBalancedClassifier": _log_balanced,
    "LogisticRegression": _linear,
    "HistGradientBoosting": _boosting,
}
"""Each made from a task, whether it has labels, and a seed."""


def scored(task: Task, name: str, seed: int, cache: Path | None) -> Scored:
    """Return what a classifier says of the calibration and the test rows of a split.

    Args:
        task: the table.
        name: a key of `CLASSIFIERS`.
        seed: of the split and of the classifier.
        cache: a folder to keep the probabilities in, or None.
    """
    path = None if cache is None else cache / f"{task.name}-{name}-{seed}.npz"
    if path is not None and path.exists():
        with np.load(path) as kept:
            return Scored(Rows(kept["p0"], kept["y0"]), Rows(kept["p1"], kept["y1"]), kept["prior"])
    rows = split(task, seed)
    features, target = rows.train
    model = CLASSIFIERS[name](task, target.ndim == 2, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 200 steps are near enough, and end in time
        model.fit(features, target)
    (p0, y0), (p1, y1) = ((_probability(model, part[0]), part[1]) for part in (rows.calibration, rows.test))
    prior = target.mean(0) if target.ndim == 2 else np.bincount(target) / len(target)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, p0=p0, y0=y0, p1=p1, y1=y1, prior=prior)
    return Scored(Rows(p0, y0), Rows(p1, y1), prior)


def _probability(model: object, features: NDArray[np.float32]) -> NDArray[np.float64]:
    last = model[-1] if hasattr(model, "steps") else model
    if isinstance(last, LogBalancedClassifier):
        found = last.predict_proba(model[:-1].transform(features), kind="posterior")
    else:
        found = model.predict_proba(features)
    if isinstance(found, list):
        return np.column_stack([label[:, 1] for label in found])
    return np.asarray(found, np.float64)
