"""What this project adds: exact answers to soft targets, the posterior of hard ones, and how large a step can be."""

import math
from typing import Any

import torch
from torch import Tensor

from equilog import article
from equilog.inputs.options import Compensation, InnerName
from equilog.losses.multiclass import log_balanced_cross_entropy
from equilog.losses.multilabel import multilabel_cross_entropy
from equilog.optimum import class_mass, minimum, multilabel_scores, scores
from equilog.verify.check import Measured, at_least, at_most, claim, equal_to
from equilog.verify.experiments import (
    PooledAnswer,
    curvature_of,
    full_batch_answer,
    largest,
    minimised,
    pooled_answer,
    random_labels,
    random_logits,
    random_probabilities,
    soft_answer,
)

_ROUNDING = 1e-12
"""Of sums of a few hundred float64 numbers of order 1."""


def _miss(**options: Any) -> float:
    """Return by how much softmax(2s) misses soft targets where a loss with these options is smallest."""
    target = random_probabilities(8, 4)
    found = soft_answer(lambda s, t: log_balanced_cross_entropy(s, t, reduction="sum", **options), target)
    return largest((2 * found).softmax(1) - target)


def _gradient_at_scores(target: Tensor, **options: Any) -> float:
    at = scores(target, **options)
    return largest(torch.func.grad(lambda s: log_balanced_cross_entropy(s, target, reduction="sum", **options))(at))


@claim
def the_gradient_is_cross_entropys_reweighted() -> Measured:
    """With class indices, loss-1's gradient in a set is cross-entropy's times 1 / (A_y p_y)."""
    logits, target = random_logits(300, 5), random_labels(300, 5)
    ours = torch.func.grad(lambda s: article.loss_one(s, target))(logits)
    cross_entropys = torch.func.grad(lambda s: article.softmax_cross_entropy_over_sets(s, target))(logits)
    truth = logits.softmax(1).gather(1, target[:, None])
    mass = 1 + torch.zeros(5, dtype=torch.float64).index_add(0, target, (1 / truth - 1).squeeze(1))
    return at_most(largest(ours - cross_entropys / (mass[target][:, None] * truth)), _ROUNDING)


@claim
def the_gradient_is_bounded() -> Measured:
    """However many sets and whatever the logits, the gradient's entries add up to at most 2 C: worst share found."""
    worst = 0.0
    for seed, size in enumerate((0.1, 1.0, 10.0, 100.0, 1e4)):
        for target in (random_labels(1000, 5, seed=seed), random_probabilities(1000, 5, seed=seed)):
            loss = _loss_one_of(target)
            gradient = torch.func.grad(loss)(random_logits(1000, 5, size=size, seed=seed))
            worst = max(worst, gradient.abs().sum().item() / (2 * 5))
    return at_most(worst, 1 + _ROUNDING)


def _loss_one_of(target: Tensor) -> Any:
    return lambda s: article.loss_one(s, target)


@claim
def loss_one_is_convex() -> Measured:
    """Loss-1 is convex: the smallest curvature found is 0, along constants added to a set."""
    target = random_probabilities(6, 4)
    lowest = math.inf
    for seed, size in enumerate((0.1, 1.0, 5.0)):
        at = random_logits(6, 4, size=size, seed=seed)
        curvature = curvature_of(_loss_one_of(target), at)
        lowest = min(lowest, torch.linalg.eigvalsh(curvature).min().item())
    return at_least(lowest, -_ROUNDING)


@claim
def closed_form_of_loss_one() -> Measured:
    """Closed form of loss-1 for soft targets: the gradient there is 0, for 2,000 sets of 30 classes."""
    return at_most(_gradient_at_scores(random_probabilities(2000, 30), compensation=None), 1e-12)


@claim
def closed_form_of_loss_one_is_found() -> Measured:
    """A minimiser that starts at random finds the answer of the closed form."""
    target = random_probabilities(8, 4)
    found = (2 * soft_answer(article.loss_one, target)).softmax(1)
    return at_most(largest(found - (2 * scores(target, compensation=None)).softmax(1)), 1e-9)


@claim
def smallest_value_of_loss_one() -> Measured:
    """The smallest value of loss-1 is the sum of the logs of the class masses."""
    target = random_probabilities(500, 6)
    value = article.loss_one(scores(target, compensation=None), target)
    return equal_to(value.item(), class_mass(target).log().sum().item(), 1e-9)


@claim
def pairs_are_exact() -> Measured:
    """One log per ordered pair of classes answers soft targets with softmax(2s) = t."""
    return at_most(_miss(balance="pair"), 1e-9)


@claim
def a_single_log_is_exact() -> Measured:
    """One log for all pairs together answers them so."""
    return at_most(_miss(balance="none"), 1e-9)


@claim
def blocks_are_exact() -> Measured:
    """One log per ordered pair of blocks of classes answers them so."""
    return at_most(_miss(balance=torch.tensor([0, 0, 1, 2])), 1e-9)


@claim
def rows_are_not_exact() -> Measured:
    """Rows, one log per class, do not: the transpose of a row is no row."""
    return at_least(_miss(compensation=None), 1e-2)


@claim
def weights_make_it_exact() -> Measured:
    """One log per class with weights in proportion to 1 + R_j answers soft targets with softmax(2s) = t."""
    return at_most(_miss(compensation="weight"), 1e-9)


@claim
def offsets_make_it_exact() -> Measured:
    """One log per class with offsets max R - R_j answers them so."""
    return at_most(_miss(compensation="offset"), 1e-9)


@claim
def pools_are_exact() -> Measured:
    """So do pools of three sets, each weighted by itself."""
    return at_most(_miss(compensation="weight", pool=3), 1e-9)


@claim
def smallest_value_with_weights() -> Measured:
    """With weights the smallest value is sum_j w_j log(1 + R_j)."""
    target = random_probabilities(500, 6)
    left = _left_at_optimum(target)
    weights = (1 + left) / (1 + left).mean()
    return equal_to(minimum(target, reduction="sum").item(), (weights * (1 + left).log()).sum().item(), 1e-9)


@claim
def smallest_value_with_offsets() -> Measured:
    """With offsets the smallest value is C log(1 + max R)."""
    target = random_probabilities(500, 6)
    least = minimum(target, compensation="offset", reduction="sum")
    return equal_to(least.item(), 6 * math.log1p(_left_at_optimum(target).max().item()), 1e-9)


def _left_at_optimum(target: Tensor) -> Tensor:
    root = target.sqrt()
    return (root * (root.sum(1, keepdim=True) - root)).sum(0)


@claim
def compensation_leaves_hard_targets_alone() -> Measured:
    """With certain targets both compensated forms are loss-1: largest difference."""
    logits, labels = random_logits(200, 5), random_labels(200, 5)
    certain = torch.nn.functional.one_hot(labels, 5).double()
    return at_most(largest(_compensated(logits, certain) - article.loss_one(logits, labels)), 1e-10)


@claim
def compensation_leaves_two_classes_alone() -> Measured:
    """With two classes both compensated forms are the multi-label loss of soft labels."""
    logits, target = random_logits(200, 2), random_probabilities(200, 2)
    label = multilabel_cross_entropy(logits[:, 0] - logits[:, 1], target[:, 0], pool="batch", reduction="sum")
    return at_most(largest(_compensated(logits, target) - label), 1e-10)


def _compensated(logits: Tensor, target: Tensor) -> Tensor:
    """Return the values of both compensated forms (2,)."""
    forms: tuple[Compensation, ...] = ("weight", "offset")
    return torch.stack([log_balanced_cross_entropy(logits, target, compensation=f, reduction="sum") for f in forms])


def _error(answer: PooledAnswer) -> float:
    return largest(answer.recovered - answer.posterior)


@claim
def the_posterior_comes_back_from_one_pool() -> Measured:
    """200,000 sampled labels in one pool: softmax(2s) times the class mass is their frequency given the features."""
    return at_most(_error(full_batch_answer()), 1e-9)


@claim
def the_scores_of_one_pool_are_balanced() -> Measured:
    """Without the class mass softmax(2s) is not that frequency: the classes have been balanced."""
    answer = full_batch_answer()
    return at_least(largest(answer.bare - answer.posterior), 5e-2)


@claim
def the_posterior_comes_back_from_pools_of_one() -> Measured:
    """Pools of 1: p_j E[1 / (1 + O_j p_j)]^-1, normalised, is the posterior."""
    return at_most(_error(pooled_answer(1)), 1e-9)


@claim
def the_posterior_comes_back_from_pools_of_two() -> Measured:
    """Pools of 2: the same formula gives the posterior, every possible pool counted once."""
    return at_most(_error(pooled_answer(2)), 1e-9)


@claim
def the_posterior_comes_back_from_pools_of_three() -> Measured:
    """Pools of 3: so it does, over 8,000 pools."""
    return at_most(_error(pooled_answer(3)), 1e-9)


@claim
def labels_are_calibrated_as_they_are() -> Measured:
    """Two classes in one pool need no correction: sigmoid(2x) is the frequency of the label."""
    yes = torch.tensor([900.0, 300.0, 20.0, 5.0], dtype=torch.float64)
    rows = torch.tensor([1000.0, 2000.0, 3000.0, 4000.0], dtype=torch.float64)
    target = torch.tensor([1, 0]).repeat_interleave(4)
    count = torch.cat((yes, rows - yes))
    x = minimised(
        lambda x: multilabel_cross_entropy(x.repeat(2), target, weight=count, pool="batch", reduction="sum"),
        torch.zeros(4, dtype=torch.float64),
    )
    return at_most(largest((2 * x).sigmoid() - yes / rows), 1e-9)


@claim
def the_answer_of_nll_is_stationary() -> Measured:
    """Inner nll with weights 1 + H_j: the gradient at softmax(s) = t is 0, for 2,000 sets of 30 classes."""
    return at_most(_gradient_at_scores(random_probabilities(2000, 30), inner="nll"), 1e-12)


@claim
def nll_answers_soft_targets_in_pools_of_one() -> Measured:
    """In pools of one set a minimiser that starts at random finds softmax(s) = t."""
    target = random_probabilities(8, 4)
    found = soft_answer(lambda s, t: log_balanced_cross_entropy(s, t, inner="nll", pool=1, reduction="sum"), target)
    return at_most(largest(found.softmax(1) - target), 1e-9)


@claim
def nll_gives_up_a_class_that_outweighs_the_rest() -> Measured:
    """100 sets of target (0.9, 0.1) in a pool: what nll costs more at (0.01, 0.99) than at the target."""
    target = torch.tensor([[0.9, 0.1]], dtype=torch.float64).repeat(100, 1)
    given_up = torch.tensor([[0.01, 0.99]], dtype=torch.float64).log().repeat(100, 1)
    value = log_balanced_cross_entropy(given_up, target, inner="nll", reduction="sum")
    return at_most((value - minimum(target, inner="nll", reduction="sum")).item(), -2.0)


@claim
def nll_gives_up_a_rare_class_that_overlaps() -> Measured:
    """900 and 100 labels without features in a pool: nll is smallest at this probability of the rare class."""
    labels, count = torch.tensor([0, 1]), torch.tensor([900.0, 100.0], dtype=torch.float64)
    s = minimised(
        lambda s: log_balanced_cross_entropy(s.expand(2, 2), labels, sample_weight=count, inner="nll", reduction="sum"),
        torch.tensor([[2.2, 0.0]], dtype=torch.float64),
    )
    return at_most(s.softmax(1)[0, 1].item(), 1e-3)


@claim
def divergence_answers_soft_targets() -> Measured:
    """Inner divergence answers soft targets with softmax(s) = t, whatever weighs sets and classes."""
    target = random_probabilities(8, 4)
    weight, class_weight = torch.arange(1.0, 9.0, dtype=torch.float64), torch.tensor([1.0, 4.0, 0.5, 2.0]).double()
    found = soft_answer(
        lambda s, t: log_balanced_cross_entropy(
            s, t, inner="divergence", sample_weight=weight, weight=class_weight, reduction="sum"
        ),
        target,
    )
    return at_most(largest(found.softmax(1) - target), 1e-9)


@claim
def divergence_is_its_own_regret() -> Measured:
    """Its smallest value, at the targets, is 0: for 2,000 sets of 30 classes, up to the square of rounding."""
    target = random_probabilities(2000, 30)
    return at_most(
        log_balanced_cross_entropy(
            scores(target, inner="divergence"), target, inner="divergence", reduction="sum"
        ).item(),
        1e-24,
    )


@claim
def divergence_is_calibrated_in_one_pool() -> Measured:
    """200,000 sampled labels in one pool: the softmax of divergence's scores is their frequency given the features."""
    answer = full_batch_answer(inner="divergence")
    return at_most(largest(answer.bare - answer.posterior), 1e-9)


@claim
def the_posterior_of_nll_comes_back_from_pools_of_two() -> Measured:
    """Pools of 2 with inner nll: p_j E[1 / (1 + O_j - log p_j)]^-1, normalised, is the posterior."""
    return at_most(_error(pooled_answer(2, "nll")), 1e-9)


@claim
def power_is_loss_one_on_hard_targets() -> Measured:
    """Inner power is the odds for index targets: 200 sets of 30 classes, as indices and as rows of 0 and 1."""
    logits, target = random_logits(200, 30), torch.arange(200) % 30
    one_hot = torch.nn.functional.one_hot(target, 30).double()
    odds = log_balanced_cross_entropy(logits, target, reduction="sum")
    values = [log_balanced_cross_entropy(logits, t, inner="power", reduction="sum") for t in (target, one_hot)]
    return at_most(largest(torch.stack(values) - odds), 1e-10)


@claim
def the_answer_of_power_is_stationary() -> Measured:
    """Inner power with weights 1 + R_j: the gradient at softmax(s) = t is 0, for 2,000 sets of 30 classes."""
    return at_most(_gradient_at_scores(random_probabilities(2000, 30), inner="power"), 1e-12)


_INNERS: tuple[InnerName, ...] = ("odds", "power", "nll", "divergence")


@claim
def labels_are_two_classes_with_everything() -> Measured:
    """A label of logit x is a set of scores x and 0, with each inner term and a prior: largest difference."""
    x, target = random_logits(200, 2)[:, :1], random_probabilities(200, 2)
    scores_of_both, prior = torch.cat((x, torch.zeros_like(x)), 1), torch.tensor([0.05, 0.95], dtype=torch.float64)
    differences = [
        log_balanced_cross_entropy(scores_of_both, target, inner=inner, prior=prior, reduction="sum")
        - multilabel_cross_entropy(x, target[:, :1], inner=inner, prior=prior[:1], pool="label", reduction="sum")
        for inner in _INNERS
    ]
    return at_most(largest(torch.stack(differences)), 1e-10)


@claim
def the_answer_of_labels_is_stationary() -> Measured:
    """2,000 samples of 30 labels, every inner term and pool: the gradient at the answer less a prior's log odds."""
    target, prior = random_probabilities(2000, 30), torch.linspace(0.001, 0.9, 30, dtype=torch.float64)
    worst = 0.0
    for inner in _INNERS:
        at = multilabel_scores(target, inner=inner) - torch.logit(prior)
        for pool in ("sample", "label", "batch"):
            options: dict[str, Any] = {"inner": inner, "pool": pool, "prior": prior, "reduction": "sum"}
            worst = max(worst, largest(torch.func.grad(multilabel_cross_entropy)(at, target, **options)))
    return at_most(worst, 1e-12)


@claim
def a_prior_decides_as_if_labels_were_even() -> Measured:
    """A rare label, its prior and inner divergence: the bare logit's sigmoid is its frequency, were it half of all."""
    yes = torch.tensor([900.0, 300.0, 20.0, 5.0], dtype=torch.float64)
    no = torch.tensor([100.0, 1700.0, 29980.0, 39995.0], dtype=torch.float64)
    target, prior = torch.tensor([[1], [0]]).repeat_interleave(4, 0), yes.sum()[None] / (yes + no).sum()
    options: dict[str, Any] = {"inner": "divergence", "pool": "label", "prior": prior, "reduction": "sum"}
    options["sample_weight"] = torch.cat((yes, no))
    x = minimised(
        lambda x: multilabel_cross_entropy(x.repeat(2)[:, None], target, **options),
        torch.zeros(4, dtype=torch.float64),
    )
    even = 1 / (1 + (no / no.sum()) / (yes / yes.sum()))
    return at_most(largest(x.sigmoid() - even), 1e-9)


CHECKS = (
    the_gradient_is_cross_entropys_reweighted,
    the_gradient_is_bounded,
    loss_one_is_convex,
    closed_form_of_loss_one,
    closed_form_of_loss_one_is_found,
    smallest_value_of_loss_one,
    pairs_are_exact,
    a_single_log_is_exact,
    blocks_are_exact,
    rows_are_not_exact,
    weights_make_it_exact,
    offsets_make_it_exact,
    pools_are_exact,
    smallest_value_with_weights,
    smallest_value_with_offsets,
    compensation_leaves_hard_targets_alone,
    compensation_leaves_two_classes_alone,
    the_posterior_comes_back_from_one_pool,
    the_scores_of_one_pool_are_balanced,
    the_posterior_comes_back_from_pools_of_one,
    the_posterior_comes_back_from_pools_of_two,
    the_posterior_comes_back_from_pools_of_three,
    labels_are_calibrated_as_they_are,
    the_answer_of_nll_is_stationary,
    nll_answers_soft_targets_in_pools_of_one,
    nll_gives_up_a_class_that_outweighs_the_rest,
    nll_gives_up_a_rare_class_that_overlaps,
    divergence_answers_soft_targets,
    divergence_is_its_own_regret,
    divergence_is_calibrated_in_one_pool,
    the_posterior_of_nll_comes_back_from_pools_of_two,
    power_is_loss_one_on_hard_targets,
    the_answer_of_power_is_stationary,
    labels_are_two_classes_with_everything,
    the_answer_of_labels_is_stationary,
    a_prior_decides_as_if_labels_were_even,
)
"""This project's claims, in the order of the theory page."""
