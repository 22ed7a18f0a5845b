"""Sums kept as logarithms: over a dimension, and over the rows that share an id.

Both take minus infinity for "nothing here" and never turn it into NaN, in the value or any derivative: a sum of
nothing is minus infinity, with gradient 0. With `plus_one` they return log(1 + sum), with all its digits where the
sum is tiny.
"""

import torch
from torch import Tensor


def log_sum_exp(values: Tensor, dim: int = -1, *, plus_one: bool = False) -> Tensor:
    """Return log sum exp over `dim`, kept as size 1."""
    if values.shape[dim] == 0:
        shape = list(values.shape)
        shape[dim] = 1
        return values.sum(dim, keepdim=True) + values.new_full(shape, 0.0 if plus_one else -torch.inf)
    peak = values.detach().amax(dim, keepdim=True)
    peak = _usable_peak(peak.clamp(min=0.0) if plus_one else peak)
    return _finish((values - peak).exp().sum(dim, keepdim=True), peak, plus_one)


def log_sum_exp_by(values: Tensor, ids: Tensor, count: int, *, plus_one: bool = False) -> Tensor:
    """Return the log sum exp (count, K) of the rows of values (n, K) that share an id (n,) in 0..count-1."""
    rows = ids[:, None].expand_as(values)
    peak = values.new_full((count, values.shape[1]), 0.0 if plus_one else -torch.inf)
    peak = _usable_peak(peak.scatter_reduce(0, rows, values.detach(), "amax"))
    total = torch.zeros_like(peak).index_add(0, ids, (values - peak[ids]).exp())
    return _finish(total, peak, plus_one)


def _usable_peak(peak: Tensor) -> Tensor:
    """Keep what can be subtracted; infinities and NaN then go their own way through exp."""
    return torch.where(peak.isfinite(), peak, 0.0)


def _finish(total: Tensor, peak: Tensor, plus_one: bool) -> Tensor:
    if plus_one:
        return peak + torch.log1p(total + torch.expm1(-peak))
    empty = total == 0
    return torch.where(empty, -torch.inf, torch.where(empty, 1.0, total).log() + peak)
