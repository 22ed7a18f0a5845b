"""Sums kept as logarithms: over a dimension, and over the rows that share an id.

Both take minus infinity for "nothing here" and never turn it into NaN, in the value or any derivative: a sum of
nothing is minus infinity, with gradient 0.
"""

import torch
from torch import Tensor


def log_sum_exp(values: Tensor, dim: int = -1) -> Tensor:
    """Return log sum exp over `dim`, kept as size 1."""
    if values.shape[dim] == 0:
        return values.sum(dim, keepdim=True) - torch.inf
    peak = _usable(values.detach().amax(dim, keepdim=True))
    return _finish((values - peak).exp().sum(dim, keepdim=True), peak)


def log_sum_exp_by(values: Tensor, ids: Tensor, count: int) -> Tensor:
    """Return the log sum exp (count, K) of the rows of values (n, K) that share an id (n,) in 0..count-1."""
    peak = values.new_full((count, values.shape[1]), -torch.inf)
    peak = _usable(peak.scatter_reduce(0, ids[:, None].expand_as(values), values.detach(), "amax"))
    return _finish(torch.zeros_like(peak).index_add(0, ids, (values - peak[ids]).exp()), peak)


def _usable(peak: Tensor) -> Tensor:
    """Keep what can be subtracted; infinities and NaN then go their own way through exp."""
    return torch.where(peak.isfinite(), peak, 0.0)


def _finish(total: Tensor, peak: Tensor) -> Tensor:
    empty = total == 0
    return torch.where(empty, -torch.inf, torch.where(empty, 1.0, total).log() + peak)
