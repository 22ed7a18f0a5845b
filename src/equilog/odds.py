"""Logits -> log odds against the truth, exact at both ends.

The odds against class j in a set are 1/p_j - 1 = sum_{k != j} exp(z_k - z_j). Formed from p they lose every digit
where p is near 1 and overflow where it is near 0; here they stay logarithms of sums that leave j out.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from equilog.logspace import log_sum_exp

# Above this share of its group a class is subtracted from the sum by summing the others anew. Anything in
# (1/2, 1) is right: at most one class of a group exceeds it, and below it 1 - share keeps its digits.
_LOG_DOMINANT = math.log(0.6)


def log_odds_against_label(z: Tensor, labels: Tensor) -> Tensor:
    """Return the log odds (n,) against each set's label, from scores (n, C)."""
    index = labels[:, None]
    others = z.scatter(1, index, -torch.inf)
    return (log_sum_exp(others) - z.gather(1, index)).squeeze(1)


def log_odds_against_each(z: Tensor, log_total: Callable[[Tensor], Tensor] = log_sum_exp) -> Tensor:
    """Return the log odds (n, C) against every class, from scores (n, C).

    `log_total` gives the log-sum-exp of the group an entry belongs to, broadcastable to (n, C): the whole row, or a
    block of classes. A class at minus infinity has odds plus infinity and adds nothing to the others'.
    """
    total = log_total(z)
    total = torch.where(total == -torch.inf, 0.0, total)
    log_share = z - total
    dominant = log_share.detach() > _LOG_DOMINANT
    without_dominant = log_total(torch.where(dominant, -torch.inf, z))
    without_itself = total + torch.log1p(-torch.where(dominant, -torch.inf, log_share).exp())
    return torch.where(dominant, without_dominant, without_itself) - z


def weighted_log(log_terms: Tensor, target: Tensor) -> Tensor:
    """Return log(target * exp(log_terms)), minus infinity wherever the target is 0, whatever the term."""
    positive = target > 0
    return torch.where(positive, torch.where(positive, target, 1.0).log() + log_terms, -torch.inf)
