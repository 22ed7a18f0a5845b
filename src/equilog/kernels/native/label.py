"""The log odds against each set's label by the C++ kernel: every score is read once a direction."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from equilog.kernels.dispatch import is_transformed
from equilog.kernels.native.call import operator, run, with_rows
from equilog.odds import log_odds_gradient


class NativeLogOdds(Function):
    """The log odds (n,) against the label, from float32 scores (n, C) on the CPU; keeps two numbers a set."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, labels: Tensor) -> Tensor:
        """Return the log odds."""
        log_odds, peak, inverse = label_forward(z, labels)
        ctx.save_for_backward(z, labels, peak, inverse)
        return log_odds

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        """Return upstream * (softmax over the others - one-hot), 0 where nothing flows back or the odds are certain."""
        z, labels, peak, inverse = ctx.saved_tensors  # complains if the scores have been changed since
        if not torch.compiler.is_compiling() and (torch.is_grad_enabled() or is_transformed(upstream)):
            return log_odds_gradient(z, labels, upstream), None
        return label_backward(z, labels, peak, inverse, upstream), None


def _as_forward(z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG001
    return z.new_empty(z.shape[0]), z.new_empty(z.shape[0]), z.new_empty(z.shape[0])


def _as_scores(z: Tensor, *_: Tensor) -> Tensor:
    return z.new_empty(z.shape)


@operator(_as_forward)
def label_forward(z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log odds, the largest score of the other classes and 1 / the sum of their exponentials, each (n,)."""
    z, labels = with_rows(z), labels.contiguous()
    log_odds, peak, inverse = found = z.new_empty(len(z)), z.new_empty(len(z)), z.new_empty(len(z))
    run("label_forward", z, z.stride(0), labels, *z.shape, log_odds, peak, inverse)
    return found


@operator(_as_scores)
def label_backward(z: Tensor, labels: Tensor, peak: Tensor, inverse: Tensor, upstream: Tensor) -> Tensor:
    """Return the gradient of the scores from the two numbers of each set, and what flows back to its log odds."""
    z, labels, upstream, gradient = with_rows(z), labels.contiguous(), upstream.contiguous(), z.new_empty(z.shape)
    run("label_backward", z, z.stride(0), labels, *z.shape, peak, inverse, upstream, gradient)
    return gradient
