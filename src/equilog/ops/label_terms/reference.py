"""The sums of what labels add to the positives and to the negatives of their pool, by the term of two classes."""

import torch
from torch import Tensor

from equilog.ops.consecutive import side_by_side
from equilog.ops.dtypes import as_compute_dtype
from equilog.ops.label_sums.reference import shown
from equilog.ops.logspace import log_sum_exp
from equilog.ops.soft_odds.inner_terms import TERMS
from equilog.ops.sum_by_id import log_sum_exp_by


def in_order(
    logits: Tensor, target: Tensor, weight: Tensor | None, shift: Tensor | None, span: int, columns: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return labels (n,) pool by pool, with what is added to their logits."""

    def turned(values: Tensor) -> Tensor:
        return values.reshape(-1, columns).T.reshape(-1) if columns else values

    logits, target, weight = turned(logits), turned(target), None if weight is None else turned(weight)
    if shift is not None:
        logits = (as_compute_dtype(logits).view(-1, len(shift), span) + shift[:, None]).view(-1)
    return logits, target, weight


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


def pooled_label_terms(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    inner: str,
    pool_size: int,
    scale: float,
    ids: Tensor | None = None,
) -> Tensor:
    """Return the log sums (P, 2)."""
    log_odds, shares, log_weight = as_two_classes(logits, target, weight, scale)
    terms = TERMS[inner][0](log_odds, shares) + log_weight[:, None]
    if ids is not None:
        return log_sum_exp_by(terms, ids, pool_size)
    return log_sum_exp(side_by_side(terms, pool_size, -torch.inf), 1).squeeze(1)
