"""The log odds against a class index, of logits whose classes are sharded over ranks, as vocabulary-parallel layers do.

The odds are one sum over the other classes, so the ranks exchange three numbers a set: the largest score, the sum, and
the score of the set's class, which one rank has. The gradient of a rank's classes is then its own affair.
"""

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from equilog.ops.index_odds.reference import (
    from_sums,
    gradient_of_scores,
    largest_of_others,
    places,
    sum_of_others,
)
from equilog.ops.scores import scores_of
from equilog.ops.second_order import apply
from equilog.ops.sharded import beside


def index_log_odds(logits: Tensor, index: Tensor, shift: Tensor | None, scale: float) -> Tensor:
    """Return the log odds (n,) on every rank, of logits (n, C) sharded over their classes.

    Raises:
        ValueError: they are sharded over something else.
    """
    from torch.distributed.tensor import Replicate, Shard

    z = cast(Any, scores_of(logits, shift, scale))
    mesh, placements = z.device_mesh, z.placements
    if not all(placement.is_replicate() or placement.is_shard(1) for placement in placements):
        raise ValueError(
            "log_balanced_cross_entropy: logits that are a DTensor must be sharded over their classes, Shard(1); got "
            f"{placements}. For sets sharded over ranks give each rank's own, logits.to_local(), with process_group."
        )
    groups = [mesh.get_group(dim) for dim, placement in enumerate(placements) if placement.is_shard(1)]
    order = cast(Any, beside(torch.arange(z.shape[1], device=z.device), z))
    over_classes = [Shard(0) if placement.is_shard(1) else Replicate() for placement in placements]
    classes = order.redistribute(placements=over_classes).to_local()  # needs no exchange
    place = index - classes[0] if len(classes) else torch.full_like(index, -1)
    log_odds: Tensor = apply(ShardedLogOdds, z.to_local(), place, groups)
    return log_odds


class ShardedLogOdds(Function):
    """The log odds against indices that are none of a rank's scores where another rank has their class."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, index: Tensor, groups: list[dist.ProcessGroup]) -> Tensor:
        """Return the log odds; keep the scores and three numbers a set."""
        is_index = places(z, index)
        least = torch.full_like(index, torch.finfo(z.dtype).min, dtype=z.dtype)
        peak = largest_of_others(z, is_index) if z.shape[1] else least  # more ranks than classes leave some without
        for group in groups:
            dist.all_reduce(peak, dist.ReduceOp.MAX, group=group)
        sums = torch.stack((torch.where(is_index, z, 0.0).sum(1), sum_of_others(z, is_index, peak)))
        for group in groups:
            dist.all_reduce(sums, group=group)
        log_odds, _, inverse = from_sums(sums[0], peak, sums[1])
        ctx.save_for_backward(z, index, peak, inverse, log_odds.isinf())
        return log_odds

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of this rank's scores; every rank has the same upstream."""
        if torch.is_grad_enabled():
            raise RuntimeError(
                "log_balanced_cross_entropy: the gradients of logits sharded over ranks cannot be differentiated "
                "again, as create_graph=True asks. Gather them: logits.full_tensor()."
            )
        z, index, peak, inverse, is_certain = ctx.saved_tensors
        return gradient_of_scores(z, index, peak, inverse, torch.where(is_certain, 0.0, upstream)), None, None
