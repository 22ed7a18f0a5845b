"""Other class frequencies: closed forms, draws with known frequencies, and what cannot be told."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from equilog.decisions import adapt, estimate_prior, undo_sampling

Array = NDArray[np.float64]
OLD = np.array([0.6, 0.3, 0.1])


def drawn(prior: Array, rows: int, seed: int, distance: float = 2.0) -> tuple[Array, NDArray[np.int64]]:
    """Return what a classifier that is right for `OLD` says of rows of another prior, and their classes."""
    rng = np.random.default_rng(seed)
    y = rng.choice(len(prior), size=rows, p=prior)
    x = rng.normal(size=(rows, len(prior))) + distance * np.eye(len(prior))[y]
    likelihood = np.exp(distance * x)  # of unit normals around the corners, but for what is the same for all classes
    joint = likelihood * OLD
    return joint / joint.sum(1, keepdims=True), y


def test_adapting_is_bayes_rule_with_the_other_prior() -> None:
    new = np.array([0.2, 0.2, 0.6])
    probability, _ = drawn(OLD, 50, seed=0)
    likelihood = probability / OLD
    expected = likelihood * new / (likelihood * new).sum(1, keepdims=True)
    # Rounding alone: the same few products in another order.
    np.testing.assert_allclose(adapt(probability, old_prior=OLD, prior=new), expected, rtol=1e-12)
    there = adapt(probability, old_prior=OLD * 100, prior=SimpleNamespace(prior=torch.tensor(new)))
    np.testing.assert_allclose(adapt(there, old_prior=new, prior=OLD), probability, rtol=1e-10)


def test_tensors_stay_tensors_of_their_type() -> None:
    probability = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64)
    adapted = adapt(probability, old_prior=OLD, prior=[1, 1, 1])
    assert isinstance(adapted, torch.Tensor)
    assert adapted.dtype == torch.float64
    np.testing.assert_allclose(adapted.numpy(), adapt(probability.numpy(), old_prior=OLD, prior=[1, 1, 1]), rtol=1e-12)
    assert adapt(probability.bfloat16(), old_prior=OLD, prior=[1, 1, 1]).dtype == torch.float32


def test_each_label_is_adapted_beside_its_own_no() -> None:
    adapted = adapt([[0.5, 0.2]], old_prior=[0.5, 0.1], prior=[0.2, 0.1], multilabel=True)
    np.testing.assert_allclose(adapted, [[0.2, 0.2]], rtol=1e-12)


def test_a_class_that_no_longer_comes_up_gets_nothing() -> None:
    adapted = adapt([[0.5, 0.3, 0.2]], old_prior=OLD, prior=[0.5, 0.5, 0.0])
    assert adapted[0, 2] == 0
    with pytest.raises(ValueError, match="probability 0 for every class"):
        adapt([[0.0, 0.0, 1.0]], old_prior=OLD, prior=[0.5, 0.5, 0.0])


def test_undone_sampling_gives_the_probabilities_of_all_rows() -> None:
    probability, _ = drawn(OLD, 50, seed=1)
    rate = np.array([0.1, 0.5, 4.0])
    sampled = adapt(probability, old_prior=OLD, prior=OLD * rate)
    np.testing.assert_allclose(undo_sampling(sampled, rate), probability, rtol=1e-10)


@pytest.mark.parametrize("method", ["em", "confusion"])
def test_true_prior_is_in_the_interval_about_as_often_as_said(method: str) -> None:
    new = np.array([0.2, 0.3, 0.5])
    inside = []
    for seed in range(40):
        probability, _ = drawn(new, 400, seed)
        calibration = drawn(OLD, 400, seed + 1000)
        found = estimate_prior(probability, OLD, method=method, calibration=calibration)  # type: ignore[arg-type]
        assert found.prior.sum() == pytest.approx(1.0)
        inside.append((found.interval[:, 0] <= new) & (new <= found.interval[:, 1]))
    # 120 intervals of 95 %: fewer than 87 % inside would come once in a thousand such tests were they independent.
    assert 0.87 <= np.mean(inside) <= 1.0


def test_likelihood_with_five_old_rows_is_highest_at_the_estimate() -> None:
    probability, _ = drawn(np.array([0.1, 0.1, 0.8]), 300, seed=3)
    prior = estimate_prior(probability, OLD).prior
    ratio = probability / OLD

    def likelihood(at: Array) -> float:
        return float(np.log(ratio @ at).sum() + 5 * (OLD * np.log(np.maximum(at, 1e-300))).sum())

    for towards in np.eye(3):
        assert likelihood(0.999 * prior + 0.001 * towards) < likelihood(prior) + 1e-9


def test_likelihood_knows_more_than_the_confusion_matrix() -> None:
    new = np.array([0.2, 0.3, 0.5])
    errors = {"em": [], "confusion": []}
    for seed in range(20):
        probability, _ = drawn(new, 300, seed, distance=1.5)
        calibration = drawn(OLD, 300, seed + 1000, distance=1.5)
        for method, values in errors.items():
            found = estimate_prior(probability, OLD, method=method, calibration=calibration)  # type: ignore[arg-type]
            values.append(np.abs(found.prior - new).sum())
    assert np.mean(errors["em"]) < np.mean(errors["confusion"])


def test_labels_are_estimated_one_by_one() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((2000, 2)) < [0.7, 0.1]
    x = rng.normal(size=(2000, 2)) + 2.0 * truth
    old = np.array([0.3, 0.3])
    odds = np.exp(2.0 * x - 2.0) * old / (1 - old)
    calibration_truth = rng.random((2000, 2)) < old
    calibration_odds = np.exp(2.0 * (rng.normal(size=(2000, 2)) + 2.0 * calibration_truth) - 2.0) * old / (1 - old)
    calibration = (calibration_odds / (1 + calibration_odds), calibration_truth.astype(int))
    for method in ("em", "confusion"):
        found = estimate_prior(odds / (1 + odds), old, method=method, calibration=calibration, multilabel=True)
        # Two standard errors of 2,000 rows are .02; those of the confusion tables add some.
        np.testing.assert_allclose(found.prior, [0.7, 0.1], atol=0.05)
        assert found.interval.shape == (2, 2)


@pytest.mark.parametrize("method", ["em", "confusion"])
def test_classes_that_look_alike_are_named(method: str) -> None:
    rng = np.random.default_rng(0)
    first = rng.beta(0.2, 0.2, size=500)
    rest = (1 - first)[:, None] * (0.5 + 1e-3 * rng.normal(size=(500, 1)) * [[1, -1]])
    probability = np.column_stack([first, rest])
    y = np.where(rng.random(500) < first, 0, rng.integers(1, 3, size=500))
    with pytest.warns(UserWarning, match="classes [12] and [12] apart"):
        found = estimate_prior(probability, [0.5, 0.25, 0.25], method=method, calibration=(probability, y))  # type: ignore[arg-type]
    assert np.ptp(found.interval[1]) > 2 * np.ptp(found.interval[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: adapt(p, old_prior=[0.5, 0.5], prior=OLD), r"old_prior must have shape \(3,\)"),
        (lambda p: adapt(p, old_prior=[1.0, 0.0, 0.0], prior=OLD), "old_prior must hold numbers above 0"),
        (lambda p: adapt(p, old_prior=OLD, prior=[-1.0, 1.0, 1.0]), "prior must hold numbers of at least 0"),
        (lambda p: adapt(2 * p, old_prior=OLD, prior=OLD), "between 0 and 1"),
        (lambda p: adapt(p * [[1, 1, 0.5]], old_prior=OLD, prior=OLD), "must sum to 1"),
        (lambda p: undo_sampling(p * np.nan, OLD), "must not be NaN"),
        (lambda p: estimate_prior(p, OLD, method="bbse"), '"em" or "confusion"'),
        (lambda p: estimate_prior(p, OLD, method="confusion"), "needs calibration"),
        (lambda p: estimate_prior(p, OLD, confidence=95), "confidence must lie between 0 and 1"),
    ],
)
def test_bad_input_is_told(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(drawn(OLD, 9, seed=0)[0])  # type: ignore[operator]


def test_an_object_without_a_prior_is_told() -> None:
    with pytest.raises(TypeError, match="has none"):
        adapt([[0.5, 0.5]], old_prior=SimpleNamespace(prior=None), prior=[0.5, 0.5])


def test_bad_calibration_rows_are_told() -> None:
    probability, _ = drawn(OLD, 9, seed=0)
    with pytest.raises(ValueError, match=r"class \[1, 2\] has none"):
        estimate_prior(probability, OLD, method="confusion", calibration=(probability, np.zeros(9, int)))
    with pytest.raises(ValueError, match="same columns"):
        estimate_prior(probability, OLD, method="confusion", calibration=([[0.5, 0.5]], [0]))
