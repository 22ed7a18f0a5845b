"""The log odds against each set's label on a CPU, by chunks of rows that stay in the cache.

Forward reads the scores once and writes the softmax over the other classes into the memory that becomes the gradient;
backward multiplies it by what flows back. Nothing of the size of the scores is kept but the gradient, and not even
that where no gradient is asked for.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from equilog.kernels.dispatch import is_transformed
from equilog.odds import log_odds_gradient

_CHUNK_BYTES = 2**19
"""A chunk and what is made of it fit the second-level cache of most processors."""


class ChunkedLogOdds(Function):
    """The log odds (n,) against the label, from scores (n, C), for a plain call on the CPU."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, labels: Tensor, learns: bool) -> Tensor:
        """Return the log odds; keep the shares where it `learns`: a gradient may be asked for."""
        shares = z.new_empty(z.shape) if learns else None
        peak, top = z.new_empty(len(z), 1), z.new_empty(len(z), 1)
        for rows, others, scratch in _chunks(z, labels):
            share = scratch if shares is None else shares[rows]
            torch.amax(others, 1, keepdim=True, out=peak[rows])
            torch.softmax(others, 1, out=share)
            torch.amax(share, 1, keepdim=True, out=top[rows])
        own = z.gather(1, labels[:, None])
        log_odds = (peak - own - top.log_()).squeeze(1)  # the largest share is 1 / sum of exp(z - peak)
        ctx.fixed = None
        if not log_odds.isfinite().all():
            log_odds = _at_infinity(log_odds, peak.squeeze(1), own.squeeze(1))
            ctx.fixed = log_odds.isinf()
        ctx.save_for_backward(z, labels)
        ctx.shares = shares
        return log_odds

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        """Return upstream * (softmax over the others - one-hot), 0 where that is 0 times infinity."""
        z, labels = ctx.saved_tensors  # complains if the scores have been changed since
        if torch.is_grad_enabled() or is_transformed(upstream):
            return log_odds_gradient(z, labels, upstream), None, None
        gradient, ctx.shares = ctx.shares, None  # the caller may write to what it is given: once only
        if gradient is None:
            gradient = z.new_empty(z.shape)
            for rows, others, _ in _chunks(z, labels):
                torch.softmax(others, 1, out=gradient[rows])
        still = upstream == 0 if ctx.fixed is None else ctx.fixed | (upstream == 0)
        upstream = upstream[:, None]
        gradient.mul_(upstream).scatter_(1, labels[:, None], -upstream)
        if still.any():
            gradient[still] = 0.0
        return gradient, None, None


def _chunks(z: Tensor, labels: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Give rows, a copy of their scores with the label's at minus infinity, and space for as many; one at a time."""
    n, classes = z.shape
    size = min(max(_CHUNK_BYTES // (classes * z.element_size()), 1), n)
    copies, scratch = z.new_empty(size, classes), z.new_empty(size, classes)
    for start in range(0, n, size or 1):
        rows = slice(start, min(start + size, n))
        others = copies[: rows.stop - start].copy_(z[rows])
        yield rows, others.scatter_(1, labels[rows, None], -torch.inf), scratch[: len(others)]


def _at_infinity(log_odds: Tensor, peak: Tensor, own: Tensor) -> Tensor:
    """Put right what minus infinity and infinity in the scores made NaN."""
    log_odds = torch.where(peak.isinf(), peak - own, log_odds)
    return torch.where(own == -torch.inf, torch.inf, log_odds)
