"""The inner terms that soft targets may have, by torch's operations: their logs, and what the best scores leave."""

from collections.abc import Callable

import torch
from torch import Tensor

from equilog.ops.logspace import least_with_log, log_expm1, log_one_plus


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


def log_divergence_terms(log_odds: Tensor, target: Tensor) -> Tensor:
    """Return log t + log(e^d - 1 - d) with d = log(p / t), which is log p where t is 0."""
    log_prob = -log_one_plus(log_odds)
    positive = target > 0
    log_target = torch.where(positive, target, 1.0).log()
    gap = log_of_gap(torch.where(positive, log_prob, -1.0) - log_target)
    return torch.where(positive, log_target + gap, log_prob)


_SERIES_ORDER = 13


def log_of_gap(d: Tensor) -> Tensor:
    """Return log(e^d - 1 - d), where each of three forms keeps its digits; at 0 as near above 0 as has a log.

    That log of 0 is finite, so that both derivatives of the gap come out of it right: 0 and 1.
    """
    least = least_with_log(d.dtype)
    d = d + torch.where(d.abs() < least, least - d, 0.0).detach()
    near, above = d.abs() < 0.25, d > 1.0
    series = torch.ones_like(d)
    close = torch.where(near, d, 0.0)
    for order in range(_SERIES_ORDER, 2, -1):
        series = 1.0 + close / order * series
    at_zero = 2.0 * torch.where(near, d, 1.0).abs().log() + (0.5 * series).log()
    far_above = torch.where(above, d, 1.0)
    growing = far_above + torch.log1p(-(1.0 + far_above) * (-far_above).exp())
    between = torch.where(near | above, -1.0, d)
    falling = (between.expm1() - between).log()
    return torch.where(near, at_zero, torch.where(above, growing, falling))


TERMS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "odds": (log_weighted, odds_residual),
    "nll": (log_nll_terms, nll_residual),
    "power": (log_power_terms, power_residual),
    "divergence": (log_divergence_terms, torch.zeros_like),
}
"""Each inner term's log, from log odds and target, and what the best scores leave of it."""
