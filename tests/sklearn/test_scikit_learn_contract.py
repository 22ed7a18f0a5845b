"""The estimator against scikit-learn's own checks, in its searches and cross-validation."""

import importlib
import re
import sys
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from tests.sklearn.toys import Data, quick

from equilog.baselines.registry import losses_for
from equilog.sklearn import LogBalancedClassifier

EXPECTED_FAILURES = dict.fromkeys(
    ("check_sample_weight_equivalence_on_dense_data", "check_sample_weight_equivalence_on_sparse_data"),
    "Batches and held-out rows are drawn row by row, so a row of weight 2 is not drawn as two rows would be. "
    "Where neither is drawn they are equal: test_weight_two_is_the_row_twice.",
)

CHECKS_OF_LEARNING = ("check_classifiers_train", "check_classifiers_classes", "check_class_weight")


@parametrize_with_checks(
    [LogBalancedClassifier(random_state=0), LogBalancedClassifier(hidden_units=(), learning_rate=0.03, random_state=0)],
    expected_failed_checks=lambda _: EXPECTED_FAILURES,
)
def test_scikit_learn_checks(estimator: LogBalancedClassifier, check: Any) -> None:
    estimator = clone(estimator)  # all checks are given the same one
    # Most checks ask what is accepted and returned, not how well it is learnt.
    estimator.set_params(max_epochs=100 if any(name in str(check) for name in CHECKS_OF_LEARNING) else 3)
    check(estimator)


def test_search_in_a_pipeline_chooses_among_losses(digits: Data) -> None:
    X, y = digits
    search = GridSearchCV(
        make_pipeline(StandardScaler(), quick(max_epochs=20)),
        {
            "logbalancedclassifier__loss": losses_for("multiclass")[:3],
            "logbalancedclassifier__hidden_units": [(), (8,)],
        },
        scoring="balanced_accuracy",
        cv=2,
    ).fit(X, y)
    assert len(search.cv_results_["params"]) == 2 * len(losses_for("multiclass")[:3])
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_score_ == search.cv_results_["mean_test_score"].max() > 0.5
    np.testing.assert_array_equal(search.predict(X), search.best_estimator_.predict(X))


def test_cross_validation_reads_labels_scores_and_probabilities(tasks: dict[str, Data]) -> None:
    X, y = tasks["multiclass"]
    found = cross_validate(
        quick(max_epochs=20), X, y, cv=2, scoring=["balanced_accuracy", "neg_log_loss", "roc_auc_ovr"]
    )
    assert (found["test_balanced_accuracy"] > 0.3).all()
    assert (found["test_neg_log_loss"] > -np.log(10)).all()
    assert (found["test_roc_auc_ovr"] > 0.8).all()
    X, y = tasks["multilabel"]
    found = cross_validate(quick(max_epochs=100), X, y, cv=2, scoring=["f1_macro", "average_precision", "roc_auc"])
    assert (found["test_roc_auc"] > 0.7).all()
    for kind in ("columns", "soft"):
        assert np.isfinite(cross_validate(quick(), *tasks[kind], cv=2)["test_score"]).all()


def test_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("equilog.sklearn")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    with pytest.raises(
        ModuleNotFoundError, match=re.escape('needs sklearn, which is not installed: pip install "equilog[')
    ):
        importlib.import_module("equilog.sklearn")
