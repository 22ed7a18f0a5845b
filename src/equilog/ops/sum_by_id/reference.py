"""The log of the sum of exponentials of rows that share an id, by torch's operations."""

from typing import Any

import torch
from torch import Tensor

from equilog.ops.consecutive import side_by_side
from equilog.ops.logspace import log_of_sum, log_sum_exp, usable_peak
from equilog.ops.second_order import Differentiable, apply, keep

FEW_SUMS = 64
"""On a GPU, terms of more sums are spread over enough addresses for torch's atomic operations not to queue."""


def log_sum_exp_by(values: Tensor, ids: Tensor, count: int) -> Tensor:
    """Return the log sums (count, ...) of values (n, ...) with one id (n,), by the formula alone."""
    return _log_sum_exp_by(values, ids, count)[0]


def log_sum_exp_by_with_gradient(values: Tensor, ids: Tensor, count: int) -> Tensor:
    """Return the same with a gradient of its own: each row's share of its sum."""
    log_sums: Tensor = apply(ReferenceLogSumExpBy, values, ids, count)
    return log_sums


class ReferenceLogSumExpBy(Differentiable):
    """The log sums of the rows that share an id, with their gradient."""

    formula = staticmethod(log_sum_exp_by)

    # Not in two steps, forward and setup_context: torch then looks up the signature at each call, a tenth of the time
    # of a small loss.
    @staticmethod
    def forward(ctx: Any, values: Tensor, ids: Tensor, count: int) -> Tensor:
        """Return the log sums (count, ...); keep each row's term (n, ...) and 1 / the sums (count, ...) of them."""
        log_sums, terms, total = _log_sum_exp_by(values, ids, count)
        keep(ctx, (values, ids), (count,), terms, torch.where(total == 0, 0.0, 1.0 / total))
        return log_sums

    @staticmethod
    def gradient(ctx: Any, upstream: Tensor) -> Tensor:
        """Return the gradient of the values."""
        _, ids, terms, inverse = ctx.saved_tensors
        gradient: Tensor = (upstream * inverse)[ids] * terms
        return gradient


def log_sum_exp_at_first(log_terms: Tensor, slot: Tensor, pool_size: int, _: int) -> Tensor:
    """Return the log sums (P, pool_size * K), by comparing the rows of each pool with each other.

    So nothing here grows with the number of slots; a pool of one row needs no comparison.
    """
    terms = side_by_side(log_terms, pool_size, -torch.inf)
    if pool_size > 1:
        slot_of = side_by_side(slot[:, None], pool_size, 0)
        same = slot_of == slot_of.mT
        leads = ~same.tril(-1).any(2, keepdim=True)
        terms = log_sum_exp(torch.where((same & leads)[..., None], terms[:, None], -torch.inf), 2).squeeze(2)
    return terms.flatten(1)


def _log_sum_exp_by(values: Tensor, ids: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    index = ids.reshape(-1, *[1] * (values.dim() - 1)).expand_as(values)
    peak = values.new_full((count, *values.shape[1:]), -torch.inf)
    peak = usable_peak(peak.scatter_reduce(0, index, values.detach(), "amax"))
    terms = (values - peak[ids]).exp()
    total = torch.zeros_like(peak).index_add(0, ids, terms)
    return log_of_sum(total) + peak, terms, total
