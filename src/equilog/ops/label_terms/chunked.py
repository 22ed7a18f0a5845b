"""The same on a CPU, by blocks of pools that stay in the cache; the terms of a block are made once a direction.

Nothing of the size of the logits is made but their gradient.
"""

from typing import Any

import torch
from torch import Tensor

from equilog.ops.consecutive import pool_count
from equilog.ops.dtypes import compute_dtype
from equilog.ops.label_sums.chunked import Block, blocks_of
from equilog.ops.label_terms import reference
from equilog.ops.second_order import Differentiable, apply, keep

_MOST = 2**17
"""Labels in a block: so many that torch's operations take longer than their calls."""


def pooled_label_terms(
    logits: Tensor, target: Tensor, weight: Tensor | None, inner: str, pool_size: int, scale: float
) -> Tensor:
    """Return the log sums (P, 2), in an eager call on the CPU."""
    log_sums: Tensor = apply(ChunkedLabelTerms, logits, target, weight, inner, pool_size, scale)
    return log_sums


class ChunkedLabelTerms(Differentiable):
    """The log sums (P, 2) from logits (n,)."""

    formula = staticmethod(reference.pooled_label_terms)

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        target: Tensor,
        weight: Tensor | None,
        inner: str,
        pool_size: int,
        scale: float,
    ) -> Tensor:
        """Return the log sums; keep them."""
        pools = pool_count(len(logits), pool_size)
        log_sums = torch.full((pools, 2), -torch.inf, dtype=compute_dtype(logits))
        for block in blocks_of(len(logits), pool_size, _MOST):
            part = _log_sums(block, logits[block.labels], target, weight, inner, scale)
            log_sums[block.pools] = torch.logaddexp(log_sums[block.pools], part)
        keep(ctx, (logits, target, weight), (inner, pool_size, scale), log_sums)
        return log_sums.clone()

    @staticmethod
    def gradient(ctx: Any, upstream: Tensor) -> Tensor:
        """Return the gradient of the logits."""
        logits, target, weight, log_sums = ctx.saved_tensors
        inner, pool_size, scale = ctx.constants
        gradient = torch.empty_like(logits)
        for block in blocks_of(len(logits), pool_size, _MOST):
            with torch.enable_grad():
                x = logits[block.labels].detach().requires_grad_()
                part = _log_sums(block, x, target, weight, inner, scale)
            whole = log_sums[block.pools]
            # Of a pool in several blocks, each has its share of what flows back.
            portion = torch.where(whole.isfinite(), (part.detach() - whole).exp(), 1.0)
            (slope,) = torch.autograd.grad(part, x, portion * upstream[block.pools])
            gradient[block.labels] = slope
        return gradient


def _log_sums(block: Block, x: Tensor, target: Tensor, weight: Tensor | None, inner: str, scale: float) -> Tensor:
    """Return the log sums of a block's pools."""
    weight = None if weight is None else weight[block.labels]
    return reference.pooled_label_terms(x, target[block.labels], weight, inner, block.width, scale)
