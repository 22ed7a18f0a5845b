"""Sums kept as logarithms: over a dimension, and over the rows that share an id.

Both take minus infinity for "nothing here" and never turn it into NaN, in the value or any derivative: a sum of
nothing is minus infinity, with gradient 0.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F


def log_sum_exp(values: Tensor, dim: int = -1, weight: Tensor | None = None) -> Tensor:
    """Return log sum weight * exp(values) over `dim`, kept as size 1; what has weight 0 may be anything but NaN."""
    if values.shape[dim] == 0:
        return values.sum(dim, keepdim=True) - torch.inf
    values = _hidden(values, weight)
    peak = usable_peak(values.detach().amax(dim, keepdim=True))
    return log_of_sum(_weighted((values - peak).exp_(), weight).sum(dim, keepdim=True)) + peak


def log_sum_exp_by(values: Tensor, ids: Tensor, count: int, weight: Tensor | None = None) -> Tensor:
    """Return log sum weight * exp(values) (count, ...) over the rows of values (n, ...) with one id (n,) < count."""
    return _log_sum_exp_by(values, ids, count, weight)[0]


class LogSumExpBy(Function):
    """The log sum exp of the rows that share an id, with its own gradient: each row's share of its sum."""

    # Not in two steps, forward and setup_context: torch then looks up the signature at each call, a tenth of the time
    # of a small loss.
    @staticmethod
    def forward(ctx: Any, values: Tensor, ids: Tensor, count: int) -> Tensor:
        """Return the log sums (count, ...); keep each row's term (n, ...) and 1 / the sums (count, ...) of them."""
        log_sums, terms, total = _log_sum_exp_by(values, ids, count, None)
        ctx.count = count
        ctx.save_for_backward(values, ids, terms, torch.where(total == 0, 0.0, 1.0 / total))
        return log_sums

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of the values."""
        values, ids, terms, inverse = ctx.saved_tensors
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # somebody will differentiate once more
            terms, total = _log_sum_exp_by(values, ids, ctx.count, None)[1:]
            inverse = torch.where(total == 0, 0.0, 1.0 / torch.where(total == 0, 1.0, total))
        return (upstream * inverse)[ids] * terms, None, None


def _log_sum_exp_by(values: Tensor, ids: Tensor, count: int, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    values = _hidden(values, weight)
    index = ids.reshape(-1, *[1] * (values.dim() - 1)).expand_as(values)
    peak = values.new_full((count, *values.shape[1:]), -torch.inf)
    peak = usable_peak(peak.scatter_reduce(0, index, values.detach(), "amax"))
    terms = _weighted((values - peak[ids]).exp(), weight)
    total = torch.zeros_like(peak).index_add(0, ids, terms)
    return log_of_sum(total) + peak, terms, total


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


def least_with_log(dtype: torch.dtype) -> float:
    """Return a number as near above 0 as has a log whose two derivatives stay finite, in products too."""
    return float(torch.finfo(dtype).tiny ** 0.4)
