"""Baselines for one choice among classes: what their papers say of them."""

import math

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from tests.baselines.cases import COUNT, batch, each_multiclass
from torch.nn import functional as F

from equilog.baselines import (
    LDAM,
    BalancedSoftmax,
    ClassBalanced,
    CrossEntropy,
    Focal,
    GeneralizedCrossEntropy,
    LogitAdjusted,
    WeightedCrossEntropy,
)


@each_multiclass
def test_ignored_row_is_a_deleted_row(criterion):
    logits, target = batch(criterion)
    ignored = target.clone()
    ignored[[0, 5]] = -100
    kept = ignored != -100
    torch.testing.assert_close(criterion(logits, ignored), criterion(logits[kept], target[kept]))


@each_multiclass
def test_positions_are_rows(criterion):
    logits, target = batch(criterion, rows=12)
    images, pixels = logits.reshape(2, 2, 3, 3).movedim(-1, 1), target.reshape(2, 2, 3)
    torch.testing.assert_close(criterion(images, pixels), criterion(logits, target))
    for kind in ("balanced", "posterior"):
        expected = criterion.probabilities(logits, kind).reshape(2, 2, 3, 3).movedim(-1, 1)
        torch.testing.assert_close(criterion.probabilities(images, kind), expected)
        torch.testing.assert_close(criterion.probabilities(logits[0], kind), criterion.probabilities(logits, kind)[0])
    assert torch.equal(criterion.predict(images), criterion.predict(logits).reshape(2, 2, 3))


@each_multiclass
def test_one_hot_target_is_its_index_or_refused(criterion):
    logits, target = batch(criterion)
    one_hot = F.one_hot(target, 3).double()
    if isinstance(criterion, Focal | LDAM):
        with pytest.raises(ValueError, match=r"target must be class indices.*got \(8, 3\) torch\.float64"):
            criterion(logits, one_hot)
    else:
        torch.testing.assert_close(criterion(logits, one_hot), criterion(logits, target))


@pytest.mark.parametrize(
    "same",
    [
        WeightedCrossEntropy(torch.tensor([20, 20, 20])),
        ClassBalanced(torch.tensor([20, 20, 20])),
        ClassBalanced(COUNT, beta=0.0),
        Focal(gamma=0.0),
        BalancedSoftmax(torch.tensor([20, 20, 20])),
        LogitAdjusted(COUNT),
        LDAM(COUNT, max_margin=0.0, scale=1.0),
    ],
    ids=["equal counts", "equal counts", "beta 0", "gamma 0", "uniform prior", "in training", "no margin"],
)
def test_reduces_to_cross_entropy(same):
    logits, target = batch(same)
    torch.testing.assert_close(same(logits, target), F.cross_entropy(logits, target), rtol=1e-6, atol=0)


def test_weights_are_scikit_learns():
    rows = torch.repeat_interleave(torch.arange(3), COUNT).numpy()
    expected = torch.from_numpy(compute_class_weight("balanced", classes=np.arange(3), y=rows)).float()
    torch.testing.assert_close(WeightedCrossEntropy(COUNT).weight, expected)


def test_class_balanced_weights_are_inverse_effective_numbers():
    beta = 0.99
    effective = [sum(beta**k for k in range(n)) for n in COUNT.tolist()]  # 1 + beta + beta^2 + ...
    inverse = torch.tensor([1 / number for number in effective])
    torch.testing.assert_close(ClassBalanced(COUNT, beta).weight, 3 * inverse / inverse.sum())


def test_weighted_cross_entropy_weighs_each_class_and_divides_by_rows():
    criterion = WeightedCrossEntropy(COUNT)
    logits, target = batch(criterion)
    per_row = F.cross_entropy(logits, target, reduction="none")
    expected = sum(float(criterion.weight[j]) * float(row) for j, row in zip(target, per_row, strict=True)) / 8
    assert float(criterion(logits, target)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_is_its_formula(gamma):
    criterion = Focal(gamma)
    logits, target = batch(criterion)
    prob = logits.softmax(1)[torch.arange(8), target].tolist()
    expected = sum(-((1 - p) ** gamma) * math.log(p) for p in prob) / 8
    assert float(criterion(logits, target)) == pytest.approx(expected, rel=1e-12)


def test_focal_posterior_keeps_the_order_of_the_classes():
    logits, _ = batch(Focal(), rows=200)
    assert torch.equal(Focal().scores(logits, "posterior").argsort(1), logits.argsort(1))


@pytest.mark.parametrize("q", [0.1, 0.7])
def test_generalized_cross_entropy_is_its_formula(q):
    criterion = GeneralizedCrossEntropy(q)
    logits, target = batch(criterion)
    prob = logits.softmax(1)[torch.arange(8), target].tolist()
    assert float(criterion(logits, target)) == pytest.approx(sum((1 - p**q) / q for p in prob) / 8, rel=1e-12)


def test_generalized_cross_entropy_nears_cross_entropy_as_q_falls():
    logits, target = batch(CrossEntropy())
    expected = F.cross_entropy(logits, target)
    # (1 - p^q) / q = -log p - q (log p)^2 / 2 + ...; -log p is below 10 here
    torch.testing.assert_close(GeneralizedCrossEntropy(1e-9)(logits, target), expected, rtol=0, atol=5e-8)


def test_generalized_cross_entropy_weighs_cross_entropys_gradient_by_the_chance_of_the_label():
    criterion = GeneralizedCrossEntropy(0.7)
    logits, target = batch(criterion)
    z = logits.requires_grad_()
    (gradient,) = torch.autograd.grad(criterion(z, target), z)
    (plain,) = torch.autograd.grad(F.cross_entropy(z, target), z)
    weight = z.detach().softmax(1)[torch.arange(8), target] ** 0.7
    torch.testing.assert_close(gradient, weight[:, None] * plain)


def test_balanced_softmax_is_cross_entropy_of_logits_plus_log_counts():
    criterion = BalancedSoftmax(COUNT)
    logits, target = batch(criterion)
    expected = F.cross_entropy(logits + COUNT.double().log(), target)
    torch.testing.assert_close(criterion(logits, target), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        criterion.probabilities(logits, "posterior"), (logits + COUNT.double().log()).softmax(1), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0])
def test_logit_adjustment_takes_tau_log_prior_off_the_decision(tau):
    criterion = LogitAdjusted(COUNT, tau)
    logits, _ = batch(criterion, rows=200)
    assert torch.equal(criterion.predict(logits), (logits - tau * COUNT.double().log()).argmax(1))
    torch.testing.assert_close(criterion.probabilities(logits, "posterior"), logits.softmax(1))


def test_ldam_margins_fall_with_the_fourth_root_of_the_count():
    margin = LDAM(COUNT, max_margin=0.5).margin.tolist()
    assert max(margin) == pytest.approx(0.5)
    assert [m * n**0.25 for m, n in zip(margin, COUNT.tolist(), strict=True)] == pytest.approx(
        [0.5 * 7**0.25] * 3, rel=1e-6
    )


def test_ldam_lowers_the_true_classs_logit_by_its_margin_and_scales():
    criterion = LDAM(COUNT, max_margin=0.7, scale=3.0)
    logits, target = batch(criterion)
    expected = 0.0
    for row, y in zip(logits.tolist(), target.tolist(), strict=True):
        margin = 0.7 * (7 / COUNT.tolist()[y]) ** 0.25
        scaled = [3.0 * (z - margin * (k == y)) for k, z in enumerate(row)]
        expected += math.log(sum(map(math.exp, scaled))) - scaled[y]
    assert float(criterion(logits, target)) == pytest.approx(expected / 8, rel=1e-6)


@pytest.mark.parametrize("baseline", [WeightedCrossEntropy, ClassBalanced, BalancedSoftmax, LogitAdjusted, LDAM])
def test_class_never_seen_counts_as_seen_once(baseline):
    logits, target = batch(CrossEntropy())
    unseen, once = baseline(torch.tensor([50, 10, 0])), baseline(torch.tensor([50, 10, 1]))
    assert unseen(logits, target).isfinite()
    assert unseen(logits, target) == once(logits, target)
    for kind in ("balanced", "posterior"):
        assert torch.equal(unseen.probabilities(logits, kind), once.probabilities(logits, kind))


@pytest.mark.parametrize("baseline", [WeightedCrossEntropy, ClassBalanced, BalancedSoftmax, LogitAdjusted, LDAM])
@pytest.mark.parametrize(
    ("count", "message"),
    [
        ([[5, 5]], r"class_count must be \(C,\).*got shape \(1, 2\)"),
        ([5, -1], r"class_count must hold finite counts, 0 or more; got \[5\.0, -1\.0\]"),
        ([5, math.nan], "class_count must hold finite counts"),
    ],
)
def test_bad_counts_are_refused(baseline, count, message):
    with pytest.raises(ValueError, match=f"{baseline.__name__}: {message}"):
        baseline(torch.tensor(count))


@pytest.mark.parametrize("baseline", [WeightedCrossEntropy, ClassBalanced, BalancedSoftmax, LDAM])
def test_counts_of_other_classes_than_the_logits_are_refused(baseline):
    with pytest.raises(
        ValueError, match=rf"{baseline.__name__}: class_count held 1 classes, but logits \(8, 3\) have 3"
    ):
        baseline(torch.tensor([5]))(*batch(CrossEntropy()))


@pytest.mark.parametrize("baseline", [WeightedCrossEntropy, ClassBalanced, BalancedSoftmax, LogitAdjusted, LDAM])
def test_what_the_counts_gave_is_saved_with_the_model(baseline):
    logits, target = batch(CrossEntropy())
    saved, other = baseline(COUNT), baseline(torch.tensor([5, 5, 5]))
    other.load_state_dict(saved.state_dict())
    assert other(logits, target) == saved(logits, target)
    for kind in ("balanced", "posterior"):
        assert torch.equal(other.scores(logits, kind), saved.scores(logits, kind))
