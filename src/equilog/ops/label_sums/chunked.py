"""The positive and negative sums of pools of labels on a CPU, by blocks of pools that stay in the cache.

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

from equilog.ops.consecutive import pool_count
from equilog.ops.dtypes import as_compute_dtype, compute_dtype
from equilog.ops.label_sums import reference
from equilog.ops.label_sums.reference import shown
from equilog.ops.label_sums.tables import IndexTable, Table, ValueTable
from equilog.ops.second_order import Differentiable, apply, keep, wants_gradient

_MOST = 2**17
"""Labels in a block: with what is made of them they fit the second-level cache of most processors."""


def label_log_sums(logits: Tensor, target: Tensor, weight: Tensor | None, pool_size: int, scale: float) -> Tensor:
    """Return both log sums of each pool (P, 2), in an eager call on the CPU.

    The target is (n,) values, or (P, k) sorted indices of positives in pools that are samples.
    """
    log_sums: Tensor = apply(ChunkedLogSums, logits, target, weight, pool_size, scale, wants_gradient(logits))
    return log_sums


def indexed_label_log_sums(logits: Tensor, index: Tensor, weight: Tensor | None, scale: float) -> Tensor:
    """Return both log sums of each sample (N, 2), from logits (N, L) and positives (N, k)."""
    return label_log_sums(logits.reshape(-1), index, weight, logits.shape[1], scale)


class ChunkedLogSums(Differentiable):
    """Both log sums of each pool (P, 2), from logits (n,)."""

    formula = staticmethod(reference.any_label_log_sums)

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        target: Tensor,
        weight: Tensor | None,
        pool_size: int,
        scale: float,
        learns: bool,
    ) -> Tensor:
        """Return the log sums; keep the exponentials, where it `learns`, and two numbers a pool."""
        labels = _Labels(target, weight, pool_size, scale)
        dtype = compute_dtype(logits)
        exponentials = torch.empty(logits.shape, dtype=dtype) if learns and logits.dtype == dtype else None
        parts = []
        for block, x, table in labels.blocks(logits):
            e = x.exp() if exponentials is None else torch.exp(x, out=block.rows(exponentials))
            parts.append((block.pools, torch.stack(table.sums(e, x), 1)))
        sums = parts[0][1]
        if len(parts) > 1:
            sums = torch.zeros(pool_count(len(logits), pool_size), 2, dtype=dtype)
            for rows, part in parts:
                sums[rows] += part
        # Infinity times a share of 0 is NaN: the sum is finite only where no exponential overflowed.
        ctx.in_logs = not math.isfinite(sums.sum().item())
        if ctx.in_logs:
            sums.fill_(-torch.inf)
            for block, x, table in labels.blocks(logits):
                sums[block.pools] = torch.logaddexp(sums[block.pools], table.log_sums(x))
        ctx.exponentials = None if ctx.in_logs else exponentials
        keep(ctx, (logits, target, weight), (pool_size, scale), sums)
        return sums.clone() if ctx.in_logs else sums.log()

    @staticmethod
    def gradient(ctx: Any, upstream: Tensor) -> Tensor:
        """Return the gradient of the logits."""
        logits, target, weight, sums = ctx.saved_tensors
        labels = _Labels(target, weight, *ctx.constants)
        if ctx.in_logs:
            return _gradient_in_logs(labels, logits, sums, upstream)
        # The exponentials become the gradient, which the caller may write to: they serve once.
        exponentials, ctx.exponentials = ctx.exponentials, None
        gradient = torch.empty_like(logits) if exponentials is None else exponentials
        slope = torch.where(sums > 0, upstream / sums, 0.0).mul_(labels.scale)
        for block, x, table in labels.blocks(logits):
            rows = block.rows(gradient)
            to_yes, to_no = slope[block.pools, :1], slope[block.pools, 1:]
            if exponentials is None:
                rows.copy_(table.gradient(x.exp(), x, to_yes, to_no))
            else:
                table.gradient(rows, x, to_yes, to_no)
        return gradient


def _gradient_in_logs(labels: "_Labels", logits: Tensor, log_sums: Tensor, upstream: Tensor) -> Tensor:
    """Return the gradient as the formula in logarithms has it."""
    gradient = torch.empty_like(logits)
    for block, x, table in labels.blocks(logits):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            part = table.log_sums(x)
        whole = log_sums[block.pools]
        # Of a pool in several blocks, each has its share of what flows back.
        portion = torch.where(whole.isfinite(), (part.detach() - whole).exp(), 1.0)
        (slope,) = torch.autograd.grad(part, x, portion * upstream[block.pools])
        block.rows(gradient).copy_(labels.scale * slope)
    return gradient


@dataclass(frozen=True)
class _Labels:
    """What the labels are, besides their logits (n,)."""

    target: Tensor
    """(n,) values, or (P, k) indices of positives, as many as there are labels in a pool where there is none."""
    weight: Tensor | None
    """(n,), or (P, labels) with indices, or None where all are 1."""
    pool_size: int
    scale: float

    def blocks(self, logits: Tensor) -> Iterator[tuple["Block", Tensor, Table]]:
        """Give each block with its scaled logits (pools, width) and its targets."""
        indexed = self.target.dim() == 2
        for block in blocks_of(len(logits), self.pool_size, _MOST, pieces=not indexed):
            x = block.rows(logits)
            if indexed:
                weight = None if self.weight is None else self.weight[block.pools]
                x = as_compute_dtype(x if weight is None else torch.where(weight == 0, 0.0, x))
                table: Table = IndexTable(self.target[block.pools], weight)
            else:
                weight = None if self.weight is None else block.rows(self.weight)
                x, share = shown(x, block.rows(self.target), weight)
                table = ValueTable(share, weight)
            yield block, x if self.scale == 1.0 else self.scale * x, table


@dataclass(frozen=True)
class Block:
    """Consecutive whole pools, or a piece of one that is larger than a block."""

    pools: slice
    labels: slice
    width: int
    """Labels a pool."""

    def rows(self, values: Tensor) -> Tensor:
        """(n,) -> (pools, width)."""
        return values[self.labels].view(-1, self.width)


def blocks_of(n: int, size: int, most: int, pieces: bool = True) -> Iterator[Block]:
    """Give blocks of at most so many of n labels in pools of this size, in pieces of pools where these are larger."""
    count = pool_count(n, size)
    if size > most and pieces:
        for pool in range(count):
            end = min((pool + 1) * size, n)
            for start in range(pool * size, end, most):
                stop = min(start + most, end)
                yield Block(slice(pool, pool + 1), slice(start, stop), stop - start)
        return
    whole, together = n // size, max(most // size, 1)
    for pool in range(0, whole, together):
        stop = min(pool + together, whole)
        yield Block(slice(pool, stop), slice(pool * size, stop * size), size)
    if whole < count:
        yield Block(slice(whole, whole + 1), slice(whole * size, n), n - whole * size)
