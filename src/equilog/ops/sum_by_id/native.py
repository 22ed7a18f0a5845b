"""The log of the sum of exponentials of rows that share an id, one number a row, by the C++ kernels.

Three passes and no table; in an eager call on the CPU.
"""

from typing import Any

import torch
from torch import Tensor

from equilog.ops.consecutive import pool_count
from equilog.ops.native.call import run
from equilog.ops.second_order import Differentiable, apply, keep
from equilog.ops.sum_by_id import reference


def log_sum_exp_by(values: Tensor, ids: Tensor, count: int) -> Tensor:
    """Return the log sums (count,) of float32 values (n,) that share an id (n,)."""
    log_sums: Tensor = apply(NativeLogSumExpBy, values, ids, count)
    return log_sums


def log_sum_exp_at_first(log_terms: Tensor, slot: Tensor, pool_size: int, slots: int) -> Tensor:
    """Return the log sums (P, pool_size) of float32 terms (n, 1), each at the first row of its slot."""
    pools = pool_count(len(slot), pool_size)
    ids = first_of_slot(slot, pool_size, slots)
    return log_sum_exp_by(log_terms.squeeze(1), ids, pools * pool_size).view(pools, pool_size)


class NativeLogSumExpBy(Differentiable):
    """The log sums (count,) of float32 values (n,) that share an id (n,)."""

    formula = staticmethod(reference.log_sum_exp_by)

    @staticmethod
    def forward(ctx: Any, values: Tensor, ids: Tensor, count: int) -> Tensor:
        """Return the log sums; keep each value's share of its sum."""
        shares, peaks, sums = values.new_empty(values.shape), values.new_empty(count), values.new_empty(count)
        run("sums_by_id", values.contiguous(), ids.contiguous(), len(values), count, peaks, sums, shares)
        keep(ctx, (values, ids), (count,), shares)
        return sums.log_().add_(peaks)

    @staticmethod
    def gradient(ctx: Any, upstream: Tensor) -> Tensor:
        """Return each value's share of what flows back to its sum."""
        _, ids, shares = ctx.saved_tensors
        return upstream[ids].mul_(shares)


def first_of_slot(slot: Tensor, size: int, slots: int) -> Tensor:
    """Return the number (n,) of the first row with the same slot in each row's pool, of `size` consecutive ones."""
    slot = slot.contiguous()
    ids = torch.empty_like(slot)
    run("first_of_slot", slot, len(slot), size, slots, ids)
    return ids
