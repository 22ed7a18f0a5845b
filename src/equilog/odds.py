"""Logits -> log odds against the truth, exact at both ends.

The odds against class j in a set are 1/p_j - 1 = sum_{k != j} exp(z_k - z_j). Formed from p they lose every digit
where p is near 1 and overflow where it is near 0; here they are sums that leave j out, relative to the largest.
"""

import torch
from torch import Tensor

from equilog.logspace import log_of_sum, usable_peak


def log_odds_against_label(z: Tensor, labels: Tensor) -> Tensor:
    """Return the log odds (n,) against each set's label, from scores (n, C)."""
    index = labels[:, None]
    own = z.gather(1, index)
    others = z.scatter(1, index, -torch.inf)
    peak = usable_peak(others.detach().amax(1, keepdim=True))
    log_odds = log_of_sum(others.sub_(peak).exp_().sum(1, keepdim=True)) + (peak - own)
    return torch.where(own == -torch.inf, torch.inf, log_odds).squeeze(1)


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


def weighted_log(log_terms: Tensor, target: Tensor) -> Tensor:
    """Return log(target * exp(log_terms)), minus infinity wherever the target is 0, whatever the term."""
    positive = target > 0
    return torch.where(positive, torch.where(positive, target, 1.0).log() + log_terms, -torch.inf)
