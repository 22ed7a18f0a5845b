"""The log sum exp of the sets that share a group, one number a set, by the C++ kernel: three passes and no table."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from equilog.kernels.dispatch import is_transformed
from equilog.kernels.native.call import run
from equilog.logspace import log_sum_exp_by


class NativeLogSumExpBy(Function):
    """The log sums (count,) of float32 values (n,) that share an id (n,), in an eager call on the CPU."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, ids: Tensor, count: int) -> Tensor:
        """Return the log sums; keep each value's share of its sum."""
        shares, peaks, sums = values.new_empty(values.shape), values.new_empty(count), values.new_empty(count)
        run("sums_by_id", values.contiguous(), ids.contiguous(), len(values), count, peaks, sums, shares)
        ctx.count = count
        ctx.save_for_backward(values, ids, shares)
        return sums.log_().add_(peaks)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        """Return each value's share of what flows back to its sum."""
        values, ids, shares = ctx.saved_tensors
        if torch.is_grad_enabled() or is_transformed(upstream):
            with torch.enable_grad():
                again = log_sum_exp_by(values, ids, ctx.count)
                (gradient,) = torch.autograd.grad(again, values, upstream, create_graph=True)
            return gradient, None, None
        return upstream[ids].mul_(shares), None, None


def first_of_slot(slot: Tensor, size: int, slots: int) -> Tensor:
    """Return the number (n,) of the first set with the same slot in each set's pool, of `size` consecutive ones."""
    slot = slot.contiguous()
    ids = torch.empty_like(slot)
    run("first_of_slot", slot, len(slot), size, slots, ids)
    return ids
