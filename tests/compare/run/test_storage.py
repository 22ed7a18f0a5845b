"""What is stored of models that others wrote: it predicts the same, and what would run code or go astray is refused."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from equilog.compare.errors import DataError
from equilog.compare.run import storage
from equilog.compare.run.answers import TargetNames
from equilog.compare.run.models import Estimators, FittedEstimators

NAMES = TargetNames("multiclass", ("shape", "only", "size"), (("a", "b", "c"), ("one",), ("large", "small")))
DESCRIBED = {"targets": NAMES.targets, "classes": NAMES.classes}


def table() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    features = np.random.default_rng(0).normal(size=(80, 4)).astype(np.float32)
    shape = (features[:, 0] > 0.5).astype(int) + (features[:, 1] > 0)
    return features, np.column_stack([shape, np.zeros(80, int), features[:, 2] > 0])


FEATURES, TARGET = table()


def fitted(estimator: Any) -> FittedEstimators:
    return Estimators(estimator).fit(FEATURES, TARGET, NAMES, 0)


def stored(model: FittedEstimators, folder: Path) -> dict[str, Any]:
    """Write a model and return what JSON keeps of it."""
    return json.loads(json.dumps({**DESCRIBED, **storage.write(model, folder)}))


def assert_stored(model: FittedEstimators, folder: Path) -> dict[str, Any]:
    """Write a model, read it, see that it predicts the same, and return what JSON keeps of it."""
    described = stored(model, folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(storage.parts_of(described))
    loaded, _ = storage.read(described, folder)
    for expected, read in zip(model.answers(FEATURES).posterior, loaded.answers(FEATURES).posterior, strict=True):
        np.testing.assert_array_equal(read, expected)
    return described


FOREST = RandomForestClassifier(3, random_state=0)
OWN = {
    "forest": FOREST,
    "extra trees": ExtraTreesClassifier(3, random_state=0),
    "boosting": GradientBoostingClassifier(n_estimators=2),
    "ada": AdaBoostClassifier(n_estimators=2),
    "bagging": BaggingClassifier(n_estimators=2, max_features=0.5, random_state=0),
    "calibrated": CalibratedClassifierCV(LinearSVC(), cv=2),
    "calibrated trees of more columns": CalibratedClassifierCV(make_pipeline(PolynomialFeatures(), FOREST), cv=2),
    "histograms": HistGradientBoostingClassifier(max_iter=2),
    "network": MLPClassifier((4,), max_iter=3, random_state=0),
    "search": GridSearchCV(FOREST, {"max_depth": [1, 2]}, cv=2),
    "vote": VotingClassifier([("trees", FOREST), ("bayes", GaussianNB())], voting="soft"),
    "stack": StackingClassifier([("trees", FOREST)], LogisticRegression(), cv=2),
}


@pytest.mark.parametrize("name", OWN)
def test_what_scikit_learn_has_is_stored(name, tmp_path):
    assert storage.why_not([OWN[name]]) is None
    assert_stored(fitted(OWN[name]), tmp_path)


class Bayes(GaussianNB):
    """A user's own."""


def test_what_would_run_code_is_named_and_not_stored(tmp_path):
    assert f"{__name__}.Bayes" in (storage.why_not([Bayes()]) or "")
    # That it makes a tree of another kind shows only once it is trained.
    neighbours = KNeighborsClassifier(algorithm="kd_tree")
    assert storage.why_not([neighbours]) is None
    with pytest.raises(storage.NotStorableError, match=r"made of .*KDTree"):
        storage.write(fitted(neighbours), tmp_path)
    assert list(tmp_path.iterdir()) == []


def set_node(tree: Any, name: str, value: int) -> None:
    state = tree.__getstate__()
    state["nodes"][name][0] = value
    tree.__setstate__(state)


def of_more_columns(forest: Any) -> None:
    forest.estimators_[0].n_features_in_ = 9
    set_node(forest.estimators_[0].tree_, "feature", 8)


ASTRAY: dict[str, tuple[Any, Callable[[Any], object], str]] = {
    "a branch of a tree": (
        DecisionTreeClassifier(),
        lambda fit: set_node(fit.tree_, "left_child", 10_000),
        "branches lead nowhere",
    ),
    "a loop of a forest": (
        FOREST,
        lambda fit: set_node(fit.estimators_[0].tree_, "right_child", 0),
        "branches lead nowhere",
    ),
    "a column": (
        make_pipeline(DecisionTreeClassifier()),
        lambda fit: set_node(fit[0].tree_, "feature", 4),
        "reads other columns",
    ),
    "a tree of other columns than its forest": (FOREST, of_more_columns, "trees of 9 columns in a forest of 4"),
    "one of other columns than its boosting": (
        GradientBoostingClassifier(n_estimators=1),
        lambda fit: setattr(fit.estimators_[0, 0], "n_features_in_", 3),
        "trees of 3 columns in a forest of 4",
    ),
    "a branch of a histogram's tree": (
        HistGradientBoostingClassifier(max_iter=1),
        lambda fit: fit._predictors[0][0].nodes["left"].__setitem__(0, 10_000),
        "branches lead nowhere",
    ),
}


@pytest.mark.parametrize("name", ASTRAY)
def test_a_tree_that_leads_out_of_itself_is_not_followed(name, tmp_path):
    estimator, tamper, message = ASTRAY[name]
    model = fitted(estimator)
    tamper(model.fits[0])
    described = stored(model, tmp_path)
    with pytest.raises(ValueError, match=message):
        storage.read(described, tmp_path)


def lightgbm() -> Any:
    return pytest.importorskip("lightgbm").LGBMClassifier(n_estimators=4, min_child_samples=2, n_jobs=1, verbose=-1)


def xgboost() -> Any:
    return pytest.importorskip("xgboost").XGBClassifier(n_estimators=4, n_jobs=1)


def catboost() -> Any:
    return pytest.importorskip("catboost").CatBoostClassifier(
        iterations=4, thread_count=1, verbose=False, allow_writing_files=False
    )


BOOSTERS = {"lightgbm": lightgbm, "xgboost": xgboost, "catboost": catboost}


@pytest.mark.parametrize("package", BOOSTERS)
def test_boosters_are_stored_in_their_own_formats(package, tmp_path):
    estimator = BOOSTERS[package]()
    assert storage.why_not([estimator]) is None
    described = assert_stored(fitted(estimator), tmp_path)
    booster = described["estimators"]["booster"]
    assert (booster["package"], booster["version"]) == (package, sys.modules[package].__version__)
    assert booster["files"][1] is None
    # A subclass of a user's may do more than its trees tell.
    own = type("Own", (type(estimator),), {"__module__": "my_models"})
    assert storage.why_not([own()]) is not None

    path = tmp_path / booster["files"][0]["name"]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{path.name} is not as it was written"):
        storage.read(described, tmp_path)
    # Of the same sum, as if another version had written what this one cannot read.
    booster["files"][0]["sha256"] = storage.boosters.checksum(b"no trees")
    path.write_bytes(b"no trees")
    booster["version"] = "999.0"
    with pytest.raises(DataError, match=rf"was written by {package}==999.0, and .* cannot read it"):
        storage.read(described, tmp_path)


def test_a_package_that_is_missing_is_named_with_its_version(tmp_path, monkeypatch):
    described = {**DESCRIBED, **storage.write(fitted(GaussianNB()), tmp_path)}
    described["estimators"]["booster"] = {"package": "xgboost", "version": "3.2.0", "files": [None] * 3}
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(DataError, match=r"needs xgboost, which cannot be imported .*: pip install xgboost==3\.2\.0"):
        storage.read(described, tmp_path)


def test_a_booster_whose_file_says_otherwise_is_not_stored(tmp_path):
    class Shy(type(xgboost())):  # type: ignore[misc]
        def predict_proba(self, X: Any) -> Any:
            return super().predict_proba(X) * 0.5 + 0.5 / self.n_classes_

    Shy.__module__, Shy.__name__ = "xgboost.sklearn", "XGBClassifier"
    model = fitted(xgboost())
    changed = replace(model, fits=tuple(fit and Shy(n_jobs=1).fit(FEATURES, TARGET[:, 0]) for fit in model.fits))
    with pytest.raises(storage.NotStorableError, match="does not predict as it does"):
        storage.write(changed, tmp_path)
