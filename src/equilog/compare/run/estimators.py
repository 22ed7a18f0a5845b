"""Models of other people that learn from tables, by name."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from sklearn.base import clone, is_classifier
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.utils import get_tags

from equilog.compare.errors import DataError
from equilog.compare.run.imported import imported


@dataclass(frozen=True)
class EstimatorEntry:
    """One model under one name. Each runs on one thread: the trainings are what is spread over the processors."""

    name: str
    summary: str
    build: Callable[[int], Any]
    """random_state -> unfitted classifier of scikit-learn's form, with the defaults of its authors."""
    package: str = "sklearn"
    trees: bool = True
    """Whether it grows trees for each class, which takes long where there are many."""


def _lightgbm(seed: int) -> Any:
    from lightgbm import LGBMClassifier

    return LGBMClassifier(random_state=seed, n_jobs=1, verbose=-1)


def _xgboost(seed: int) -> Any:
    from xgboost import XGBClassifier

    return XGBClassifier(random_state=seed, n_jobs=1)


def _catboost(seed: int) -> Any:
    from catboost import CatBoostClassifier

    return CatBoostClassifier(random_state=seed, thread_count=1, verbose=False, allow_writing_files=False)


ESTIMATORS: dict[str, EstimatorEntry] = {
    entry.name: entry
    for entry in (
        EstimatorEntry(
            "logistic",
            "scikit-learn's LogisticRegression",
            lambda seed: LogisticRegression(max_iter=1000, random_state=seed),
            trees=False,
        ),
        EstimatorEntry(
            "hist-gb",
            "scikit-learn's HistGradientBoostingClassifier",
            lambda seed: HistGradientBoostingClassifier(random_state=seed),
        ),
        EstimatorEntry("lightgbm", "LightGBM's LGBMClassifier", _lightgbm, "lightgbm"),
        EstimatorEntry("xgboost", "XGBoost's XGBClassifier", _xgboost, "xgboost"),
        EstimatorEntry("catboost", "CatBoost's CatBoostClassifier", _catboost, "catboost"),
    )
}
"""Every model by name, the simplest first. Adding one is one entry here."""


def is_installed(name: str) -> bool:
    """Return whether the package of a model is."""
    return find_spec(ESTIMATORS[name].package) is not None


def import_error(name: str) -> str | None:
    """Return why the package of a model, which is installed, cannot be imported, or None if it can."""
    try:
        import_module(ESTIMATORS[name].package)
    except Exception as error:  # Each has its own when a library of the system's is missing, such as libgomp.
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    return None


def estimator_from(path: str) -> Any:
    """Return the unfitted estimator that an import path names: an instance, or a class or function that makes one.

    Raises:
        DataError: it is no classifier, or has no probabilities.
    """
    found = imported(path, "--models")
    if not hasattr(found, "fit") or isinstance(found, type):
        try:
            found = found()
        except TypeError as error:
            raise DataError(
                f"--models {path} cannot be made without arguments ({error}). Name an instance or a function of none."
            ) from error
    if not hasattr(found, "fit") or not is_classifier(found):
        raise DataError(f"--models {path} must be a classifier with fit and predict_proba; got {found!r:.60}.")
    if not hasattr(found, "predict_proba"):
        raise DataError(
            f"--models {path} has no predict_proba, by which contenders are judged. "
            "Put a sklearn.calibration.CalibratedClassifierCV around it."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        several = get_tags(found).classifier_tags.multi_class
    return clone(found) if several else OneVsRestClassifier(clone(found))
