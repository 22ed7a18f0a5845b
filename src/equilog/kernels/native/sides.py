"""The two sums of each pool of labels by the C++ kernel: logits and targets are read once a direction, as they are."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from equilog.kernels.dispatch import is_transformed
from equilog.kernels.native.call import operator, run
from equilog.kernels.side_sums import Given
from equilog.pooling import Pools

_KINDS = {torch.float32: 0, torch.int64: 1, torch.bool: 2}
_NAMED = 3


class NativeLogSums(Function):
    """The logs of the summed threats to each pool's sides (P, 2), from float32 logits (n,) in pools of `size` labels.

    The target is (n,), or the sorted positives (P, k), `size` where there is none; the weight (n,), with positives
    (P, size) of any strides, or None. Four numbers a pool are kept.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, weight: Tensor | None, size: int, scale: float) -> Tensor:
        """Return the log sums."""
        log_sums, kept = sides_forward(logits, target, weight, size, scale)
        ctx.size, ctx.scale = size, scale
        ctx.save_for_backward(logits, target, weight, kept)
        return log_sums

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the logits, once more differentiable where that is asked for."""
        logits, target, weight, kept = ctx.saved_tensors  # complains if the logits have been changed since
        if not torch.compiler.is_compiling() and (torch.is_grad_enabled() or is_transformed(upstream)):
            pools = Pools(len(upstream), len(logits), logits.device, size=ctx.size, ragged=True)
            return Given(target, weight, pools, ctx.scale).gradient(logits, upstream), None, None, None, None
        return sides_backward(logits, target, weight, ctx.size, ctx.scale, kept, upstream), None, None, None, None


# ruff: noqa: ARG001 - the shapes of what an operator gives, from all that it is given
def _as_sums(logits: Tensor, target: Tensor, weight: Tensor | None, size: int, scale: float) -> tuple[Tensor, Tensor]:
    count = -(-logits.shape[0] // size)
    return logits.new_empty(count, 2), logits.new_empty(count, 4)


def _as_logits(
    logits: Tensor, target: Tensor, weight: Tensor | None, size: int, scale: float, kept: Tensor, upstream: Tensor
) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


@operator(_as_sums)
def sides_forward(
    logits: Tensor, target: Tensor, weight: Tensor | None, size: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Return the log sums (P, 2), and the peak and 1 / the rest of each (P, 4)."""
    found = _as_sums(logits, target, weight, size, scale)
    _run("forward", logits, target, weight, size, scale, *found)
    return found


@operator(_as_logits)
def sides_backward(
    logits: Tensor, target: Tensor, weight: Tensor | None, size: int, scale: float, kept: Tensor, upstream: Tensor
) -> Tensor:
    """Return the gradient of the logits from what forward kept, and what flows back to the log sums."""
    gradient = _as_logits(logits, target, weight, size, scale, kept, upstream)
    _run("backward", logits, target, weight, size, scale, kept, upstream.contiguous(), gradient)
    return gradient


def _run(
    direction: str, logits: Tensor, target: Tensor, weight: Tensor | None, size: int, scale: float, *rest: Tensor
) -> None:
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
    run(f"sides_{direction}", logits, len(logits), size, float(scale), target, kind, most, *factors, *rest)
