"""The odds against every class, and their sums over pools, by torch's operations."""

from collections.abc import Callable

import torch
from torch import Tensor

from equilog.ops.consecutive import side_by_side
from equilog.ops.logspace import log_expm1, log_of_sum, log_one_plus, log_sum_exp, usable_peak


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


def log_weighted(log_terms: Tensor, target: Tensor) -> Tensor:
    """Return log(target * exp(log_terms)), minus infinity wherever the target is 0, whatever the term."""
    positive = target > 0
    return torch.where(positive, torch.where(positive, target, 1.0).log() + log_terms, -torch.inf)


def odds_residual(target: Tensor) -> Tensor:
    """Return what the best scores leave of the odds against every class: sqrt(t_j) (sum_k sqrt(t_k) - sqrt(t_j))."""
    root = target.sqrt()
    return root * (root.sum(1, keepdim=True) - root)


def log_of_nll(log_odds: Tensor) -> Tensor:
    """Return log(-log p) = log(log(1 + odds)), which for small odds is their log to the last digit."""
    small = log_odds < -40.0
    return torch.where(small, log_odds, log_one_plus(torch.where(small, 0.0, log_odds)).log())


def log_nll_terms(log_odds: Tensor, target: Tensor) -> Tensor:
    """Return log(-t log p)."""
    return log_weighted(log_of_nll(log_odds), target)


def nll_residual(target: Tensor) -> Tensor:
    """Return -t log t, the entropy by class."""
    entropy: Tensor = torch.special.entr(target)
    return entropy


def log_power_terms(log_odds: Tensor, target: Tensor) -> Tensor:
    """Return t log t + log(e^(-t log p) - 1), minus infinity where t is 0."""
    positive = target > 0
    target = torch.where(positive, target, 1.0)
    excess = target * log_one_plus(log_odds)
    return torch.where(positive, target * target.log() + log_expm1(excess), -torch.inf)


def power_residual(target: Tensor) -> Tensor:
    """Return 1 - t^t."""
    return -torch.expm1(torch.special.xlogy(target, target))


TERMS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "odds": (log_weighted, odds_residual),
    "nll": (log_nll_terms, nll_residual),
    "power": (log_power_terms, power_residual),
}
"""The inner terms that soft targets may have: their logs, from log odds and target, and what the best scores leave."""


def pooled_class_log_odds(
    scores: Tensor, target: Tensor, log_weight: Tensor, pool_size: int, with_residual: bool, inner: str = "odds"
) -> tuple[Tensor, Tensor | None]:
    """Return the log sums (P, C), and the residual (P, C) or None."""
    sums_of = (target.detach(), log_weight.detach(), pool_size) if with_residual else None
    residual = None if sums_of is None else pooled_sums(TERMS[inner][1], *sums_of)
    return log_sums(scores, target, log_weight, pool_size, inner), residual


def log_sums(scores: Tensor, target: Tensor, log_weight: Tensor, pool_size: int, inner: str = "odds") -> Tensor:
    """Return the log of the summed terms (P, C)."""
    return log_sum_exp(side_by_side(log_terms(scores, target, log_weight, inner), pool_size, -torch.inf), 1).squeeze(1)


def log_terms(scores: Tensor, target: Tensor, log_weight: Tensor, inner: str = "odds") -> Tensor:
    """Return the logs of what every set adds to the sums (n, C)."""
    scores, target = shown(log_weight, scores, target)
    return TERMS[inner][0](class_log_odds(scores), target) + log_weight[:, None]


def shown(log_weight: Tensor, *tables: Tensor) -> list[Tensor]:
    """Return tables (n, C) with 0 in the rows of log weight minus infinity, which may hold anything."""
    is_left_out = (log_weight == -torch.inf)[:, None]
    return [torch.where(is_left_out, 0.0, table) for table in tables]


def pooled_sums(row_function: Callable[[Tensor], Tensor], values: Tensor, log_weight: Tensor, pool_size: int) -> Tensor:
    """Return the weighted sums (P, C)."""
    (values,) = shown(log_weight, values)
    return side_by_side(row_function(values) * log_weight.exp()[:, None], pool_size, 0.0).sum(1)
