"""The two sums of each pool of labels on a CPU, by blocks of pools that stay in the cache.

Forward reads logits and targets once and keeps two numbers a pool; backward reads them once more and writes the
gradient. Nothing else of the size of the logits is made. With e = exp(scale x), a positive's threat is 1 / e and a
negative's is e, as they are; where one overflows, the formula in logarithms takes over, block by block as well.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from equilog.kernels.dispatch import is_transformed
from equilog.pooling import Pools
from equilog.sides import log_side_sums, shown
from equilog.targets import compute_dtype

_MOST = 2**17
"""Labels in a block: with what is made of them they fit the second-level cache of most processors."""


@dataclass(frozen=True)
class _Block:
    """Consecutive whole pools, or a piece of one that is larger than a block."""

    pools: slice
    labels: slice
    width: int
    """Labels a pool."""

    def rows(self, values: Tensor) -> Tensor:
        """(n,) -> (pools, width)."""
        return values[self.labels].view(-1, self.width)


class ChunkedLogSideSums(Function):
    """The logs of the summed threats to each pool's sides (P, 2), for a plain call on the CPU and consecutive pools."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, weight: Tensor | None, pools: Pools, scale: float) -> Tensor:
        """Return the log sums; keep the exponentials, where a gradient will be asked for, and two numbers a pool."""
        ctx.pools, ctx.scale, ctx.exponentials = pools, scale, None
        dtype = compute_dtype(logits)
        keeps = ctx.needs_input_grad[0] and logits.dtype == dtype
        exponentials = torch.empty(logits.shape, dtype=dtype) if keeps else None
        yes, no = torch.zeros(2, pools.count, dtype=dtype)
        for block, x, share, v in _blocks(pools, logits, target, weight, scale):
            e = x.exp() if exponentials is None else torch.exp(x, out=block.rows(exponentials))
            negatives = (1.0 - share).mul_(e)
            positives = share / e
            if v is not None:
                negatives, positives = negatives.mul_(v), positives.mul_(v)
            yes[block.pools] += positives.sum(1)
            no[block.pools] += negatives.sum(1)
        sums = torch.stack((yes, no), 1)
        # Infinity times a share of 0 is NaN: the sum is finite only where no exponential overflowed.
        ctx.in_logs = not sums.sum().isfinite()
        if ctx.in_logs:
            sums.fill_(-torch.inf)
            for block, x, share, v in _blocks(pools, logits, target, weight, scale):
                sums[block.pools] = torch.logaddexp(sums[block.pools], _log_sums(x, share, v))
        else:
            ctx.exponentials = exponentials
        ctx.save_for_backward(logits, target, weight, sums)
        return sums.clone() if ctx.in_logs else sums.log()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the logits, once more differentiable where that is asked for."""
        logits, target, weight, sums = ctx.saved_tensors
        if torch.is_grad_enabled() or is_transformed(upstream):
            with torch.enable_grad():
                log_sums = log_side_sums(logits, target, weight, ctx.pools, ctx.scale)
                (gradient,) = torch.autograd.grad(log_sums, logits, upstream, create_graph=True)
            return gradient, None, None, None, None
        # The exponentials become the gradient, which the caller may write to: they serve once.
        gradient, ctx.exponentials = ctx.exponentials, None
        done = gradient is not None
        if gradient is None:
            gradient = torch.empty_like(logits)
        if ctx.in_logs:
            _gradient_in_logs(ctx, upstream, gradient)
            return gradient, None, None, None, None
        slope = torch.where(sums > 0, upstream / sums, 0.0).mul_(ctx.scale)
        slope[:, 0].neg_()
        for block, x, share, v in _blocks(ctx.pools, logits, target, weight, ctx.scale):
            own = block.rows(gradient)
            e = own if done else x.exp()
            to_yes, to_no = slope[block.pools, :1], slope[block.pools, 1:]
            positives = share / e
            negatives = (1.0 - share).mul_(to_no)
            if v is not None:
                negatives, positives = negatives.mul_(v), positives.mul_(v)
            e.mul_(negatives).addcmul_(positives, to_yes)
            if e is not own:
                own.copy_(e)
        return gradient, None, None, None, None


def _gradient_in_logs(ctx: Any, upstream: Tensor, gradient: Tensor) -> None:
    """Write the gradient as the formula in logarithms has it."""
    logits, target, weight, log_sums = ctx.saved_tensors
    for block, x, share, v in _blocks(ctx.pools, logits, target, weight, ctx.scale):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            part = _log_sums(x, share, v)
        whole = log_sums[block.pools]
        # Of a pool in several blocks, each has its share of what flows back.
        portion = torch.where(whole.isfinite(), (part.detach() - whole).exp(), 1.0)
        (own,) = torch.autograd.grad(part, x, portion * upstream[block.pools])
        block.rows(gradient).copy_(ctx.scale * own)


def _blocks(
    pools: Pools, logits: Tensor, target: Tensor, weight: Tensor | None, scale: float
) -> Iterator[tuple[_Block, Tensor, Tensor, Tensor | None]]:
    """Give each block with its scaled logits, targets and weights, (pools, width) each."""
    for block in _layout(pools):
        v = None if weight is None else block.rows(weight)
        x, share = shown(block.rows(logits), block.rows(target), v)
        yield block, x if scale == 1.0 else scale * x, share, v


def _layout(pools: Pools) -> Iterator[_Block]:
    n, size = pools.sets, pools.size
    if size > _MOST:
        for pool in range(pools.count):
            end = min((pool + 1) * size, n)
            for start in range(pool * size, end, _MOST):
                stop = min(start + _MOST, end)
                yield _Block(slice(pool, pool + 1), slice(start, stop), stop - start)
        return
    whole, together = n // size, max(_MOST // size, 1)
    for pool in range(0, whole, together):
        stop = min(pool + together, whole)
        yield _Block(slice(pool, stop), slice(pool * size, stop * size), size)
    if whole < pools.count:
        yield _Block(slice(whole, whole + 1), slice(whole * size, n), n - whole * size)


def _log_sums(x: Tensor, share: Tensor, v: Tensor | None) -> Tensor:
    """Return the log sums (pools, 2) of a block, by the formula."""
    rows = Pools(len(x), x.numel(), x.device, size=x.shape[1])
    return log_side_sums(x.reshape(-1), share.reshape(-1), None if v is None else v.reshape(-1), rows, 1.0)
