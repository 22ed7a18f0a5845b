"""Classes that count more: in the decisions as w_j p_j, on top of what a loss balances, and not in the posterior."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.base import clone
from sklearn.utils.class_weight import compute_sample_weight
from tests.sklearn.toys import Data, quick

from equilog.baselines.registry import losses_for
from equilog.losses.multilabel import MultiLabelCrossEntropyLoss
from equilog.sklearn import LogBalancedClassifier

WHOLE = {"early_stopping": False, "batch_size": 1000, "max_epochs": 30}


@pytest.fixture(scope="module")
def clouds() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """2000 rows of N(0, 1) and 500 of N(1, 1): the posterior is that of a linear model."""
    generator = np.random.default_rng(0)
    y = np.repeat([0, 1], [2000, 500])
    return generator.normal(size=(2500, 1)) + y[:, None], y


def linear(loss: str, **parameters: Any) -> LogBalancedClassifier:
    return quick(loss, hidden_units=(), learning_rate=0.1, max_epochs=20, batch_size=256, **parameters)


@pytest.mark.parametrize("loss", losses_for("multiclass"))
def test_a_class_that_weighs_more_is_decided_for_more_often(clouds: Data, loss: str) -> None:
    X, y = (values[::3] for values in clouds)
    plain, weighted = (linear(loss, class_weight=asked).fit(X, y).predict(X).mean() for asked in (None, {1: 9.0}))
    assert weighted > plain + 0.15


@pytest.mark.parametrize(
    ("loss", "takes_the_prior_off"),
    [
        ("cross-entropy", False),
        ("log-balanced", True),
        ("weighted-cross-entropy", True),
        ("balanced-softmax", True),
        ("logit-adjusted", True),
    ],
)
def test_threshold_is_where_costs_are_equal(clouds: Data, loss: str, takes_the_prior_off: bool) -> None:
    """The log-odds of the clouds are x - 1/2 + log of the prior's ratio."""
    X, y = clouds
    model = linear(loss, class_weight={0: 1.0, 1: 3.0}).fit(X, y)
    threshold = 0.5 - np.log(3.0) + (0.0 if takes_the_prior_off else np.log(2000 / 500))
    share = (4 * norm.sf(threshold) + norm.sf(threshold - 1.0)) / 5
    # The error of a slope and a bias fitted to 500 rows of the rarer class.
    assert model.predict(X).mean() == pytest.approx(share, abs=0.06)


@pytest.mark.parametrize("loss", ["cross-entropy", "log-balanced", "balanced-softmax", "weighted-cross-entropy"])
def test_posterior_is_without_the_weights(clouds: Data, loss: str) -> None:
    X, y = clouds
    for asked in ({1: 9.0}, "balanced"):
        model = linear(loss, class_weight=asked).fit(X, y)
        # Of the mean over the rows, which a fitted bias makes right: off by the held-out rows and by rounding.
        assert model.predict_proba(X, "posterior")[:, 1].mean() == pytest.approx(0.2, abs=0.02)


def test_weights_of_a_class_are_those_of_its_rows(digits: Data) -> None:
    X, y = digits
    asked = {2: 5.0, 9: 0.5}
    by_class = quick("cross-entropy", class_weight=asked, **WHOLE).fit(X, y)
    by_row = quick("cross-entropy", **WHOLE).fit(X, y, sample_weight=compute_sample_weight(asked, y))
    np.testing.assert_allclose(by_class.predict_proba(X), by_row.predict_proba(X), atol=1e-5)


def test_balanced_is_the_inverse_of_the_counts(digits: Data) -> None:
    X, y = digits
    count = np.bincount(y)
    balanced, inverse = (
        quick("cross-entropy", class_weight=asked, **WHOLE).fit(X, y)
        for asked in ("balanced", {digit: 7.0 / n for digit, n in enumerate(count)})
    )
    np.testing.assert_allclose(balanced.predict_proba(X), inverse.predict_proba(X), atol=1e-6)
    repeated = quick("cross-entropy", class_weight="balanced", **WHOLE).fit(X, y, sample_weight=1.0 + (y == 3))
    np.testing.assert_allclose(
        balanced.criterion_.criteria[0].weight[3] / balanced.criterion_.criteria[0].weight[4],
        2 * repeated.criterion_.criteria[0].weight[3] / repeated.criterion_.criteria[0].weight[4],
        rtol=1e-6,
        err_msg="a row of weight 2 is two rows",
    )


def test_each_column_has_weights_of_its_own(tasks: dict[str, Data]) -> None:
    X, y = tasks["columns"]
    asked = [{0: 3.0}, {"never": 1.0, 5: 1.0, 6: 1.0, 7: 1e9}]
    model = quick("cross-entropy", class_weight=asked, max_epochs=30, learning_rate=0.02).fit(X, y)
    assert set(model.predict(X)[:, 1]) == {7}
    assert len(set(model.predict(X)[:, 0])) > 3


@pytest.mark.parametrize("loss", ["cross-entropy", "log-balanced"])
def test_a_saved_model_keeps_its_weights(tasks: dict[str, Data], loss: str) -> None:
    X, y = tasks["columns"]
    for asked in ("balanced", [{0: 3.0}, {5: 2.0, 7: 0.1}]):
        model = quick(loss, class_weight=asked).fit(X, y)
        tensors, config = model.to_state()
        twin = LogBalancedClassifier.from_state(tensors, json.loads(json.dumps(config)))
        assert twin.class_weight == clone(model).class_weight == asked
        for kind in ("balanced", "posterior"):
            for a, b in zip(model.predict_proba(X, kind), twin.predict_proba(X, kind), strict=True):
                np.testing.assert_array_equal(a, b)
        assert twin.partial_fit(X, y).n_iter_ == 6


@pytest.mark.parametrize(
    ("kind", "asked", "message"),
    [
        ("multiclass", {"3": 2.0}, r"names '3', which y does not hold, and leaves out 0, 1, 2, 3 and 6 more, which it"),
        ("multiclass", {3: -1.0}, r"finite weights of at least 0, not all 0; got \{3: -1.0\}"),
        ("multiclass", "even", r"must be \"balanced\", a dict .* 1 column\(s\), got 'even'"),
        ("multiclass", 3, r"must be \"balanced\", a dict .* got 3"),
        ("columns", {3: 2.0}, r"one for each of several columns; y has 2 column\(s\), got \{3: 2.0\}"),
        ("multilabel", "balanced", r"y is multilabel, .* loss=MultiLabelCrossEntropyLoss\(pos_weight"),
        ("soft", "balanced", "y is soft, .* sample_weight"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tasks: dict[str, Data], kind: str, asked: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"LogBalancedClassifier: class_weight .*{message}"):
        quick(class_weight=asked).fit(*tasks[kind])


def test_the_remedy_for_labels_works(tasks: dict[str, Data]) -> None:
    X, y = tasks["multilabel"]
    plain, weighted = (
        quick(MultiLabelCrossEntropyLoss(pool="sample", pos_weight=weight)).fit(X, y).predict(X).sum()
        for weight in (None, torch.tensor(5.0))
    )
    assert weighted > plain
