"""The threats of each class to each label, summed over pools by the C++ kernel: scores are read once a direction."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from equilog.kernels.dispatch import is_transformed
from equilog.kernels.native.call import WIDTH, as_scores, operator, run, table_of_scores
from equilog.logspace import log_sum_exp_by
from equilog.odds import log_threats_to_label
from equilog.pooling import Pools
from equilog.targets import scores_of


class NativePairSums(Function):
    """The log sums (P, C * C) over consecutive pools, from float32 scores scale * (z + shift) (n, C) on the CPU."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, labels: Tensor, log_weight: Tensor, size: int, shift: Tensor | None, scale: float
    ) -> Tensor:
        """Return the log sums; keep the sums."""
        log_sums, sums, are_logs = pairs_forward(z, labels, log_weight, size, shift, scale)
        ctx.size, ctx.scale = size, scale
        ctx.save_for_backward(z, labels, log_weight, shift, sums, are_logs)
        return log_sums

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of z."""
        z, labels, log_weight, shift, sums, are_logs = ctx.saved_tensors
        if not torch.compiler.is_compiling() and (torch.is_grad_enabled() or is_transformed(upstream)):
            with torch.enable_grad():
                again = _by_formula(scores_of(z, shift, ctx.scale), labels, log_weight, ctx.size)
                (gradient,) = torch.autograd.grad(again, z, upstream, create_graph=True)
        else:
            gradient = pairs_backward(z, labels, log_weight, ctx.size, shift, ctx.scale, sums, are_logs, upstream)
        return gradient, None, None, None, None, None


def _as_forward(z: Tensor, labels: Tensor, log_weight: Tensor, size: int, *_: Any) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG001
    pools = -(-z.shape[0] // size)
    return z.new_empty(pools, z.shape[1] * z.shape[1]), _table(z, pools), z.new_empty((), dtype=torch.bool)


def _table(z: Tensor, pools: int) -> Tensor:
    """Return zeros in float64 for each pool, label and class (P * C, columns), in whole vectors."""
    return z.new_zeros(pools * z.shape[1], -(-z.shape[1] // WIDTH) * WIDTH, dtype=torch.float64)


@operator(_as_forward)
def pairs_forward(
    z: Tensor, labels: Tensor, log_weight: Tensor, size: int, shift: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log sums, a table of the sums, and whether it is one of their logs: where they overflow or are NaN."""
    pools, classes = -(-len(z) // size), z.shape[1]
    sums = _table(z, pools)
    given = table_of_scores(z, shift, scale)
    if run("pairs_forward", *given, labels.contiguous(), log_weight.exp(), size, sums):
        log_sums = sums[:, :classes].float().log()  # half the time of a double's
        if log_sums.amax() == torch.inf:
            log_sums = sums[:, :classes].log().float()
        return log_sums.view(pools, -1), sums, torch.tensor(False)
    log_sums = _by_formula(scores_of(z, shift, scale).double(), labels, log_weight.double(), size)
    sums[:, :classes] = log_sums.view(-1, classes)
    return log_sums.float(), sums, torch.tensor(True)


@operator(as_scores)
def pairs_backward(
    z: Tensor,
    labels: Tensor,
    log_weight: Tensor,
    size: int,
    shift: Tensor | None,
    scale: float,
    sums: Tensor,
    are_logs: Tensor,
    upstream: Tensor,
) -> Tensor:
    """Return the gradient of z from the sums, and what flows back to their logs."""
    if are_logs:
        z, log_sums = scores_of(z, shift, scale), sums[:, : z.shape[1]]
        return _gradient_by_formula(z, labels, log_weight, log_sums, scale * upstream, size)
    gradient, given = z.new_empty(z.shape), table_of_scores(z, shift, scale)
    run("pairs_backward", *given, labels.contiguous(), log_weight.exp(), size, sums, upstream.contiguous(), gradient)
    return gradient


def _by_formula(z: Tensor, labels: Tensor, log_weight: Tensor, size: int) -> Tensor:
    terms = log_threats_to_label(z, labels) + log_weight[:, None]
    pools, classes = Pools(-(-len(z) // size), len(z), z.device, size=size), z.shape[1]
    return log_sum_exp_by(terms, pools.slots(labels, classes), pools.count * classes).view(pools.count, -1)


def _gradient_by_formula(
    z: Tensor, labels: Tensor, log_weight: Tensor, log_sums: Tensor, upstream: Tensor, size: int
) -> Tensor:
    """Return each threat's share of its sum, times what flows back: from every class to the label."""
    terms = log_threats_to_label(z.double(), labels) + log_weight.double()[:, None]
    pools, classes = Pools(-(-len(z) // size), len(z), z.device, size=size), z.shape[1]
    slot = pools.slots(labels, classes)
    log_sums, upstream = log_sums[slot], upstream.reshape(-1, classes)[slot]
    certain = (upstream == 0) | log_sums.isinf()
    shares = torch.where(certain, 0.0, upstream * (terms - log_sums).exp())
    return shares.scatter(1, labels[:, None], -shares.sum(1, keepdim=True)).float()
