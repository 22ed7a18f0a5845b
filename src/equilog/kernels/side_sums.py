"""The two sums of each pool of labels on a CPU, by blocks of pools that stay in the cache.

Forward reads logits and targets once and writes the exponentials into the memory that becomes the gradient; backward
reads them once more. Nothing else of the size of the logits is made, and not even that where no gradient is asked
for. Where an exponential overflows, the formula in logarithms takes over, block by block as well.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from equilog import sides
from equilog.kernels.dispatch import is_transformed
from equilog.kernels.threats import DenseTable, IndexedTable, Table
from equilog.pooling import Pools
from equilog.sides import shown
from equilog.targets import as_compute_dtype, compute_dtype

_MOST = 2**17
"""Labels in a block: with what is made of them they fit the second-level cache of most processors."""


@dataclass(frozen=True)
class Given:
    """What the labels are, besides their logits (n,)."""

    target: Tensor
    """(n,) values, or (P, k) indices of positives, as many as there are labels in a pool where there is none."""
    weight: Tensor | None
    """(n,), or (P, labels) with indices, or None where all are 1."""
    pools: Pools
    scale: float

    @property
    def indexed(self) -> bool:
        """Whether the positives are named; pools are then samples."""
        return self.target.dim() == 2

    def log_sums(self, logits: Tensor) -> Tensor:
        """Return the log sums (P, 2), by the formula."""
        if self.indexed:
            return sides.log_index_sums(logits.view(-1, self.pools.size), self.target, self.weight, self.scale)
        return sides.log_side_sums(logits, self.target, self.weight, self.pools, self.scale)

    def gradient(self, logits: Tensor, upstream: Tensor) -> Tensor:
        """Return the gradient of the logits (n,) by the formula, once more differentiable."""
        with torch.enable_grad():
            return torch.autograd.grad(self.log_sums(logits), logits, upstream, create_graph=True)[0]

    def blocks(self, logits: Tensor) -> Iterator[tuple["_Block", Tensor, Table]]:
        """Give each block with its scaled logits (pools, width) and its targets."""
        for block in _layout(self.pools, pieces=not self.indexed):
            x = block.rows(logits)
            if self.indexed:
                v = None if self.weight is None else self.weight[block.pools]
                x = as_compute_dtype(x if v is None else torch.where(v == 0, 0.0, x))
                table: Table = IndexedTable(self.target[block.pools], v)
            else:
                v = None if self.weight is None else block.rows(self.weight)
                x, share = shown(x, block.rows(self.target), v)
                table = DenseTable(share, v)
            yield block, x if self.scale == 1.0 else self.scale * x, table


class ChunkedLogSums(Function):
    """The logs of the summed threats to each pool's sides (P, 2), for a plain call on the CPU and consecutive pools."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, weight: Tensor | None, pools: Pools, scale: float) -> Tensor:
        """Return the log sums; keep the exponentials, where a gradient will be asked for, and two numbers a pool."""
        given = Given(target, weight, pools, scale)
        ctx.pools, ctx.scale, ctx.exponentials = pools, scale, None
        dtype = compute_dtype(logits)
        keeps = ctx.needs_input_grad[0] and logits.dtype == dtype
        exponentials = torch.empty(logits.shape, dtype=dtype) if keeps else None
        parts = []
        for block, x, table in given.blocks(logits):
            e = x.exp() if exponentials is None else torch.exp(x, out=block.rows(exponentials))
            parts.append((block.pools, torch.stack(table.sums(e, x), 1)))
        sums = parts[0][1]
        if len(parts) > 1:
            sums = torch.zeros(pools.count, 2, dtype=dtype)
            for rows, part in parts:
                sums[rows] += part
        # Infinity times a share of 0 is NaN: the sum is finite only where no exponential overflowed.
        ctx.in_logs = not math.isfinite(sums.sum().item())
        if ctx.in_logs:
            sums.fill_(-torch.inf)
            for block, x, table in given.blocks(logits):
                sums[block.pools] = torch.logaddexp(sums[block.pools], table.log_sums(x))
        else:
            ctx.exponentials = exponentials
        ctx.save_for_backward(logits, target, weight, sums)
        return sums.clone() if ctx.in_logs else sums.log()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the logits, once more differentiable where that is asked for."""
        logits, target, weight, sums = ctx.saved_tensors
        given = Given(target, weight, ctx.pools, ctx.scale)
        if torch.is_grad_enabled() or is_transformed(upstream):
            return given.gradient(logits, upstream), None, None, None, None
        if ctx.in_logs:
            return _gradient_in_logs(given, logits, sums, upstream), None, None, None, None
        # The exponentials become the gradient, which the caller may write to: they serve once.
        exponentials, ctx.exponentials = ctx.exponentials, None
        gradient = torch.empty_like(logits) if exponentials is None else exponentials
        slope = torch.where(sums > 0, upstream / sums, 0.0).mul_(ctx.scale)
        for block, x, table in given.blocks(logits):
            own = block.rows(gradient)
            to_yes, to_no = slope[block.pools, :1], slope[block.pools, 1:]
            if exponentials is None:
                own.copy_(table.gradient(x.exp(), x, to_yes, to_no))
            else:
                table.gradient(own, x, to_yes, to_no)
        return gradient, None, None, None, None


def _gradient_in_logs(given: Given, logits: Tensor, log_sums: Tensor, upstream: Tensor) -> Tensor:
    """Return the gradient as the formula in logarithms has it."""
    gradient = torch.empty_like(logits)
    for block, x, table in given.blocks(logits):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            part = table.log_sums(x)
        whole = log_sums[block.pools]
        # Of a pool in several blocks, each has its share of what flows back.
        portion = torch.where(whole.isfinite(), (part.detach() - whole).exp(), 1.0)
        (own,) = torch.autograd.grad(part, x, portion * upstream[block.pools])
        block.rows(gradient).copy_(given.scale * own)
    return gradient


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


def _layout(pools: Pools, pieces: bool) -> Iterator[_Block]:
    n, size = pools.sets, pools.size
    if size > _MOST and pieces:
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
