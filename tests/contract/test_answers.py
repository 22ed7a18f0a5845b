"""Which scores answer a soft target: found by minimising from a random start, compared with the closed forms."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from contract.cases import BALANCES, Case, cases
from equilog import log_balanced_cross_entropy


def minimise(loss: Callable[[Tensor], Tensor], shape: torch.Size, where: Tensor | None = None) -> Tensor:
    """Scores at the minimum from a random start; where it is False a class stays at minus infinity."""

    def value(scores: Tensor) -> Tensor:
        return loss(scores if where is None else torch.where(where, scores, -torch.inf))

    start = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    scores = start.requires_grad_()
    search = torch.optim.LBFGS([scores], max_iter=150, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def closure() -> float:
        search.zero_grad()
        loss_now = value(scores)
        loss_now.backward()
        return float(loss_now.detach())

    search.step(closure)
    # The value is flat to its last digit long before the gradient is: the rest is Newton's.
    scores = scores.detach()
    for _ in range(4):
        gradient = torch.autograd.functional.jacobian(value, scores).reshape(-1)
        hessian = torch.autograd.functional.hessian(value, scores).reshape(len(gradient), -1)
        scores = scores - (torch.linalg.pinv(hessian, hermitian=True, rtol=1e-10) @ gradient).reshape(shape)
    assert float(torch.autograd.functional.jacobian(value, scores).abs().max()) < 1e-12  # convex, so the minimum
    return scores if where is None else torch.where(where, scores, -torch.inf)


# Gradients of 1e-12 and a curvature above 1e-4 in these small problems.
FOUND = 1e-8


@pytest.mark.parametrize("case", cases("exact", "probability", multilabel=False))
def test_soft_targets_are_answered_exactly(case: Case) -> None:
    """t = softmax(link scale (z + strength log prior)), the link being 2 for odds and 1 for the gentler inner terms."""
    inputs = case.inputs()
    scores = minimise(lambda z: case.loss(inputs.with_logits(z), reduction="sum"), inputs.logits.shape)
    row = case.in_a_row(inputs.with_logits(scores))
    z = row.logits
    if row.options.get("prior") is not None:
        z = z + row.options.get("prior_strength", 1.0) * row.options["prior"].log()
    answer = (case.link * row.options.get("scale", 1.0) * z).softmax(1)
    counts = row.options.get("sample_weight", torch.ones(len(z))) > 0  # nobody asks a set of weight 0
    assert float((answer - row.target)[counts].abs().max()) < FOUND


@pytest.mark.parametrize("case", cases("stationary", "probability"))
def test_the_answer_is_stationary(case: Case) -> None:
    """Whatever the weights of the sets; for nll, which is not convex, this is all that holds in every pool."""
    inputs = case.inputs()
    scale, prior = inputs.options.get("scale", 1.0), inputs.options.get("prior")
    log_target = torch.logit(inputs.target) if case.multilabel else inputs.target.log()
    if prior is not None:
        log_prior = prior.log()
        if case.multilabel:
            log_prior = torch.logit(prior).reshape(-1, *[1] * (inputs.logits.dim() - 2))
        log_target = log_target - case.link * scale * inputs.options.get("prior_strength", 1.0) * log_prior
    answer = inputs.with_logits(log_target / (case.link * scale))
    # Sums of differences of numbers below 1, each rounded at 1e-16 of the logits.
    assert float(case.gradient(answer, reduction="sum").abs().max()) < 1e-13


@pytest.mark.parametrize("balance", BALANCES)
def test_smoothed_targets_are_answered_exactly(balance: str) -> None:
    target = torch.tensor([0, 0, 0, 1, 1, 2])
    scores = minimise(
        lambda z: log_balanced_cross_entropy(z, target, balance=BALANCES[balance], label_smoothing=0.2),
        torch.Size((6, 4)),
    )
    expected = 0.8 * torch.nn.functional.one_hot(target, 4).double() + 0.2 / 4
    assert float(((2 * scores).softmax(1) - expected).abs().max()) < FOUND


@pytest.mark.parametrize("balance", BALANCES)
def test_zeros_are_answered_by_classes_left_out(balance: str) -> None:
    """The answer to a target of 0 is minus infinity; with those classes there already, the rest is exact."""
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(8, 4, generator=generator, dtype=torch.float64)
    target = torch.where(torch.rand(8, 4, generator=generator) < 0.4, 0.0, target)
    target[:, 3] += 0.1
    target = target / target.sum(1, keepdim=True)
    scores = minimise(
        lambda z: log_balanced_cross_entropy(z, target, balance=BALANCES[balance]), target.shape, target > 0
    )
    assert float(((2 * scores).softmax(1) - target).abs().max()) < FOUND


@pytest.mark.parametrize("case", cases("exact", "probability", multilabel=True))
def test_soft_labels_are_answered_exactly(case: Case) -> None:
    """t = sigmoid(link scale (x + strength log odds of the prior))."""
    inputs = case.inputs()
    x = minimise(lambda x: case.loss(inputs.with_logits(x), reduction="sum"), inputs.logits.shape)
    row = case.in_a_row(inputs.with_logits(x))
    z = row.logits
    if row.options.get("prior of labels") is not None:
        z = z + row.options.get("prior_strength", 1.0) * torch.logit(row.options["prior of labels"])
    answer = (case.link * row.options.get("scale", 1.0) * z).sigmoid()
    counts = row.options.get("sample_weight", torch.ones(len(answer))) > 0
    counts &= row.options.get("mask", torch.tensor(True))
    assert float((answer - row.target)[counts].abs().max()) < FOUND


def soft_targets(n: int = 8, classes: int = 4) -> Tensor:
    scores = torch.randn(n, classes, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return (2 * scores + torch.tensor([2.0, 0.0, 0.0, -2.0])).softmax(1)  # of unequal classes


def test_one_log_a_class_without_compensation_answers_reweighted_targets() -> None:
    """softmax(2 s) is proportional to t_j / A_j, and so not t."""
    target = soft_targets()
    scores = minimise(lambda z: log_balanced_cross_entropy(z, target, compensation=None), target.shape)
    p = scores.softmax(1)
    mass = 1 + (target * (1 / p - 1)).sum(0)
    answer = (2 * scores).softmax(1)
    expected = target / mass
    assert float((answer - expected / expected.sum(1, keepdim=True)).abs().max()) < FOUND
    assert float((answer - target).abs().max()) > 1e-2


def left_at_best(target: Tensor) -> Tensor:
    """R_j = sum_i sqrt(t_ij) (sum_k sqrt(t_ik) - sqrt(t_ij)), the odds that the best scores leave."""
    root = target.sqrt()
    return (root * (root.sum(1, keepdim=True) - root)).sum(0)


@pytest.mark.parametrize("compensation", ["weight", "offset"])
def test_least_value_has_a_closed_form(compensation: str) -> None:
    """sum_j w_j log(1 + R_j), or m log(1 + max R)."""
    target = soft_targets()
    best = target.log() / 2
    left = left_at_best(target)
    if compensation == "weight":
        expected = ((1 + left) / (1 + left).mean() * torch.log1p(left)).sum()
    else:
        expected = len(left) * torch.log1p(left.max())
    options = {"compensation": compensation, "reduction": "sum"}
    at_best = log_balanced_cross_entropy(best, target, **options)
    torch.testing.assert_close(at_best, expected, rtol=1e-13, atol=0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):  # a regret: nothing is below
        other = best + 0.1 * torch.randn(best.shape, generator=generator, dtype=torch.float64)
        assert log_balanced_cross_entropy(other, target, **options) > at_best


@pytest.mark.parametrize("compensation", ["weight", "offset"])
def test_weights_of_sets_move_no_answer(compensation: str) -> None:
    target = soft_targets()
    best = (target.log() / 2).requires_grad_()
    weight = torch.rand(len(target), generator=torch.Generator().manual_seed(0)).double() * 100
    loss = log_balanced_cross_entropy(best, target, compensation=compensation, sample_weight=weight)
    (gradient,) = torch.autograd.grad(loss, best)
    assert float(gradient.abs().max()) < 1e-14  # differences of numbers below 1
