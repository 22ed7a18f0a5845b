"""The article's losses against its formulas written out naively in float64."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from equilog import log_balanced_cross_entropy
from equilog.article import general, loss_one, loss_three, softmax_cross_entropy_over_sets, truncated

HARD_AND_SOFT = pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
SUM_ROUNDING = 1e-13  # of sums of a few dozen float64 terms, relative


def problem(soft: bool, n: int = 12, classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (n,), generator=generator)
    return logits, torch.rand(n, classes, generator=generator, dtype=torch.float64).softmax(1) if soft else labels


def as_table(target: Tensor, classes: int) -> Tensor:
    return target if target.is_floating_point() else F.one_hot(target, classes).double()


@HARD_AND_SOFT
def test_cross_entropy_over_sets_is_the_sum_of_minus_log_probabilities(soft: bool) -> None:
    logits, target = problem(soft)
    expected = -(as_table(target, 4) * logits.softmax(1).log()).sum()
    assert softmax_cross_entropy_over_sets(logits, target).item() == pytest.approx(expected.item(), rel=SUM_ROUNDING)


@HARD_AND_SOFT
def test_loss_one_is_the_log_of_one_plus_each_class_summed_odds(soft: bool) -> None:
    logits, target = problem(soft)
    odds = as_table(target, 4) * (1 / logits.softmax(1) - 1)
    expected = torch.log(1 + odds.sum(0)).sum()
    assert loss_one(logits, target).item() == pytest.approx(expected.item(), rel=SUM_ROUNDING)


@HARD_AND_SOFT
def test_loss_three_puts_each_score_against_the_mean_of_its_set(soft: bool) -> None:
    logits, target = problem(soft)
    against = torch.exp(logits.mean(1, keepdim=True) - logits)
    expected = torch.log(1 + (as_table(target, 4) * against).sum(0)).sum()
    assert loss_three(logits, target).item() == pytest.approx(expected.item(), rel=SUM_ROUNDING)


@HARD_AND_SOFT
def test_general_takes_any_function_of_the_scores(soft: bool) -> None:
    logits, target = problem(soft)
    expected = torch.log(1 + (as_table(target, 4) * torch.exp(-logits.sin())).sum(0)).sum()
    assert general(logits, target, torch.sin).item() == pytest.approx(expected.item(), rel=SUM_ROUNDING)


@HARD_AND_SOFT
def test_general_with_log_odds_is_loss_one(soft: bool) -> None:
    logits, target = problem(soft)
    value = general(logits, target, lambda s: torch.logit(s.softmax(1)))
    assert value.item() == pytest.approx(loss_one(logits, target).item(), rel=SUM_ROUNDING)


def test_general_names_a_function_that_loses_the_shape() -> None:
    logits, target = problem(soft=False)
    with pytest.raises(ValueError, match=r"general: f must keep the shape of the logits, \(12, 4\); it gave \(12,\)"):
        general(logits, target, lambda s: s.sum(1))


@pytest.mark.parametrize("order", range(1, 9))
def test_truncated_is_the_naive_sum_of_products_of_odds(order: int) -> None:
    logits, target = problem(soft=False, n=8, classes=2)
    odds = (1 / logits.softmax(1).gather(1, target[:, None]) - 1).squeeze(1)
    expected = 0.0
    for label in range(2):
        of_class = odds[target == label].tolist()
        expected += math.log(
            sum(math.prod(chosen) for r in range(order + 1) for chosen in itertools.combinations(of_class, r))
        )
    assert truncated(logits, target, order).item() == pytest.approx(expected, rel=SUM_ROUNDING)


@pytest.mark.parametrize("n", [1, 2, 31, 200])
def test_truncated_runs_from_loss_one_to_cross_entropy_in_value_and_gradient(n: int) -> None:
    logits, target = problem(soft=False, n=n, classes=3)
    logits.requires_grad_()
    for order, loss in ((1, loss_one), (n, softmax_cross_entropy_over_sets), (n + 7, softmax_cross_entropy_over_sets)):
        value, expected = truncated(logits, target, order), loss(logits, target)
        assert value.item() == pytest.approx(expected.item(), rel=SUM_ROUNDING)
        gradients = [torch.autograd.grad(each, logits)[0] for each in (value, expected)]
        torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)  # entries lie in [-1, 1]


def test_truncated_grows_with_its_order() -> None:
    logits, target = problem(soft=False, n=40, classes=3)
    values = [truncated(logits, target, order).item() for order in range(1, 20)]
    assert all(low < high for low, high in itertools.pairwise(values[:8]))
    assert values == sorted(values)


def test_truncated_has_exact_first_and_second_derivatives() -> None:
    logits, target = problem(soft=False, n=6, classes=3)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: truncated(s, target, 2), logits)
    assert torch.autograd.gradgradcheck(lambda s: truncated(s, target, 2), logits)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_truncated_keeps_its_digits_at_extreme_logits(order: int) -> None:
    size = 1e4
    logits = torch.tensor([[size, -size], [size, -size], [-size, size], [-size, size], [size, -size]]).double()
    logits.requires_grad_()
    target = torch.tensor([1, 1, 1, 0, 0])  # sets 0, 1 and 3 are wrong by 2e4
    value = truncated(logits, target, order)
    wrong_in_one_class = 2 * size * min(order, 2) + (math.log(2) if order == 1 else 0.0)
    assert value.item() == pytest.approx(wrong_in_one_class + 2 * size, rel=1e-12)
    (gradient,) = torch.autograd.grad(value, logits)
    share = 0.5 if order == 1 else 1.0
    pushed = torch.tensor([[share, -share], [share, -share], [0, 0], [-1, 1], [0, 0]]).double()
    torch.testing.assert_close(gradient, pushed, rtol=0, atol=1e-9)


def test_truncated_leaves_ignored_sets_out() -> None:
    logits, target = problem(soft=False)
    marked = target.clone()
    marked[[2, 5]] = -100
    kept = marked != -100
    expected = truncated(logits[kept], target[kept], 3).item()
    assert truncated(logits, marked, 3).item() == pytest.approx(expected, rel=SUM_ROUNDING)


def test_nothing_costs_nothing() -> None:
    logits, target = torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)
    assert truncated(logits, target, 2) == loss_one(logits, target) == loss_three(logits, target) == 0


def test_truncated_takes_class_indices_and_a_positive_order_only() -> None:
    logits, soft = problem(soft=True)
    with pytest.raises(TypeError, match="truncated: target must be class indices, not torch"):
        truncated(logits, soft, 1)
    with pytest.raises(ValueError, match="truncated: order must be 1 or more; got 0"):
        truncated(logits, soft.argmax(1), 0)


def test_loss_one_is_the_public_loss_without_compensation() -> None:
    logits, target = problem(soft=True)
    assert loss_one(logits, target) == log_balanced_cross_entropy(logits, target, compensation=None, reduction="sum")
    assert loss_one(logits, target) != log_balanced_cross_entropy(logits, target, reduction="sum")
