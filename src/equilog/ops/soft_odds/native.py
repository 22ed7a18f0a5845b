"""The odds against every class, summed over pools by the C++ kernel: nothing of the scores' size but the gradient."""

from typing import Any

import torch
from torch import Tensor

from equilog.ops.consecutive import pool_count
from equilog.ops.native.call import as_scores, run, with_rows
from equilog.ops.operators import operator
from equilog.ops.second_order import Differentiable, apply, keep
from equilog.ops.soft_odds import reference
from equilog.ops.soft_odds.chunked import chunked_gradient, chunked_log_sums, pooled_sums
from equilog.ops.soft_odds.inner_terms import odds_residual
from equilog.ops.soft_odds.reference import shown


def pooled_class_log_odds(
    scores: Tensor, target: Tensor, log_weight: Tensor, pool_size: int, with_residual: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the log sums (P, C), and the residual (P, C) or None, in float32 on the CPU."""
    log_sums, residual = apply(NativeLogOddsSums, scores, target, log_weight, pool_size, with_residual)
    return log_sums, residual if with_residual else None


class NativeLogOddsSums(Differentiable):
    """The log sums (P, C), and the residual (P, C), (0, C) unless it is asked for."""

    formula = staticmethod(reference.log_sums)

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, target: Tensor, log_weight: Tensor, pool_size: int, with_residual: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the log sums and the residual; keep two numbers a set."""
        log_sums, of_sets, residual = soft_odds_forward(scores, target, log_weight, pool_size, with_residual)
        keep(ctx, (scores, target, log_weight), (pool_size,), log_sums, of_sets)
        ctx.mark_non_differentiable(residual)
        return log_sums, residual

    @staticmethod
    def gradient(ctx: Any, upstream: Tensor) -> Tensor:
        """Return the gradient of the scores."""
        # saved_tensors complains if the scores have been changed since.
        scores, target, log_weight, log_sums, of_sets = ctx.saved_tensors
        return soft_odds_backward(scores, target, log_weight, log_sums, of_sets, upstream, *ctx.constants)


def _as_forward(
    scores: Tensor,
    target: Tensor,  # noqa: ARG001
    log_weight: Tensor,  # noqa: ARG001
    pool_size: int,
    with_residual: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    sets, classes = scores.shape
    pools = pool_count(sets, pool_size)
    return (
        scores.new_empty(pools, classes),
        scores.new_empty(2, sets),
        scores.new_empty(pools if with_residual else 0, classes),
    )


@operator(_as_forward)
def soft_odds_forward(
    scores: Tensor, target: Tensor, log_weight: Tensor, pool_size: int, with_residual: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log sums, two numbers of each set, and the residual.

    The numbers (2, n) are the largest score and the sum of the other classes' exponentials.
    """
    scores, target, log_weight = with_rows(scores), with_rows(target), log_weight.contiguous()
    log_sums, of_sets, residual = _as_forward(scores, target, log_weight, pool_size, with_residual)
    tables, asked = (scores, scores.stride(0), target, target.stride(0)), residual if with_residual else None
    if not run("soft_odds_forward", *tables, log_weight, *scores.shape, pool_size, log_sums, of_sets, asked):
        of_sets.fill_(torch.nan)
        scores, target = shown(log_weight, scores, target)
        log_sums = chunked_log_sums(scores, target, log_weight, pool_size, None)
        residual = pooled_sums(odds_residual, target, log_weight, pool_size) if with_residual else residual
    return log_sums, of_sets, residual


@operator(as_scores)
def soft_odds_backward(
    scores: Tensor,
    target: Tensor,
    log_weight: Tensor,
    log_sums: Tensor,
    of_sets: Tensor,
    upstream: Tensor,
    pool_size: int,
) -> Tensor:
    """Return the gradient of the scores from the numbers of each set, and what flows back to the log sums."""
    scores, target = with_rows(scores), with_rows(target)
    log_weight, upstream = log_weight.contiguous(), upstream.contiguous()
    gradient = scores.new_empty(scores.shape)
    tables = scores, scores.stride(0), target, target.stride(0)
    if run("soft_odds_backward", *tables, log_weight, *scores.shape, pool_size, log_sums, of_sets, upstream, gradient):
        return gradient
    scores, target = shown(log_weight, scores, target)
    return chunked_gradient(scores, target, log_weight, pool_size, log_sums, upstream, None)
