"""Sums kept as logarithms.

They take minus infinity for "nothing here" and never turn it into NaN, in the value or any derivative: a sum of nothing
is minus infinity, with gradient 0.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def log_sum_exp(values: Tensor, dim: int = -1, weight: Tensor | None = None) -> Tensor:
    """Return log sum weight * exp(values) over `dim`, kept as size 1; what has weight 0 may be anything but NaN."""
    if values.shape[dim] == 0:
        return values.sum(dim, keepdim=True) - torch.inf
    if weight is not None:
        values = torch.where(weight == 0, -torch.inf, values)
    peak = usable_peak(values.detach().amax(dim, keepdim=True))
    terms = (values - peak).exp_()
    return log_of_sum((terms if weight is None else weight * terms).sum(dim, keepdim=True)) + peak


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


def log_expm1(values: Tensor) -> Tensor:
    """Return log(exp(values) - 1) of values 0 or more, with all its digits at both ends; minus infinity of 0."""
    none = values <= 0
    values = torch.where(none, 1.0, values)
    return torch.where(none, -torch.inf, values + torch.log(-torch.expm1(-values)))


def least_with_log(dtype: torch.dtype) -> float:
    """Return a number as near above 0 as has a log whose two derivatives stay finite, in products too."""
    return float(torch.finfo(dtype).tiny ** 0.4)
