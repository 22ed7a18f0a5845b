"""What the mean over pools divides by, as far as it is known before what the pools hold."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Units(NamedTuple):
    """The unit of a pool is the larger of its samples and the logs that hold something, by weight; without gradient."""

    samples: Tensor | float
    """(P,) how many samples each pool spans, each by its weight; a number where it is that of all pools."""
    total: Tensor | float | None = None
    """The sum of all units, 0-d, where it does not depend on the logs."""

    def summed(self, log_sums: Tensor, weight: Tensor | None) -> Tensor | float:
        """Return the sum of all units from the pools' log sums (P, K) and the weight of the logs, (K,), (P, K) or 1."""
        if self.total is not None:
            return self.total
        if weight is None and not isinstance(self.samples, Tensor) and self.samples >= log_sums.shape[1]:
            return log_sums.shape[0] * self.samples
        return self.of_logs(logs_held(log_sums, weight))

    def of_logs(self, logs: Tensor) -> Tensor | float:
        """Return the sum of all units from how many logs of each pool hold something, by weight (P,)."""
        if self.total is not None:
            return self.total
        if isinstance(self.samples, Tensor):
            return torch.maximum(self.samples, logs).sum()
        return logs.clamp(min=self.samples).sum()


def logs_held(log_sums: Tensor, weight: Tensor | None) -> Tensor:
    """Return how many logs (P,) of each pool hold something, by weight, from log sums (P, K)."""
    # Not minus infinity: a block of classes of which none is left in a set takes as good as nothing of the others.
    holds = log_sums.detach() > 0.5 * torch.finfo(log_sums.dtype).min
    return holds.sum(1) if weight is None else (holds * weight).sum(1)


def mean_of(total: Tensor, units: Tensor | float) -> Tensor:
    """Return the sum over the pools divided by that of their units."""
    if not isinstance(units, Tensor):
        return total / max(units, 1)
    # Without gradient, since a part's units are: a weight moves the sum, and what that is divided by is held fixed.
    units = units.detach().to(total)
    return total / units.clamp(min=torch.finfo(units.dtype).tiny)  # the sum over no pools is 0


def as_numbers(units: Units | None) -> tuple[Tensor | float | None, ...]:
    """Return units as the arguments of a kernel: whether it is to form the mean, the total, the samples."""
    if units is None:
        return False, 0.0, None, 0.0
    samples, total = units
    if total is not None:
        return True, float(total), None, 0.0
    return (
        (True, -math.inf, samples.double(), 0.0)
        if isinstance(samples, Tensor)
        else (True, -math.inf, None, float(samples))
    )
