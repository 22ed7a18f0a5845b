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
from torch.autograd import Function

from equilog.kernels.dispatch import is_transformed
from equilog.logspace import log_sum_exp
from equilog.odds import log_odds_against_each, weighted_log
from equilog.pooling import Pools

_CHUNK_BYTES = 2**19
"""A chunk of the scores, of the targets and of what is made of them fit the second-level cache of most processors."""
_LEAST_SHARE = {torch.float32: 1e-26, torch.float64: 1e-200}
"""Inverses of such a probability, times the number of sets and classes, are far from overflow."""


def log_odds_sums(z: Tensor, target: Tensor, log_weight: Tensor, pools: Pools) -> Tensor:
    """Return the log of the summed odds per pool and class (P, C), from scores and targets (n, C), by the formula."""
    return pools.log_sums(weighted_log(log_odds_against_each(z), target) + log_weight[:, None])


class ChunkedLogOddsSums(Function):
    """The same for consecutive pools in a plain call on the CPU, where target and weight need no gradient."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, target: Tensor, log_weight: Tensor, pools: Pools, learns: bool) -> Tensor:
        """Return the log sums; keep the probabilities where it `learns`: a gradient may be asked for."""
        ctx.shares, ctx.pools = z.new_empty(z.shape) if learns else None, pools
        log_sums = chunked_log_sums(z, target, log_weight, pools, ctx.shares)
        ctx.save_for_backward(z, target, log_weight, log_sums)
        return log_sums

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Return the gradient of the scores."""
        z, target, log_weight, log_sums = ctx.saved_tensors
        if torch.is_grad_enabled() or is_transformed(upstream):
            with torch.enable_grad():
                again = log_odds_sums(z, target, log_weight, ctx.pools)
                (gradient,) = torch.autograd.grad(again, z, upstream, create_graph=True)
            return gradient, None, None, None, None
        shares, ctx.shares = ctx.shares, None  # the caller may write to what it is given: once only
        gradient = chunked_gradient(z, target, log_weight, ctx.pools, log_sums, upstream, shares)
        return gradient, None, None, None, None


def chunked_log_sums(z: Tensor, target: Tensor, log_weight: Tensor, pools: Pools, shares: Tensor | None) -> Tensor:
    """Return the log sums, and in `shares`, where there is such a table, the probabilities."""
    log_sums = z.new_full((pools.count, z.shape[1]), -torch.inf)
    scratch = z.new_empty(0)
    for rows, of in _chunks(z, pools):
        scores = z[rows]
        share = torch.softmax(scores, 1) if shares is None else torch.softmax(scores, 1, out=shares[rows])
        if _is_safe(share):
            against = _odds(share, scratch.resize_(share.shape)).mul_(target[rows])
            against.mul_(log_weight[rows, None].exp())
            part = _by_pool(against, of).sum(1).log_()
        else:
            part = _by_formula(scores, target[rows], log_weight[rows], of)
        log_sums[of] = torch.logaddexp(log_sums[of], part)
    return log_sums


def chunked_gradient(
    z: Tensor,
    target: Tensor,
    log_weight: Tensor,
    pools: Pools,
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
    for rows, of in _chunks(z, pools):
        share = gradient[rows]
        if shares is None:
            torch.softmax(z[rows], 1, out=share)
        if _is_safe(share):
            flow = torch.div(target[rows], share, out=scratch.resize_(share.shape))
            _by_pool(flow, of).mul_(factor[of][:, None])
            _scale(share, flow.mul_(log_weight[rows, None].exp()))
        else:
            _scale(share, _flow_by_formula(z[rows], target[rows], log_weight[rows], of, log_sums, upstream))
    return gradient


def weighted_sums(of: Callable[[Tensor], Tensor], values: Tensor, log_weight: Tensor, pools: Pools) -> Tensor:
    """Return the weighted sums (P, C) over consecutive pools of what `of` makes of values (n, C) row by row."""
    sums = values.new_zeros(pools.count, values.shape[1])
    for rows, which in _chunks(values, pools):
        sums[which] += _by_pool(of(values[rows]) * log_weight[rows, None].exp(), which).sum(1)
    return sums


def _chunks(z: Tensor, pools: Pools) -> Iterator[tuple[slice, slice]]:
    """Give rows and the pools they make up: several whole pools, or a part of one."""
    n, classes = z.shape
    most, size = max(_CHUNK_BYTES // (classes * z.element_size()), 1), max(pools.size, 1)
    if size <= most:
        several, whole = most // size * size, n // size * size
        starts = [*range(0, whole, several), whole]
        borders = [*starts, n] if n > whole else starts
    else:
        within = (start + part for start in range(0, n, size) for part in range(0, size, most))
        borders = [*(border for border in within if border < n), n]
    for start, stop in itertools.pairwise(borders):
        yield slice(start, stop), slice(start // size, -(-stop // size))


def _by_pool(values: Tensor, of: slice) -> Tensor:
    """(rows, C) -> (pools, rows / pools, C)."""
    return values.view(of.stop - of.start, -1, values.shape[1])


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
    own = flow.gather(1, index)
    others = flow.scatter_(1, index, 0.0).sum(1, keepdim=True)
    rest = share.scatter_(1, index, 0.0).sum(1, keepdim=True)
    share.mul_(others + own).sub_(flow).scatter_(1, index, top * others - own * rest)


def _by_formula(z: Tensor, target: Tensor, log_weight: Tensor, of: slice) -> Tensor:
    terms = weighted_log(log_odds_against_each(z), target) + log_weight[:, None]
    return log_sum_exp(_by_pool(terms, of), 1).squeeze(1)


def _flow_by_formula(
    z: Tensor, target: Tensor, log_weight: Tensor, of: slice, log_sums: Tensor, upstream: Tensor
) -> Tensor:
    """Return q, from logarithms."""
    log_flow = weighted_log(-z.log_softmax(1), target) + log_weight[:, None]
    half = (0.5 * (_by_pool(log_flow, of) - log_sums[of][:, None])).exp()
    flow = upstream[of][:, None] * half * half
    return torch.where((upstream[of] == 0)[:, None] | (half == 0), 0.0, flow).view(z.shape)
