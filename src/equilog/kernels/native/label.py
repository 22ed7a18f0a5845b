"""The log odds against each set's label by the C++ kernel: every score is read once a direction."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from equilog.kernels.dispatch import is_transformed
from equilog.kernels.native.call import as_scores, operator, run, table_of_scores
from equilog.odds import log_odds_gradient
from equilog.targets import scores_of


class NativeLogOdds(Function):
    """The log odds (n,) against the label, from float32 scores scale * (z + shift) (n, C) on the CPU.

    Keeps two numbers a set; the scores are never there.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, labels: Tensor, shift: Tensor | None, scale: float) -> Tensor:
        """Return the log odds."""
        log_odds, peak, inverse = label_forward(z, labels, shift, scale)
        ctx.scale = scale
        ctx.save_for_backward(z, labels, shift, peak, inverse)
        return log_odds

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        """Return upstream * scale * (softmax over the others - one-hot).

        0 where nothing flows back or the odds are certain.
        """
        z, labels, shift, peak, inverse = ctx.saved_tensors  # complains if the logits have been changed since
        if not torch.compiler.is_compiling() and (torch.is_grad_enabled() or is_transformed(upstream)):
            gradient = ctx.scale * log_odds_gradient(scores_of(z, shift, ctx.scale), labels, upstream)
        else:
            gradient = label_backward(z, labels, shift, ctx.scale, peak, inverse, upstream)
        return gradient, None, None, None


def _as_forward(z: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return z.new_empty(z.shape[0]), z.new_empty(z.shape[0]), z.new_empty(z.shape[0])


@operator(_as_forward)
def label_forward(z: Tensor, labels: Tensor, shift: Tensor | None, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log odds, the largest score of the other classes and 1 / the sum of their exponentials, each (n,)."""
    found = z.new_empty(len(z)), z.new_empty(len(z)), z.new_empty(len(z))
    run("label_forward", *table_of_scores(z, shift, scale), labels.contiguous(), *found)
    return found


@operator(as_scores)
def label_backward(
    z: Tensor,
    labels: Tensor,
    shift: Tensor | None,
    scale: float,
    peak: Tensor,
    inverse: Tensor,
    upstream: Tensor,
) -> Tensor:
    """Return the gradient of z from the two numbers of each set, and what flows back to its log odds."""
    gradient, given = z.new_empty(z.shape), table_of_scores(z, shift, scale)
    run("label_backward", *given, labels.contiguous(), peak, inverse, upstream.contiguous(), gradient)
    return gradient
