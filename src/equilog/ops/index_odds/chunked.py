"""The log odds against a class index on a CPU, by chunks of rows that stay in the cache.

Forward reads the scores once and writes the softmax over the other classes into the memory that becomes the gradient;
backward multiplies it by what flows back. Nothing of the size of the scores is kept but the gradient, and not even
that where no gradient is asked for.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from equilog.ops.index_odds import reference
from equilog.ops.scores import scores_of
from equilog.ops.second_order import Differentiable, apply, keep, wants_gradient

_CHUNK_BYTES = 2**19
"""A chunk and what is made of it fit the second-level cache of most processors."""


def index_log_odds(logits: Tensor, index: Tensor, shift: Tensor | None, scale: float) -> Tensor:
    """Return the log odds (n,), in an eager call on the CPU."""
    z = scores_of(logits, shift, scale)
    log_odds: Tensor = apply(ChunkedLogOdds, z, index, wants_gradient(z))
    return log_odds


class ChunkedLogOdds(Differentiable):
    """The log odds (n,) of scores (n, C)."""

    formula = staticmethod(reference.index_log_odds)

    @staticmethod
    def forward(ctx: Any, z: Tensor, index: Tensor, learns: bool) -> Tensor:
        """Return the log odds; keep the shares where it `learns`: a gradient may be asked for."""
        shares = z.new_empty(z.shape) if learns else None
        peak, top = z.new_empty(len(z), 1), z.new_empty(len(z), 1)
        for rows, others, scratch in _chunks(z, index):
            share = scratch if shares is None else shares[rows]
            torch.amax(others, 1, keepdim=True, out=peak[rows])
            torch.softmax(others, 1, out=share)
            torch.amax(share, 1, keepdim=True, out=top[rows])
        score = z.gather(1, index[:, None])
        log_odds = (peak - score - top.log_()).squeeze(1)  # the largest share is 1 / sum of exp(z - peak)
        ctx.is_certain = None
        if not log_odds.isfinite().all():
            log_odds = _at_infinity(log_odds, peak.squeeze(1), score.squeeze(1))
            ctx.is_certain = log_odds.isinf()
        keep(ctx, (z, index), ())
        ctx.shares = shares
        return log_odds

    @staticmethod
    def gradient(ctx: Any, upstream: Tensor) -> Tensor:
        """Return upstream * (softmax over the others - one-hot), 0 where that is 0 times infinity."""
        z, index = ctx.saved_tensors  # complains if the scores have been changed since
        gradient: Tensor = ctx.shares
        ctx.shares = None  # the caller may write to what it gets: once only
        if gradient is None:
            gradient = z.new_empty(z.shape)
            for rows, others, _ in _chunks(z, index):
                torch.softmax(others, 1, out=gradient[rows])
        still = upstream == 0 if ctx.is_certain is None else ctx.is_certain | (upstream == 0)
        upstream = upstream[:, None]
        gradient.mul_(upstream).scatter_(1, index[:, None], -upstream)
        if still.any():
            gradient[still] = 0.0
        return gradient


def _chunks(z: Tensor, index: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Give rows, a copy of their scores with the index's at minus infinity, and space for as many; one at a time."""
    n, classes = z.shape
    size = min(max(_CHUNK_BYTES // (classes * z.element_size()), 1), n)
    copies, scratch = z.new_empty(size, classes), z.new_empty(size, classes)
    for start in range(0, n, size or 1):
        rows = slice(start, min(start + size, n))
        others = copies[: rows.stop - start].copy_(z[rows])
        yield rows, others.scatter_(1, index[rows, None], -torch.inf), scratch[: len(others)]


def _at_infinity(log_odds: Tensor, peak: Tensor, score: Tensor) -> Tensor:
    """Put right what minus infinity and infinity in the scores made NaN."""
    log_odds = torch.where(peak.isinf(), peak - score, log_odds)
    return torch.where(score == -torch.inf, torch.inf, log_odds)
