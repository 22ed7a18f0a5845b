"""The decision estimator against scikit-learn's own checks, and against what it promises beyond them."""

from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris, make_classification, make_multilabel_classification
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score
from sklearn.model_selection import GroupKFold, ShuffleSplit, TunedThresholdClassifierCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import sklearn
from equilog.decisions import DecisionRule
from equilog.sklearn import DecisionClassifierCV, LogBalancedClassifier


def boosting_alone_fails(estimator: DecisionClassifierCV) -> dict[str, str]:
    """What the classifier inside fails by itself."""
    if not isinstance(estimator.estimator, HistGradientBoostingClassifier):
        return {}
    return {"check_sample_weight_equivalence_on_dense_data": "Gradient boosting bins rows without their weights."}


@parametrize_with_checks(
    [
        DecisionClassifierCV(LogisticRegression(), cv=2),
        DecisionClassifierCV(HistGradientBoostingClassifier(max_iter=5, random_state=0), cv=2),
    ],
    expected_failed_checks=boosting_alone_fails,
)
def test_scikit_learn_checks(estimator: DecisionClassifierCV, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def unequal() -> tuple[Any, Any]:
    """Four classes from 80 % to 2 %."""
    return make_classification(
        1500, n_features=12, n_informative=6, n_classes=4, weights=[0.8, 0.12, 0.06], flip_y=0.02, class_sep=0.8,
        random_state=0,
    )  # fmt: skip


def test_rule_is_learnt_from_probabilities_of_unseen_rows(unequal: tuple[Any, Any]) -> None:
    X, y = unequal
    model = DecisionClassifierCV(LogisticRegression(max_iter=500)).fit(X, y)
    apart = cross_val_predict(LogisticRegression(max_iter=500), X, y, cv=5, method="predict_proba")
    expected = DecisionRule("balanced_accuracy").fit(apart, y)
    # The folds are the same but in another order, in which sums are rounded otherwise.
    np.testing.assert_allclose(model.rule_.offsets_, expected.offsets_, rtol=1e-6)
    plain = LogisticRegression(max_iter=500).fit(X, y)
    np.testing.assert_array_equal(model.predict_proba(X), plain.predict_proba(X))
    np.testing.assert_array_equal(model.predict(X), expected.predict(plain.predict_proba(X)))


@pytest.mark.parametrize(
    "estimator",
    [
        HistGradientBoostingClassifier(max_iter=20, max_leaf_nodes=8, random_state=0),
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)),
        LogBalancedClassifier("cross-entropy", hidden_units=(), max_epochs=10, learning_rate=0.03, random_state=0),
    ],
    ids=["boosting", "pipeline", "ours"],
)
def test_rare_classes_are_served_better(estimator: Any, unequal: tuple[Any, Any]) -> None:
    X, y = unequal
    names = np.array(["a", "b", "c", "d"])[y]
    model = DecisionClassifierCV(clone(estimator), cv=3).fit(X[:1000], names[:1000])
    alone = clone(estimator).fit(X[:1000], names[:1000])
    # Measured .10 and more; 500 test rows, 10 of the rarest class.
    gain = balanced_accuracy_score(names[1000:], model.predict(X[1000:])) - balanced_accuracy_score(
        names[1000:], alone.predict(X[1000:])
    )
    assert gain > 0.03
    assert set(model.predict(X)) <= set("abcd")
    assert model.classes_.tolist() == list("abcd")


def test_two_classes_are_tuned_like_scikit_learn_does() -> None:
    X, y = make_classification(3000, weights=[0.9], class_sep=0.6, flip_y=0.05, random_state=0)
    ours = DecisionClassifierCV(LogisticRegression(), metric="balanced_accuracy").fit(X[:1500], y[:1500])
    theirs = TunedThresholdClassifierCV(LogisticRegression(), scoring="balanced_accuracy").fit(X[:1500], y[:1500])
    scores = [balanced_accuracy_score(y[1500:], model.predict(X[1500:])) for model in (ours, theirs)]
    # 150 rows of the rare class: a standard error of .02 of either score.
    assert scores[0] == pytest.approx(scores[1], abs=0.04)


def test_decision_function_decides(unequal: tuple[Any, Any]) -> None:
    X, y = unequal
    many = DecisionClassifierCV(LogisticRegression(max_iter=500), metric="macro_f1", cv=3).fit(X, y)
    np.testing.assert_array_equal(many.classes_[many.decision_function(X).argmax(1)], many.predict(X))
    two = DecisionClassifierCV(LogisticRegression(max_iter=500), metric=[[0, 1], [9, 0]], cv=3).fit(X, y == 0)
    assert two.decision_function(X).shape == (len(X),)
    np.testing.assert_array_equal(two.decision_function(X) > 0, two.predict(X))


def test_labels_get_thresholds_whatever_form_their_probabilities_have() -> None:
    X, y = make_multilabel_classification(600, n_classes=4, n_labels=1, random_state=0)
    for estimator in (
        RandomForestClassifier(30, min_samples_leaf=5, random_state=0),  # a list of (n, 2)
        LogBalancedClassifier("binary-cross-entropy", hidden_units=(), max_epochs=5, random_state=0),  # (n, L)
    ):
        model = DecisionClassifierCV(estimator, metric="macro_f1", cv=3).fit(X[:400], y[:400])
        alone = clone(estimator).fit(X[:400], y[:400])
        decided, half = (f1_score(y[400:], m.predict(X[400:]), average="macro") for m in (model, alone))
        assert decided > half
        assert model.decision_function(X).shape == y.shape
        assert model.rule_.thresholds_.shape == (4,)


def test_prefit_classifier_is_left_as_it_is(unequal: tuple[Any, Any]) -> None:
    X, y = unequal
    plain = LogisticRegression(max_iter=500).fit(X[:700], y[:700])
    model = DecisionClassifierCV(plain, metric="macro_f1", cv="prefit").fit(X[700:], y[700:])
    assert model.estimator_ is plain
    expected = DecisionRule("macro_f1").fit(plain.predict_proba(X[700:]), y[700:])
    np.testing.assert_array_equal(model.rule_.offsets_, expected.offsets_)


def test_one_split_learns_from_its_test_part(unequal: tuple[Any, Any]) -> None:
    X, y = unequal
    split = ShuffleSplit(1, test_size=0.3, random_state=0)
    model = DecisionClassifierCV(LogisticRegression(max_iter=500), cv=split).fit(X, y)
    [(train, test)] = split.split(X)
    part = LogisticRegression(max_iter=500).fit(X[train], y[train])
    expected = DecisionRule("balanced_accuracy").fit(part.predict_proba(X[test]), y[test])
    np.testing.assert_allclose(model.rule_.offsets_, expected.offsets_, rtol=1e-10)


def test_rows_in_several_test_parts_are_refused(unequal: tuple[Any, Any]) -> None:
    X, y = unequal
    with pytest.raises(ValueError, match="one test part at most"):
        DecisionClassifierCV(LogisticRegression(max_iter=500), cv=ShuffleSplit(3, random_state=0)).fit(X, y)


def test_class_that_a_fold_trains_without_has_probability_zero_there() -> None:
    X, y = load_iris(return_X_y=True)
    kept = np.concatenate([np.arange(100), [110]])
    with pytest.warns(UserWarning, match="least populated class"):
        model = DecisionClassifierCV(LogisticRegression(max_iter=500), cv=3).fit(X[kept], y[kept])
    assert model.rule_.n_columns_ == 3


def test_weights_reach_the_classifier_and_the_rule(unequal: tuple[Any, Any]) -> None:
    X, y = unequal
    weight = np.where(y == 3, 5.0, 1.0)
    weighted = DecisionClassifierCV(LogisticRegression(max_iter=500), cv=3).fit(X, y, sample_weight=weight)
    plain = LogisticRegression(max_iter=500).fit(X, y, sample_weight=weight)
    np.testing.assert_array_equal(weighted.predict_proba(X), plain.predict_proba(X))
    unweighted = DecisionClassifierCV(LogisticRegression(max_iter=500), cv=3).fit(X, y)
    # A class five times as frequent needs a weight five times less.
    assert weighted.rule_.offsets_[3] - weighted.rule_.offsets_[0] < unweighted.rule_.offsets_[3] - (
        unweighted.rule_.offsets_[0] + np.log(3)
    )
    # A pipeline takes no weights by that name; the rule still does.
    DecisionClassifierCV(make_pipeline(StandardScaler(), LogisticRegression()), cv=3).fit(X, y, sample_weight=weight)


def test_metadata_are_routed_to_those_who_asked(unequal: tuple[Any, Any]) -> None:
    X, y = unequal
    group, weight = np.arange(len(y)) // 10, np.where(y == 3, 5.0, 1.0)
    with sklearn.config_context(enable_metadata_routing=True):
        model = DecisionClassifierCV(
            LogisticRegression(max_iter=500).set_fit_request(sample_weight=True), cv=GroupKFold(3)
        ).set_fit_request(sample_weight=True)
        model.fit(X, y, sample_weight=weight, groups=group)
        unasked = DecisionClassifierCV(
            LogisticRegression(max_iter=500).set_fit_request(sample_weight=False), cv=GroupKFold(3)
        ).fit(X, y, sample_weight=weight, groups=group)
    plain = LogisticRegression(max_iter=500)
    np.testing.assert_array_equal(model.predict_proba(X), clone(plain).fit(X, y, sample_weight=weight).predict_proba(X))
    np.testing.assert_array_equal(unasked.predict_proba(X), clone(plain).fit(X, y).predict_proba(X))
    apart = cross_val_predict(
        plain, X, y, groups=group, cv=GroupKFold(3), method="predict_proba", params={"sample_weight": weight}
    )
    expected = DecisionRule("balanced_accuracy").fit(apart, y, sample_weight=weight)
    np.testing.assert_allclose(model.rule_.offsets_, expected.offsets_, rtol=1e-6)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [({"metric": "f1"}, "'metric' parameter"), ({"beta": 0}, "'beta' parameter"), ({"cv": "five"}, "'cv' parameter")],
)
def test_parameters_are_checked(parameters: dict[str, Any], message: str) -> None:
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match=message):
        DecisionClassifierCV(LogisticRegression(), **parameters).fit(X, y)
