"""Sums kept as logarithms: over a dimension, and over the rows that share an id.

Both take minus infinity for "nothing here" and never turn it into NaN, in the value or any derivative: a sum of
nothing is minus infinity, with gradient 0.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def log_sum_exp(values: Tensor, dim: int = -1, weight: Tensor | None = None) -> Tensor:
    """Return log sum weight * exp(values) over `dim`, kept as size 1; what has weight 0 may be anything but NaN."""
    if values.shape[dim] == 0:
        return values.sum(dim, keepdim=True) - torch.inf
    values = _hidden(values, weight)
    peak = usable_peak(values.detach().amax(dim, keepdim=True))
    return log_of_sum(_weighted((values - peak).exp_(), weight).sum(dim, keepdim=True)) + peak


def log_sum_exp_by(values: Tensor, ids: Tensor, count: int, weight: Tensor | None = None) -> Tensor:
    """Return log sum weight * exp(values) (count, K) over the rows of values (n, K) that share an id (n,) < count."""
    values = _hidden(values, weight)
    peak = values.new_full((count, values.shape[1]), -torch.inf)
    peak = usable_peak(peak.scatter_reduce(0, ids[:, None].expand_as(values), values.detach(), "amax"))
    terms = _weighted((values - peak[ids]).exp_(), weight)
    return log_of_sum(torch.zeros_like(peak).index_add(0, ids, terms)) + peak


def _hidden(values: Tensor, weight: Tensor | None) -> Tensor:
    return values if weight is None else torch.where(weight == 0, -torch.inf, values)


def _weighted(terms: Tensor, weight: Tensor | None) -> Tensor:
    return terms if weight is None else weight * terms


def usable_peak(peak: Tensor) -> Tensor:
    """Keep what can be subtracted; infinities and NaN then go their own way through exp."""
    return torch.where(peak.isfinite(), peak, 0.0)


def log_of_sum(total: Tensor) -> Tensor:
    """Return the log of a sum of exponentials, minus infinity with gradient 0 where it is 0."""
    empty = total == 0
    return torch.where(empty, -torch.inf, torch.where(empty, 1.0, total).log())


def log_one_plus(log_sums: Tensor) -> Tensor:
    """Return log(1 + exp(log_sums)), with all its digits at both ends."""
    # Above 40 the 1 is less than the last digit of a float64. (logaddexp has NaN for a second derivative below -700.)
    return F.softplus(log_sums, threshold=40.0)
