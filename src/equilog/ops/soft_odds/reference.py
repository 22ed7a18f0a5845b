"""The odds against every class, and their sums over pools, by torch's operations."""

from collections.abc import Callable

import torch
from torch import Tensor

from equilog.ops.consecutive import side_by_side
from equilog.ops.logspace import log_of_sum, log_sum_exp, usable_peak
from equilog.ops.soft_odds.inner_terms import TERMS
from equilog.ops.sum_by_id.reference import log_sum_exp_by


def class_log_odds(scores: Tensor) -> Tensor:
    """Return the log odds (n, C) against every class, from scores (n, C).

    A class at minus infinity has odds plus infinity and adds nothing to the others'.
    """
    peak, top = scores.detach().max(1, keepdim=True)
    shifted = scores - usable_peak(peak)
    largest = shifted.gather(1, top)
    # Only the largest class can be more than half of the sum, so only there a difference would lose digits.
    others = shifted.scatter(1, top, -torch.inf).exp_()
    rest = others.sum(1, keepdim=True)
    total = (rest + largest.exp()).clamp(min=1.0)
    against_top = torch.where(largest == -torch.inf, 0.0, log_of_sum(rest))
    return (total - others).log().scatter(1, top, against_top) - shifted


def pooled_class_log_odds(
    scores: Tensor,
    target: Tensor,
    log_weight: Tensor,
    pool_size: int,
    with_residual: bool,
    inner: str = "odds",
    ids: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return the log sums (P, C), and the residual (P, C) or None."""
    residual = None
    if with_residual:
        residual = pooled_sums(TERMS[inner][1], target.detach(), log_weight.detach(), pool_size, ids)
    return log_sums(scores, target, log_weight, pool_size, inner, ids), residual


def log_sums(
    scores: Tensor,
    target: Tensor,
    log_weight: Tensor,
    pool_size: int,
    inner: str = "odds",
    ids: Tensor | None = None,
) -> Tensor:
    """Return the log of the summed terms (P, C)."""
    terms = log_terms(scores, target, log_weight, inner)
    if ids is not None:
        return log_sum_exp_by(terms, ids, pool_size)
    return log_sum_exp(side_by_side(terms, pool_size, -torch.inf), 1).squeeze(1)


def log_terms(scores: Tensor, target: Tensor, log_weight: Tensor, inner: str = "odds") -> Tensor:
    """Return the logs of what every set adds to the sums (n, C)."""
    scores, target = shown(log_weight, scores, target)
    return TERMS[inner][0](class_log_odds(scores), target) + log_weight[:, None]


def shown(log_weight: Tensor, *tables: Tensor) -> list[Tensor]:
    """Return tables (n, C) with 0 in the rows of log weight minus infinity, which may hold anything."""
    is_left_out = (log_weight == -torch.inf)[:, None]
    return [torch.where(is_left_out, 0.0, table) for table in tables]


def pooled_sums(
    row_function: Callable[[Tensor], Tensor],
    values: Tensor,
    log_weight: Tensor,
    pool_size: int,
    ids: Tensor | None = None,
) -> Tensor:
    """Return the weighted sums (P, C)."""
    (values,) = shown(log_weight, values)
    weighted = row_function(values) * log_weight.exp()[:, None]
    if ids is not None:
        return weighted.new_zeros(pool_size, weighted.shape[1]).index_add(0, ids, weighted)
    return side_by_side(weighted, pool_size, 0.0).sum(1)
