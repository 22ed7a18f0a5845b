"""The positive and negative sums of pools of labels by the C++ kernels: logits and targets are read once a direction.

And the positives of each sample in order.
"""

# ruff: noqa: ARG001 - the shapes of what an operator gives, from all that it takes
from typing import Any

import torch
from torch import Tensor

from equilog.ops.consecutive import pool_count
from equilog.ops.label_sums import reference
from equilog.ops.native.call import run
from equilog.ops.operators import operator
from equilog.ops.second_order import Differentiable, apply, keep

_KINDS = {torch.float32: 0, torch.int64: 1, torch.bool: 2}
_NAMED = 3


def label_log_sums(logits: Tensor, target: Tensor, weight: Tensor | None, pool_size: int, scale: float) -> Tensor:
    """Return both log sums of each pool (P, 2), from float32 logits (n,) on the CPU.

    The target is (n,), or the sorted positives (P, k), `pool_size` where there is none; the weight (n,), with
    positives (P, pool_size) of any strides, or None.
    """
    log_sums: Tensor = apply(NativeLogSums, logits, target, weight, pool_size, scale)
    return log_sums


def indexed_label_log_sums(logits: Tensor, index: Tensor, weight: Tensor | None, scale: float) -> Tensor:
    """Return both log sums of each sample (N, 2), from logits (N, L) and positives (N, k)."""
    return label_log_sums(logits.reshape(-1), index, weight, logits.shape[1], scale)


class NativeLogSums(Differentiable):
    """Both log sums of each pool (P, 2). Keeps four numbers a pool."""

    formula = staticmethod(reference.any_label_log_sums)

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, weight: Tensor | None, pool_size: int, scale: float
    ) -> Tensor:
        """Return the log sums."""
        log_sums, of_pools = label_sums_forward(logits, target, weight, pool_size, scale)
        keep(ctx, (logits, target, weight), (pool_size, scale), of_pools)
        return log_sums

    @staticmethod
    def gradient(ctx: Any, upstream: Tensor) -> Tensor:
        """Return the gradient of the logits."""
        # saved_tensors complains if the logits have been changed since.
        logits, target, weight, of_pools = ctx.saved_tensors
        return label_sums_backward(logits, target, weight, of_pools, upstream, *ctx.constants)


def _as_sums(
    logits: Tensor, target: Tensor, weight: Tensor | None, pool_size: int, scale: float
) -> tuple[Tensor, Tensor]:
    count = pool_count(logits.shape[0], pool_size)
    return logits.new_empty(count, 2), logits.new_empty(count, 4)


def _as_logits(logits: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


@operator(_as_sums)
def label_sums_forward(
    logits: Tensor, target: Tensor, weight: Tensor | None, pool_size: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Return the log sums (P, 2), and the peak and 1 / the rest of each (P, 4)."""
    results = _as_sums(logits, target, weight, pool_size, scale)
    run_on_labels("label_sums_forward", logits, target, weight, pool_size, scale, *results)
    return results


@operator(_as_logits)
def label_sums_backward(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    of_pools: Tensor,
    upstream: Tensor,
    pool_size: int,
    scale: float,
) -> Tensor:
    """Return the gradient of the logits from the numbers of each pool, and what flows back to the log sums."""
    gradient = _as_logits(logits)
    flow = upstream.contiguous()
    run_on_labels("label_sums_backward", logits, target, weight, pool_size, scale, of_pools, flow, gradient)
    return gradient


def run_on_labels(
    kernel: str,
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    size: int,
    scale: float,
    *rest: Tensor | float | None,
) -> None:
    """Call a kernel with labels, and with more arguments after them."""
    logits, target = logits.contiguous(), target.contiguous()
    if target.dim() == 2:
        kind, most = _NAMED, target.shape[1]
    else:
        target = target if target.dtype in _KINDS else target.to(logits.dtype)
        kind, most = _KINDS[target.dtype], 0
    factors: tuple[Tensor | int, ...] = (0, 0, 0)
    if weight is not None:
        weight = weight.to(logits.dtype)
        if weight.dim() == 1 or weight.stride(1) > 1:
            weight = weight.contiguous()
        factors = (weight, size, 1) if weight.dim() == 1 else (weight, *weight.stride())
    run(kernel, logits, len(logits), size, float(scale), target, kind, most, *factors, *rest)


def _as_sorted(target: Tensor, labels: int) -> tuple[Tensor, Tensor]:
    return target.new_empty(target.shape), target.new_empty(target.shape[:1], dtype=torch.bool)


@operator(_as_sorted)
def sorted_positives(target: Tensor, labels: int) -> tuple[Tensor, Tensor]:
    """Return positives (N, k) int64 in order, and which samples are wrong (N,)."""
    index, wrong = _as_sorted(target, labels)
    run("sorted_positives", target.contiguous(), *target.shape, labels, index, wrong)
    return index, wrong
