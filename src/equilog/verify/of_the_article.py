"""The article's claims: from cross-entropy over sets to one log per class, and what that leaves open."""

import math

import torch
from torch import Tensor

from equilog import article
from equilog.losses.multiclass import log_balanced_cross_entropy
from equilog.losses.multilabel import multilabel_cross_entropy
from equilog.optimum import multilabel_scores, scores
from equilog.verify.check import Measured, at_least, at_most, claim, equal_to
from equilog.verify.experiments import (
    largest,
    loss_by_class_size,
    minimised,
    random_labels,
    random_logits,
    random_probabilities,
    separable_fit,
    soft_answer,
    truncation,
)

_ROUNDING = 1e-12
"""Of sums of a few hundred float64 numbers of order 1."""
_SETS, _CLASSES = 200, 5


def _odds(logits: Tensor) -> Tensor:
    """Return the odds against each class, from the probabilities."""
    return 1 / logits.softmax(1) - 1


@claim
def cross_entropy_is_the_log_of_a_product() -> Measured:
    """Cross-entropy over n sets is the log of the product of 1 + odds against each truth."""
    logits, target = random_logits(_SETS, _CLASSES), random_labels(_SETS, _CLASSES)
    product = (1 + _odds(logits).gather(1, target[:, None])).prod()
    return equal_to(article.softmax_cross_entropy_over_sets(logits, target).item(), product.log().item(), 1e-10)


@claim
def the_product_cut_at_first_order_is_loss_one() -> Measured:
    """The product cut after its first order is loss-1; the difference is 0."""
    logits, target = random_logits(_SETS, _CLASSES), random_labels(_SETS, _CLASSES)
    cut = article.truncated(logits, target, 1)
    return at_most(largest(cut - article.loss_one(logits, target)), _ROUNDING * _SETS)


@claim
def the_product_uncut_is_cross_entropy() -> Measured:
    """The product uncut, at order n, is cross-entropy; the difference is 0."""
    logits, target = random_logits(_SETS, _CLASSES), random_labels(_SETS, _CLASSES)
    uncut = article.truncated(logits, target, _SETS)
    return at_most(largest(uncut - article.softmax_cross_entropy_over_sets(logits, target)), _ROUNDING * _SETS)


@claim
def the_product_grows_order_by_order() -> Measured:
    """Every order in between adds to the loss: the smallest step up from order 1 to 12 is positive."""
    return at_least(truncation(list(range(1, 13))).diff().min().item(), 1e-3)


@claim
def loss_one_of_hard_targets() -> Measured:
    """Loss-1 of class indices is sum_j log(1 + sum of the odds against class j)."""
    logits, target = random_logits(_SETS, _CLASSES), random_labels(_SETS, _CLASSES)
    summed = torch.stack([_odds(logits)[target == j, j].sum() for j in range(_CLASSES)])
    return equal_to(article.loss_one(logits, target).item(), (1 + summed).log().sum().item(), 1e-10)


@claim
def loss_one_of_soft_targets() -> Measured:
    """Loss-1 of probabilities is the same with every odds multiplied by its target."""
    logits, target = random_logits(_SETS, _CLASSES), random_probabilities(_SETS, _CLASSES)
    summed = (target * _odds(logits)).sum(0)
    return equal_to(article.loss_one(logits, target).item(), (1 + summed).log().sum().item(), 1e-10)


@claim
def the_general_form_contains_loss_one() -> Measured:
    """The general form with f = log odds in favour is loss-1; the difference is 0."""
    logits, target = random_logits(_SETS, _CLASSES), random_probabilities(_SETS, _CLASSES)
    value = article.general(logits, target, lambda s: torch.logit(s.softmax(1)))
    return at_most(largest(value - article.loss_one(logits, target)), _ROUNDING * _SETS)


@claim
def cross_entropy_grows_like_class_size() -> Measured:
    """A class of equally hard sets costs cross-entropy in proportion to its size: slope 1 on log-log axes."""
    sizes = [10**k for k in range(1, 6)]
    cost = loss_by_class_size(article.softmax_cross_entropy_over_sets, sizes)
    return equal_to(_slope(sizes, cost.log()), 1.0, 0.1)


@claim
def loss_one_grows_like_the_log_of_class_size() -> Measured:
    """Such a class costs loss-1 only the log of its size: ten times the sets add log 10."""
    cost = loss_by_class_size(article.loss_one, [10**4, 10**5])
    return equal_to(cost.diff().item(), math.log(10), 0.05)


@claim
def two_classes_are_a_label_hard() -> Measured:
    """Two classes: loss-1 of class indices is the multi-label loss of the difference of the scores."""
    logits, target = random_logits(_SETS, 2), random_labels(_SETS, 2)
    label = multilabel_cross_entropy(logits[:, 0] - logits[:, 1], 1 - target, pool="batch", reduction="sum")
    return at_most(largest(article.loss_one(logits, target) - label), _ROUNDING * _SETS)


@claim
def two_classes_are_a_label_soft() -> Measured:
    """Two classes: loss-1 of probabilities is the multi-label loss of soft labels."""
    logits, target = random_logits(_SETS, 2), random_probabilities(_SETS, 2)
    label = multilabel_cross_entropy(logits[:, 0] - logits[:, 1], target[:, 0], pool="batch", reduction="sum")
    return at_most(largest(article.loss_one(logits, target) - label), _ROUNDING * _SETS)


@claim
def multilabel_loss_of_hard_labels() -> Measured:
    """The multi-label loss is log(1 + sum of e^-x over positives) + log(1 + sum of e^x over negatives)."""
    x, target = random_logits(1, _SETS)[0], random_labels(_SETS, 2).bool()
    expected = torch.log1p(torch.exp(-x[target]).sum()) + torch.log1p(torch.exp(x[~target]).sum())
    return equal_to(multilabel_cross_entropy(x, target, reduction="sum").item(), expected.item(), 1e-10)


@claim
def multilabel_loss_answers_soft_labels() -> Measured:
    """The multi-label loss answers soft labels with sigmoid(2x) = t, found by minimising from a random start."""
    target = random_probabilities(30, 2)[:, 0]
    x = minimised(lambda x: multilabel_cross_entropy(x, target, reduction="sum"), random_logits(1, 30, seed=7)[0])
    return at_most(largest((2 * x).sigmoid() - target), 1e-9)


@claim
def multilabel_closed_form() -> Measured:
    """The multi-label answer in closed form: the gradient at x = logit(t) / 2 is 0."""
    target = random_probabilities(1000, 2)[:, 0]
    at = multilabel_scores(target)
    gradient = torch.func.grad(lambda x: multilabel_cross_entropy(x, target, reduction="sum"))(at)
    return at_most(largest(gradient), _ROUNDING)


@claim
def loss_one_misses_soft_targets() -> Measured:
    """Loss-1 with more than two classes does not answer soft targets: softmax(2s) misses t by a lot."""
    target = random_probabilities(8, 4)
    return at_least(largest((2 * soft_answer(article.loss_one, target)).softmax(1) - target), 1e-2)


@claim
def loss_three_answers_soft_targets() -> Measured:
    """Loss-3 answers soft targets with softmax(s) = t, found by minimising from a random start."""
    target = random_probabilities(8, 4)
    return at_most(largest(soft_answer(article.loss_three, target).softmax(1) - target), 1e-9)


@claim
def loss_one_separates() -> Measured:
    """Loss-1 below log 2 puts every point of separable, unequal classes on its side: none is wrong."""
    fit = separable_fit(article.loss_one)
    return equal_to(fit.wrong if fit.loss < math.log(2) else math.nan, 0, 0)


@claim
def loss_three_does_not_separate() -> Measured:
    """Loss-3 just as low leaves every point of the rare classes on another's side: number wrong."""
    fit = separable_fit(article.loss_three)
    return equal_to(fit.wrong if fit.loss < math.log(2) else math.nan, int((fit.labels % 2 == 1).sum()), 0)


@claim
def loss_one_refuses_the_wrong_class() -> Measured:
    """For the wrong answer p = (0.01, 0.99, 0+) to class 1 loss-1 asks log 100."""
    return equal_to(article.loss_one(_WRONG, torch.tensor([0])).item(), math.log(100), 1e-9)


@claim
def loss_three_accepts_the_wrong_class() -> Measured:
    """For that wrong answer loss-3 asks nothing."""
    return at_most(article.loss_three(_WRONG, torch.tensor([0])).item(), 1e-9)


_WRONG = torch.tensor([[0.01, 0.99, 1e-40]], dtype=torch.float64).log()


@claim
def one_set_is_cross_entropy() -> Measured:
    """One set with a class index: loss-1 is cross-entropy in value and gradient."""
    logits, target = random_logits(_SETS, _CLASSES), random_labels(_SETS, _CLASSES)
    ours = torch.func.grad_and_value(lambda s: log_balanced_cross_entropy(s, target, pool=1, reduction="sum"))(logits)
    torchs = torch.func.grad_and_value(lambda s: article.softmax_cross_entropy_over_sets(s, target))(logits)
    gradient, value = (abs(a - b) for a, b in zip(ours, torchs, strict=True))
    return at_most(max(largest(gradient), largest(value)), _ROUNDING * _SETS)


@claim
def two_classes_have_a_closed_form() -> Measured:
    """Two classes: loss-1 has the closed form softmax(2s) = t for soft targets."""
    target = random_probabilities(100, 2)
    return at_most(largest((2 * scores(target, compensation=None)).softmax(1) - target), _ROUNDING)


def _slope(sizes: list[int], values: Tensor) -> float:
    x = torch.tensor(sizes, dtype=torch.float64).log()
    x = x - x.mean()
    return ((x @ values) / (x @ x)).item()


CHECKS = (
    cross_entropy_is_the_log_of_a_product,
    the_product_cut_at_first_order_is_loss_one,
    the_product_uncut_is_cross_entropy,
    the_product_grows_order_by_order,
    loss_one_of_hard_targets,
    loss_one_of_soft_targets,
    one_set_is_cross_entropy,
    the_general_form_contains_loss_one,
    cross_entropy_grows_like_class_size,
    loss_one_grows_like_the_log_of_class_size,
    two_classes_are_a_label_hard,
    two_classes_are_a_label_soft,
    two_classes_have_a_closed_form,
    multilabel_loss_of_hard_labels,
    multilabel_loss_answers_soft_labels,
    multilabel_closed_form,
    loss_one_misses_soft_targets,
    loss_one_separates,
    loss_three_answers_soft_targets,
    loss_three_does_not_separate,
    loss_one_refuses_the_wrong_class,
    loss_three_accepts_the_wrong_class,
)
"""The article's claims, in its order."""
