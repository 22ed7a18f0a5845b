"""The odds against every class, summed over pools, by the C++ kernel: nothing of the scores' size but the gradient."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from equilog.kernels.dispatch import is_transformed
from equilog.kernels.each import chunked_gradient, chunked_log_sums, log_odds_sums
from equilog.kernels.native.call import operator, run, with_rows
from equilog.pooling import Pools


class NativeLogOddsSums(Function):
    """The log of the summed odds per pool and class (P, C), from float32 scores (n, C), for consecutive pools."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, target: Tensor, log_weight: Tensor, size: int) -> Tensor:
        """Return the log sums of pools of `size` sets."""
        log_sums, found = each_forward(z, target, log_weight, size)
        ctx.size = size
        ctx.save_for_backward(z, target, log_weight, log_sums, found)
        return log_sums

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        """Return the gradient of the scores."""
        z, target, log_weight, log_sums, found = ctx.saved_tensors  # complains if the scores have been changed since
        if not torch.compiler.is_compiling() and (torch.is_grad_enabled() or is_transformed(upstream)):
            with torch.enable_grad():
                again = log_odds_sums(z, target, log_weight, _pools(z, ctx.size))
                (gradient,) = torch.autograd.grad(again, z, upstream, create_graph=True)
            return gradient, None, None, None
        return each_backward(z, target, log_weight, log_sums, found, upstream, ctx.size), None, None, None


def _pools(table: Tensor, size: int) -> Pools:
    return Pools(-(-len(table) // size), len(table), table.device, size=size, ragged=True)


def _as_forward(z: Tensor, target: Tensor, log_weight: Tensor, size: int) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    return z.new_empty(-(-z.shape[0] // size), z.shape[1]), z.new_empty(2, z.shape[0])


def _as_scores(z: Tensor, *_: Any) -> Tensor:
    return z.new_empty(z.shape)


def _as_left(target: Tensor, log_weight: Tensor, size: int) -> Tensor:  # noqa: ARG001
    return target.new_empty(-(-target.shape[0] // size), target.shape[1])


@operator(_as_forward)
def each_forward(z: Tensor, target: Tensor, log_weight: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the log sums, and of each set the largest score and the sum of the other classes' exponentials (2, n)."""
    z, target, log_weight = with_rows(z), with_rows(target), log_weight.contiguous()
    log_sums, found = _as_forward(z, target, log_weight, size)
    tables = z, z.stride(0), target, target.stride(0)
    if not run("each_forward", *tables, log_weight, *z.shape, size, log_sums, found):
        found.fill_(torch.nan)
        return chunked_log_sums(z, target, log_weight, _pools(z, size), None), found
    return log_sums, found


@operator(_as_scores)
def each_backward(
    z: Tensor, target: Tensor, log_weight: Tensor, log_sums: Tensor, found: Tensor, upstream: Tensor, size: int
) -> Tensor:
    """Return the gradient of the scores from what was found of the sets, and what flows back to the log sums."""
    z, target, log_weight, upstream = with_rows(z), with_rows(target), log_weight.contiguous(), upstream.contiguous()
    gradient = z.new_empty(z.shape)
    tables = z, z.stride(0), target, target.stride(0)
    if run("each_backward", *tables, log_weight, *z.shape, size, log_sums, found, upstream, gradient):
        return gradient
    return chunked_gradient(z, target, log_weight, _pools(z, size), log_sums, upstream, None)


@operator(_as_left)
def each_at_optimum(target: Tensor, log_weight: Tensor, size: int) -> Tensor:
    """Return the sums (P, C) of what is left of the odds at the best scores."""
    target, log_weight = with_rows(target), log_weight.contiguous()
    left = _as_left(target, log_weight, size)
    run("each_at_optimum", target, target.stride(0), log_weight, *target.shape, size, left)
    return left
