"""Logits whose classes are spread over ranks: a DTensor sharded over the classes, as vocabulary-parallel layers make.

The odds against a label are one sum over the other classes, so the ranks exchange three numbers a set: the largest
score, the sum, and the label's own score, which one rank has. The gradient of a rank's classes is then its own affair.
"""

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from equilog.odds import from_sums, gradient_of_scores, is_label, largest_of_others, sum_of_others


def is_spread(values: Tensor) -> bool:
    """Tell whether the entries of a tensor are spread over ranks."""
    if type(values) in (Tensor, torch.nn.Parameter):
        return False
    from torch.distributed.tensor import DTensor  # loaded already where there is one, and takes a second where not

    return isinstance(values, DTensor)


def in_one_piece(values: Tensor) -> Tensor:
    """Return the whole tensor on every rank, by gathering it where it is spread over them."""
    return cast(Any, values).full_tensor() if is_spread(values) else values


def beside(values: Tensor, like: Tensor) -> Tensor:
    """Return values that every rank has in a form that goes with `like`, if that is spread over ranks."""
    if not is_spread(like):
        return values
    from torch.distributed.tensor import DTensor, Replicate

    mesh = cast(Any, like).device_mesh
    return DTensor.from_local(values, mesh, [Replicate()] * mesh.ndim, run_check=False)


def log_odds_against_label(z: Tensor, labels: Tensor) -> Tensor:
    """Return the log odds (n,) against each set's label on every rank, from scores (n, C) spread over the classes.

    Raises:
        ValueError: the scores are spread over something else than their classes.
    """
    from torch.distributed.tensor import Replicate, Shard

    spread = cast(Any, z)
    mesh, placements = spread.device_mesh, spread.placements
    if not all(each.is_replicate() or each.is_shard(1) for each in placements):
        raise ValueError(
            "log_balanced_cross_entropy: logits that are a DTensor must be spread over their classes, Shard(1); got "
            f"{placements}. For sets spread over ranks give each rank's own, logits.to_local(), with process_group."
        )
    groups = [mesh.get_group(dim) for dim, each in enumerate(placements) if each.is_shard(1)]
    order = cast(Any, beside(torch.arange(z.shape[1], device=z.device), z))
    over_classes = [Shard(0) if each.is_shard(1) else Replicate() for each in placements]
    mine = order.redistribute(placements=over_classes).to_local()  # needs no exchange
    here = labels - mine[0] if len(mine) else torch.full_like(labels, -1)
    return cast(Tensor, _LogOdds.apply(spread.to_local(), here, groups))  # type: ignore[no-untyped-call]


class _LogOdds(Function):
    """The log odds against labels, which are no index of a rank's scores where another rank has their class."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, labels: Tensor, groups: list[dist.ProcessGroup]) -> Tensor:
        """Return the log odds; keep the scores and three numbers a set."""
        label = is_label(z, labels)
        least = torch.full_like(labels, torch.finfo(z.dtype).min, dtype=z.dtype)
        peak = largest_of_others(z, label) if z.shape[1] else least  # more ranks than classes leave some without
        for group in groups:
            dist.all_reduce(peak, dist.ReduceOp.MAX, group=group)
        sums = torch.stack((torch.where(label, z, 0.0).sum(1), sum_of_others(z, label, peak)))
        for group in groups:
            dist.all_reduce(sums, group=group)
        log_odds, _, inverse = from_sums(sums[0], peak, sums[1])
        ctx.save_for_backward(z, labels, peak, inverse, log_odds.isinf())
        return log_odds

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of this rank's scores; every rank has the same upstream."""
        if torch.is_grad_enabled():
            raise RuntimeError(
                "log_balanced_cross_entropy: the gradients of logits spread over ranks cannot be differentiated again, "
                "as create_graph=True asks. Gather them: logits.full_tensor()."
            )
        z, labels, peak, inverse, infinite = ctx.saved_tensors
        return gradient_of_scores(z, labels, peak, inverse, torch.where(infinite, 0.0, upstream)), None, None
