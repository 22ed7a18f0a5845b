"""Logits -> log odds against the truth, exact at both ends.

The odds against class j in a set are 1/p_j - 1 = sum_{k != j} exp(z_k - z_j). Formed from p they lose every digit
where p is near 1 and overflow where it is near 0; here they are sums that leave j out, relative to the largest.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from equilog.logspace import log_of_sum, usable_peak


def log_odds_against_label(z: Tensor, labels: Tensor) -> Tensor:
    """Return the log odds (n,) against each set's label, from scores (n, C), by the formula alone."""
    return _log_odds(z, labels)[0]


def log_odds_gradient(z: Tensor, labels: Tensor, upstream: Tensor) -> Tensor:
    """Return the gradient (n, C) of the log odds against the label, times what flows back to them (n,)."""
    log_odds, peak, inverse = _log_odds(z, labels)
    upstream = torch.where(log_odds.isinf(), 0.0, upstream)
    # Without the label's own exponential, which may be infinite and would make the next derivative NaN.
    return gradient_of_scores(torch.where(is_label(z, labels), -torch.inf, z), labels, peak, inverse, upstream)


class LogOddsAgainstLabel(Function):
    """The log odds against the label by the formula, and its gradient by its own: each reads the scores once."""

    @staticmethod
    def forward(z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the log odds, and the two numbers of each set that its gradient needs."""
        return _log_odds(z, labels)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
        """Keep the scores and three numbers a set."""
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs, *output[1:])

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the scores; infinite log odds must have been taken out of it."""
        z, labels, peak, inverse = ctx.saved_tensors
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # somebody will differentiate once more
            return log_odds_gradient(z, labels, upstream), None
        return gradient_of_scores(z, labels, peak, inverse, upstream), None


def _log_odds(z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log odds, the largest score of the other classes and 1 / the sum of their exponentials, each (n,)."""
    own = z.gather(1, labels[:, None]).squeeze(1)
    label = is_label(z, labels)
    peak = largest_of_others(z, label)
    return from_sums(own, peak, sum_of_others(z, label, peak))


def largest_of_others(z: Tensor, label: Tensor) -> Tensor:
    """Return the largest score (n,) of the classes other than the label, whose place (n, C) is given."""
    # The label's place holds the least number there is, so that the largest is finite even where nothing else is left.
    return torch.where(label, torch.finfo(z.dtype).min, z).detach().amax(1)


def sum_of_others(z: Tensor, label: Tensor, peak: Tensor) -> Tensor:
    """Return the sum (n,) of exp(z - peak) over the classes other than the label."""
    return torch.where(label, -torch.inf, z - peak[:, None]).exp().sum(1)


def from_sums(own: Tensor, peak: Tensor, total: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log odds, and the two numbers the gradient needs, from the label's score, the largest and the sum."""
    log_odds = log_of_sum(total) + (peak - own)
    log_odds = torch.where((own == -torch.inf) | (peak == torch.inf), torch.inf, log_odds)
    return log_odds, peak, 1.0 / torch.where(total == 0, 1.0, total)


def gradient_of_scores(z: Tensor, labels: Tensor, peak: Tensor, inverse: Tensor, upstream: Tensor) -> Tensor:
    """Return upstream * (softmax over the others - one-hot), 0 where nothing flows back, whatever the scores.

    NaN in a set to which something flows back stays in the gradient of its label.

    A product with the inverse of the sum rounds once, where the exponential of a difference from the sum's log would
    lose the digits of large scores.
    """
    others = (upstream * inverse)[:, None] * (z - peak[:, None]).exp()
    # 0 times what is not a number can only be told by the result: a comparison of each number with itself is free once
    # it is compiled, where a mask of whole sets costs a fifth.
    others = torch.where(others == others, others, 0.0)
    return torch.where(is_label(z, labels), -upstream[:, None], others)


def is_label(z: Tensor, labels: Tensor) -> Tensor:
    """Return (n, C) bool. Compiled, a comparison is several times as fast as scattering."""
    return torch.arange(z.shape[1], device=z.device) == labels[:, None]


def log_odds_against_each(z: Tensor) -> Tensor:
    """Return the log odds (n, C) against every class, from scores (n, C).

    A class at minus infinity has odds plus infinity and adds nothing to the others'.
    """
    peak, top = z.detach().max(1, keepdim=True)
    shifted = z - usable_peak(peak)
    own = shifted.gather(1, top)
    # Only the largest class can be more than half of the sum, so only there a difference would lose digits.
    others = shifted.scatter(1, top, -torch.inf).exp_()
    rest = others.sum(1, keepdim=True)
    total = (rest + own.exp()).clamp(min=1.0)
    against_top = torch.where(own == -torch.inf, 0.0, log_of_sum(rest))
    return (total - others).log().scatter(1, top, against_top) - shifted


def log_threats_to_label(z: Tensor, labels: Tensor) -> Tensor:
    """Return the log threats (n, C) of every class to each set's label, minus infinity of the label's own."""
    index = labels[:, None]
    own = z.gather(1, index)
    return torch.where(own == -torch.inf, torch.inf, (z - own).scatter(1, index, -torch.inf))


def left_at_optimum(target: Tensor) -> Tensor:
    """Return what is left of the odds at the best scores (n, C): sqrt(t_j) (sum_k sqrt(t_k) - sqrt(t_j))."""
    root = target.sqrt()
    return root * (root.sum(1, keepdim=True) - root)


def weighted_log(log_terms: Tensor, target: Tensor) -> Tensor:
    """Return log(target * exp(log_terms)), minus infinity wherever the target is 0, whatever the term."""
    positive = target > 0
    return torch.where(positive, torch.where(positive, target, 1.0).log() + log_terms, -torch.inf)
