"""The log odds against a class index, exact at both ends.

The odds against class j in a set are 1/p_j - 1 = sum_{k != j} exp(z_k - z_j). Formed from p they lose every digit
where p is near 1 and overflow where it is near 0; here they are a sum that leaves j out, relative to the largest.
"""

from typing import Any

import torch
from torch import Tensor

from equilog.ops.logspace import log_of_sum
from equilog.ops.scores import scores_of
from equilog.ops.second_order import Differentiable, apply, keep


def index_log_odds(logits: Tensor, index: Tensor, shift: Tensor | None = None, scale: float = 1.0) -> Tensor:
    """Return the log odds (n,), by the formula alone.

    A set that holds infinity or no number is a constant: it may be left out of what follows, and 0 times its gradient
    would be no number.
    """
    z = scores_of(logits, shift, scale)
    is_number = (z <= torch.finfo(z.dtype).max).all(1)
    constant = largest_of_others(z, places(z, index)) - z.detach().gather(1, index[:, None]).squeeze(1)
    return torch.where(is_number, _log_odds(torch.where(is_number[:, None], z, 0.0), index)[0], constant)


def index_log_odds_with_gradient(logits: Tensor, index: Tensor, shift: Tensor | None, scale: float) -> Tensor:
    """Return the same with a gradient of its own: each direction reads the scores once."""
    log_odds: Tensor = apply(ReferenceLogOdds, scores_of(logits, shift, scale), index)
    return log_odds


class ReferenceLogOdds(Differentiable):
    """The log odds (n,) of scores (n, C) by the formula."""

    formula = staticmethod(index_log_odds)

    @staticmethod
    def forward(ctx: Any, z: Tensor, index: Tensor) -> Tensor:
        """Return the log odds; keep the scores and three numbers a set."""
        log_odds, peak, inverse = _log_odds(z, index)
        keep(ctx, (z, index), (), peak, inverse, log_odds.isinf())
        return log_odds

    @staticmethod
    def gradient(ctx: Any, upstream: Tensor) -> Tensor:
        """Return the gradient of the scores; where the odds are certain either way they are a constant."""
        z, index, peak, inverse, is_certain = ctx.saved_tensors
        return gradient_of_scores(z, index, peak, inverse, torch.where(is_certain, 0.0, upstream))


def _log_odds(z: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log odds, the largest score of the other classes and 1 / the sum of their exponentials, each (n,)."""
    score = z.gather(1, index[:, None]).squeeze(1)
    is_index = places(z, index)
    peak = largest_of_others(z, is_index)
    return from_sums(score, peak, sum_of_others(z, is_index, peak))


def places(z: Tensor, index: Tensor) -> Tensor:
    """Return where each set's class is, (n, C) bool. Compiled, a comparison is several times as fast as scattering."""
    return torch.arange(z.shape[1], device=z.device) == index[:, None]


def largest_of_others(z: Tensor, is_index: Tensor) -> Tensor:
    """Return the largest score (n,) of the classes other than each set's."""
    # The place of the index holds the least number, so that the largest is finite even where nothing else is left.
    return torch.where(is_index, torch.finfo(z.dtype).min, z).detach().amax(1)


def sum_of_others(z: Tensor, is_index: Tensor, peak: Tensor) -> Tensor:
    """Return the sum (n,) of exp(z - peak) over the classes other than each set's."""
    return torch.where(is_index, -torch.inf, z - peak[:, None]).exp().sum(1)


def from_sums(score: Tensor, peak: Tensor, total: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log odds, and the two numbers the gradient needs, from the index's score, the largest and the sum."""
    log_odds = log_of_sum(total) + (peak - score)
    log_odds = torch.where((score == -torch.inf) | (peak == torch.inf), torch.inf, log_odds)
    return log_odds, peak, 1.0 / torch.where(total == 0, 1.0, total)


def gradient_of_scores(z: Tensor, index: Tensor, peak: Tensor, inverse: Tensor, upstream: Tensor) -> Tensor:
    """Return upstream * (softmax over the others - one-hot), 0 where nothing flows back, whatever the scores.

    NaN in a set to which something flows back stays in the gradient of its class.

    A product with the inverse of the sum rounds once, where the exponential of a difference from the sum's log would
    lose the digits of large scores.
    """
    others = (upstream * inverse)[:, None] * (z - peak[:, None]).exp()
    # 0 times what is not a number can only be told by the result: a comparison of each number with itself is free once
    # it is compiled, where a mask of whole sets costs a fifth.
    others = torch.where(others == others, others, 0.0)
    return torch.where(places(z, index), -upstream[:, None], others)
