"""The odds against every class, with their targets' shares, summed over pools on a CPU by chunks of rows.

With q_ij = u_j v_i t_ij / (X_j p_ij), X_j class j's sum in the pool and u_j what flows back to log X_j, the gradient is
p_il (sum_k q_ik - q_il) - q_il (1 - p_il). Where p nears 1 its complement is the sum of the others, which is exact. A
chunk with a probability so small that its inverse may overflow goes through the formula in logarithms.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from equilog.ops.consecutive import pool_count
from equilog.ops.logspace import log_sum_exp
from equilog.ops.second_order import Differentiable, apply, keep, wants_gradient
from equilog.ops.soft_odds import reference
from equilog.ops.soft_odds.inner_terms import log_weighted, odds_residual
from equilog.ops.soft_odds.reference import shown

_CHUNK_BYTES = 2**19
"""A chunk of the scores, of the targets and of what is made of them fit the second-level cache of most processors."""
_LEAST_SHARE = {torch.float32: 1e-26, torch.float64: 1e-200}
"""Inverses of such a probability, times the number of sets and classes, are far from overflow."""


def pooled_class_log_odds(
    scores: Tensor, target: Tensor, log_weight: Tensor, pool_size: int, with_residual: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the log sums (P, C), and the residual (P, C) or None, in an eager call on the CPU."""
    residual = pooled_sums(odds_residual, target.detach(), log_weight.detach(), pool_size) if with_residual else None
    scores, target = _shown(log_weight, scores, target)
    return apply(ChunkedLogOddsSums, scores, target, log_weight, pool_size, wants_gradient(scores)), residual


class ChunkedLogOddsSums(Differentiable):
    """The log sums (P, C), where target and weight need no gradient."""

    formula = staticmethod(reference.log_sums)

    @staticmethod
    def forward(ctx: Any, scores: Tensor, target: Tensor, log_weight: Tensor, pool_size: int, learns: bool) -> Tensor:
        """Return the log sums; keep the probabilities where it `learns`: a gradient may be asked for."""
        ctx.shares = scores.new_empty(scores.shape) if learns else None
        log_sums = chunked_log_sums(scores, target, log_weight, pool_size, ctx.shares)
        keep(ctx, (scores, target, log_weight), (pool_size,), log_sums)
        return log_sums

    @staticmethod
    def gradient(ctx: Any, upstream: Tensor) -> Tensor:
        """Return the gradient of the scores."""
        scores, target, log_weight, log_sums = ctx.saved_tensors
        shares, ctx.shares = ctx.shares, None  # the caller may write to what it gets: once only
        return chunked_gradient(scores, target, log_weight, ctx.constants[0], log_sums, upstream, shares)


def chunked_log_sums(z: Tensor, target: Tensor, log_weight: Tensor, pool_size: int, shares: Tensor | None) -> Tensor:
    """Return the log sums, and in `shares`, where there is such a table, the probabilities."""
    log_sums = z.new_full((pool_count(len(z), pool_size), z.shape[1]), -torch.inf)
    scratch = z.new_empty(0)
    for rows, pools in _chunks(z, pool_size):
        scores = z[rows]
        share = torch.softmax(scores, 1) if shares is None else torch.softmax(scores, 1, out=shares[rows])
        if _is_safe(share):
            against = _odds(share, scratch.resize_(share.shape)).mul_(target[rows])
            against.mul_(log_weight[rows, None].exp())
            part = _by_pool(against, pools).sum(1).log_()
        else:
            part = _by_formula(scores, target[rows], log_weight[rows], pools)
        log_sums[pools] = torch.logaddexp(log_sums[pools], part)
    return log_sums


def chunked_gradient(
    z: Tensor,
    target: Tensor,
    log_weight: Tensor,
    pool_size: int,
    log_sums: Tensor,
    upstream: Tensor,
    shares: Tensor | None,
) -> Tensor:
    """Return the gradient of the scores, in the memory of the probabilities where they are given."""
    gradient = z.new_empty(z.shape) if shares is None else shares
    # In two halves, since the inverse of a small sum overflows where its product with what flows back does not.
    half = torch.where(log_sums == -torch.inf, 0.0, (-0.5 * log_sums).exp())
    factor = upstream * half * half
    scratch = z.new_empty(0)
    for rows, pools in _chunks(z, pool_size):
        share = gradient[rows]
        if shares is None:
            torch.softmax(z[rows], 1, out=share)
        if _is_safe(share):
            flow = torch.div(target[rows], share, out=scratch.resize_(share.shape))
            _by_pool(flow, pools).mul_(factor[pools][:, None])
            _scale(share, flow.mul_(log_weight[rows, None].exp()))
        else:
            _scale(share, _flow_by_formula(z[rows], target[rows], log_weight[rows], pools, log_sums, upstream))
    return gradient


def pooled_sums(row_function: Callable[[Tensor], Tensor], values: Tensor, log_weight: Tensor, pool_size: int) -> Tensor:
    """Return the weighted sums (P, C), in an eager call on the CPU."""
    (values,) = _shown(log_weight, values)
    sums = values.new_zeros(pool_count(len(values), pool_size), values.shape[1])
    for rows, pools in _chunks(values, pool_size):
        sums[pools] += _by_pool(row_function(values[rows]) * log_weight[rows, None].exp(), pools).sum(1)
    return sums


def _shown(log_weight: Tensor, *tables: Tensor) -> list[Tensor]:
    """Return tables with 0 in the rows that are left out; copies only where there are any."""
    return shown(log_weight, *tables) if (log_weight == -torch.inf).any() else list(tables)


def _chunks(z: Tensor, size: int) -> Iterator[tuple[slice, slice]]:
    """Give rows and the pools they make up: several whole pools, or a part of one."""
    n, classes = z.shape
    most = max(_CHUNK_BYTES // (classes * z.element_size()), 1)
    if size <= most:
        several, whole = most // size * size, n // size * size
        starts = [*range(0, whole, several), whole]
        borders = [*starts, n] if n > whole else starts
    else:
        within = (start + part for start in range(0, n, size) for part in range(0, size, most))
        borders = [*(border for border in within if border < n), n]
    for start, stop in itertools.pairwise(borders):
        yield slice(start, stop), slice(start // size, -(-stop // size))


def _by_pool(values: Tensor, pools: slice) -> Tensor:
    """(rows, C) -> (pools, rows / pools, C)."""
    return values.reshape(pools.stop - pools.start, -1, values.shape[1])


def _is_safe(share: Tensor) -> bool:
    return bool(share.amin() >= _LEAST_SHARE[share.dtype])


def _odds(share: Tensor, out: Tensor) -> Tensor:
    """Return 1/p - 1, which is exact for all but the largest p, and for that the others' sum / p."""
    top, index = share.max(1, keepdim=True)
    torch.reciprocal(share, out=out).sub_(1.0)
    rest = share.scatter_(1, index, 0.0).sum(1, keepdim=True)
    share.scatter_(1, index, top)
    return out.scatter_(1, index, rest / top)


def _scale(share: Tensor, flow: Tensor) -> None:
    """Turn p into p_l (sum_k q_k - q_l) - q_l (1 - p_l), from q; uses up q."""
    top, index = share.max(1, keepdim=True)
    largest = flow.gather(1, index)
    others = flow.scatter_(1, index, 0.0).sum(1, keepdim=True)
    rest = share.scatter_(1, index, 0.0).sum(1, keepdim=True)
    share.mul_(others + largest).sub_(flow).scatter_(1, index, top * others - largest * rest)


def _by_formula(z: Tensor, target: Tensor, log_weight: Tensor, pools: slice) -> Tensor:
    return log_sum_exp(_by_pool(reference.log_terms(z, target, log_weight), pools), 1).squeeze(1)


def _flow_by_formula(
    z: Tensor, target: Tensor, log_weight: Tensor, pools: slice, log_sums: Tensor, upstream: Tensor
) -> Tensor:
    """Return q, from logarithms."""
    log_flow = log_weighted(-z.log_softmax(1), target) + log_weight[:, None]
    half = (0.5 * (_by_pool(log_flow, pools) - log_sums[pools][:, None])).exp()
    flow = upstream[pools][:, None] * half * half
    return torch.where((upstream[pools] == 0)[:, None] | (half == 0), 0.0, flow).reshape(z.shape)
