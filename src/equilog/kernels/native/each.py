"""The odds against every class, summed over pools, by the C++ kernel: nothing of the scores' size but the gradient."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from equilog.kernels.dispatch import is_transformed
from equilog.kernels.each import chunked_gradient, chunked_log_sums, log_odds_sums, weighted_sums
from equilog.kernels.native.call import as_scores, operator, run, with_rows
from equilog.odds import left_at_optimum
from equilog.pooling import Pools


class NativeLogOddsSums(Function):
    """The log of the summed odds per pool and class (P, C), from float32 scores (n, C), for consecutive pools."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, target: Tensor, log_weight: Tensor, size: int, compensated: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the log sums of pools of `size` sets, and if `compensated` what is left at the best scores."""
        log_sums, found, left = each_forward(z, target, log_weight, size, compensated)
        ctx.size = size
        ctx.save_for_backward(z, target, log_weight, log_sums, found)
        ctx.mark_non_differentiable(left)
        return log_sums, left

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Return the gradient of the scores."""
        z, target, log_weight, log_sums, found = ctx.saved_tensors  # complains if the scores have been changed since
        if not torch.compiler.is_compiling() and (torch.is_grad_enabled() or is_transformed(upstream)):
            with torch.enable_grad():
                again = log_odds_sums(z, target, log_weight, _pools(z, ctx.size))
                (gradient,) = torch.autograd.grad(again, z, upstream, create_graph=True)
            return gradient, None, None, None, None
        return each_backward(z, target, log_weight, log_sums, found, upstream, ctx.size), None, None, None, None


def _pools(table: Tensor, size: int) -> Pools:
    return Pools(-(-len(table) // size), len(table), table.device, size=size, ragged=True)


def _as_forward(
    z: Tensor,
    target: Tensor,  # noqa: ARG001
    log_weight: Tensor,  # noqa: ARG001
    size: int,
    compensated: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    pools, classes = -(-z.shape[0] // size), z.shape[1]
    return z.new_empty(pools, classes), z.new_empty(2, z.shape[0]), z.new_empty(pools if compensated else 0, classes)


@operator(_as_forward)
def each_forward(
    z: Tensor, target: Tensor, log_weight: Tensor, size: int, compensated: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log sums, two numbers of each set, and what is left of the odds at the best scores.

    The numbers (2, n) are the largest score and the sum of the other classes' exponentials; what is left is (P, C), or
    (0, C) unless it is `compensated`.
    """
    z, target, log_weight = with_rows(z), with_rows(target), log_weight.contiguous()
    log_sums, found, left = _as_forward(z, target, log_weight, size, compensated)
    tables, asked = (z, z.stride(0), target, target.stride(0)), left if compensated else None
    if not run("each_forward", *tables, log_weight, *z.shape, size, log_sums, found, asked):
        found.fill_(torch.nan)
        log_sums = chunked_log_sums(z, target, log_weight, _pools(z, size), None)
        left = weighted_sums(left_at_optimum, target, log_weight, _pools(z, size)) if compensated else left
    return log_sums, found, left


@operator(as_scores)
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
