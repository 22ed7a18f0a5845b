"""The log odds against a class index by the C++ kernel: every score is read once a direction."""

from typing import Any

from torch import Tensor

from equilog.ops.dtypes import as_compute_dtype
from equilog.ops.index_odds import reference
from equilog.ops.native.call import as_scores, run, table_of_scores
from equilog.ops.operators import operator
from equilog.ops.second_order import Differentiable, apply, keep


def index_log_odds(logits: Tensor, index: Tensor, shift: Tensor | None, scale: float) -> Tensor:
    """Return the log odds (n,), computed in float32 on the CPU; the scores are never there."""
    log_odds: Tensor = apply(NativeLogOdds, as_compute_dtype(logits), index, shift, scale)
    return log_odds


class NativeLogOdds(Differentiable):
    """The log odds (n,) of float32 scores scale * (z + shift) (n, C). Keeps two numbers a set."""

    formula = staticmethod(reference.index_log_odds)

    @staticmethod
    def forward(ctx: Any, z: Tensor, index: Tensor, shift: Tensor | None, scale: float) -> Tensor:
        """Return the log odds."""
        log_odds, peak, inverse = index_odds_forward(z, index, shift, scale)
        keep(ctx, (z, index, shift), (scale,), peak, inverse)
        return log_odds

    @staticmethod
    def gradient(ctx: Any, upstream: Tensor) -> Tensor:
        """Return upstream * scale * (softmax over the others - one-hot).

        0 where nothing flows back or the odds are certain.
        """
        # saved_tensors complains if the logits have been changed since.
        z, index, shift, peak, inverse = ctx.saved_tensors
        return index_odds_backward(z, index, shift, peak, inverse, upstream, *ctx.constants)


def _as_forward(z: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return z.new_empty(z.shape[0]), z.new_empty(z.shape[0]), z.new_empty(z.shape[0])


@operator(_as_forward)
def index_odds_forward(z: Tensor, index: Tensor, shift: Tensor | None, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log odds, the largest score of the other classes and 1 / the sum of their exponentials, each (n,)."""
    results = _as_forward(z)
    run("index_odds_forward", *table_of_scores(z, shift, scale), index.contiguous(), *results)
    return results


@operator(as_scores)
def index_odds_backward(
    z: Tensor, index: Tensor, shift: Tensor | None, peak: Tensor, inverse: Tensor, upstream: Tensor, scale: float
) -> Tensor:
    """Return the gradient of z from the two numbers of each set, and what flows back to its log odds."""
    gradient, table = z.new_empty(z.shape), table_of_scores(z, shift, scale)
    run("index_odds_backward", *table, index.contiguous(), peak, inverse, upstream.contiguous(), gradient)
    return gradient
