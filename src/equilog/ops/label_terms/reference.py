"""The sums of what labels add to the positives and to the negatives of their pool, by the term of two classes."""

from collections.abc import Callable

import torch
from torch import Tensor

from equilog.ops.consecutive import side_by_side
from equilog.ops.label_sums.reference import shown
from equilog.ops.logspace import log_sum_exp

Term = Callable[[Tensor, Tensor], Tensor]
"""(log odds (k, 2) against yes and no, shares (k, 2) of yes and no in the target) -> log terms (k, 2), row by row."""


def as_two_classes(
    logits: Tensor, target: Tensor, weight: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return labels (n,) as sets of two classes, yes and no: log odds and shares (n, 2), and log weights (n,)."""
    x, target = shown(logits, target, weight)
    z = x if scale == 1.0 else scale * x
    return torch.stack((-z, z), 1), *shares_of(target, weight)


def shares_of(target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the shares (n, 2) of yes and no in floating point targets (n,), and the log weights (n,)."""
    if weight is None:
        log_weight = torch.zeros_like(target)
    else:
        kept = weight != 0
        log_weight = torch.where(kept, torch.where(kept, weight, 1.0).log(), -torch.inf)
    return torch.stack((target, 1.0 - target), 1), log_weight


def log_terms_of_labels(logits: Tensor, target: Tensor, weight: Tensor | None, term: Term, scale: float) -> Tensor:
    """Return what each label adds, as logarithms (n, 2)."""
    log_odds, shares, log_weight = as_two_classes(logits, target, weight, scale)
    return term(log_odds, shares) + log_weight[:, None]


def pooled_label_terms(
    logits: Tensor, target: Tensor, weight: Tensor | None, term: Term, pool_size: int, scale: float
) -> Tensor:
    """Return the log sums (P, 2)."""
    terms = log_terms_of_labels(logits, target, weight, term, scale)
    return log_sum_exp(side_by_side(terms, pool_size, -torch.inf), 1).squeeze(1)
