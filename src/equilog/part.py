"""One call's part of a loss: the sums of its pools, and the value once it is known what they are part of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from equilog.logspace import log_one_plus
from equilog.mass import ClassMass, Layout, described, share_of
from equilog.occupied import Groups
from equilog.pooling import Pools

Group = dist.ProcessGroup | Literal["world"] | None
"""Ranks that each hold a part: a process group, all of them whenever torch.distributed runs, or this process alone."""


@dataclass(frozen=True)
class Part:
    """The pools of one call."""

    log_sums: Tensor
    """(P, G) log of the summed odds of each pool and group, or (P, K) of those in `groups`."""
    at_optimum: Tensor | None
    """(P, C) R, for soft targets that are compensated, else None."""
    class_count: Callable[[], Tensor]
    """Gives the weighted number of sets of each class (C,), where somebody asks."""
    pools: Pools
    kept: Tensor | None
    """(n,) bool: the set is not ignored, or how many of its labels are not; None where none is."""
    shape: torch.Size
    """The shape of the caller's sets, which n values in a row have lost."""
    layout: Layout
    each: int = 1
    """How many labels one of the pools' sets is."""
    groups: Groups | None = None
    """The groups of the sums where they are not all G; None in one pool that spans several parts."""

    def mass(self) -> ClassMass:
        """Return what this part adds to a whole, without gradient."""
        spans = self.layout.spans
        log_sums = self.log_sums.detach()
        shared = self.at_optimum if spans else None
        return ClassMass(
            log_sums=log_sums.logsumexp(0) if self.groups is None else self.groups.together(log_sums),
            at_optimum=log_sums.new_zeros(self.layout.classes) if shared is None else shared[0],
            class_count=self.class_count(),
            sets=_as_number(self.pools.sets * self.each if self.kept is None else self.kept.sum(), log_sums),
            pools=_as_number(self.pools.nonempty(self.kept), log_sums),
            layout=self.layout,
        )

    def loss(
        self,
        *,
        whole: ClassMass | None = None,
        factor: Tensor | float = 1.0,
        compensation: str | None = None,
        group_weight: Tensor | None = None,
        reduction: str = "mean",
    ) -> Tensor:
        """Return the loss of the whole this part belongs to (of this part alone where there is none).

        Where one pool spans the parts, the value is the whole's and the gradient this part's share, times `factor`.
        Where each part has pools of its own, value and gradient are this part's share of the mean, times `factor`.
        """
        at_optimum = self.at_optimum
        if whole is not None and self.layout.spans:
            log_mass = share_of(self.log_sums, whole.log_sums, factor)
            # A part with index targets has no R of its own, but shares that of the others.
            at_optimum = whole.at_optimum.to(log_mass)[None] if self.layout.compensated else None
        else:
            log_mass = log_one_plus(self.log_sums)
        if at_optimum is not None and compensation == "weight":
            log_mass = log_mass * ((1 + at_optimum) / (1 + at_optimum).mean(1, keepdim=True))
        elif at_optimum is not None and compensation == "offset":
            log_mass = torch.logaddexp(log_mass, (at_optimum.amax(1, keepdim=True) - at_optimum).log())
        if group_weight is not None:
            log_mass = log_mass * (group_weight if self.groups is None else group_weight[self.groups.ids])
        total = log_mass.sum(1) if reduction == "none" else log_mass.sum()
        if whole is not None and not self.layout.spans:
            total = total * factor
        if reduction == "none":
            return total.reshape(self.shape) if self.pools.apart else total
        if reduction == "sum":
            return total
        pools = self.pools.nonempty(self.kept) if whole is None else whole.pools.to(total)
        return total / (max(pools, 1) if isinstance(pools, int) else pools.clamp(min=1))


def _as_number(count: Tensor | int, like: Tensor) -> Tensor:
    """Return a count as a 0-d tensor; filled in, since a tensor made of it would compile anew for each."""
    return count.to(like) if isinstance(count, Tensor) else like.new_full((), count)


def whole_of(
    where: str, part: Part, class_mass: ClassMass | None, process_group: Group, *, validate: bool = False
) -> tuple[ClassMass | None, float]:
    """Return the whole a part belongs to, and the factor on its gradient.

    Data-parallel wrappers (DistributedDataParallel, fully sharded) average the gradients of the ranks where the
    gradient of the whole is their sum. The factor, the number of ranks, makes up for it; this is the one place.
    """
    if class_mass is not None and class_mass.layout != part.layout:
        raise ValueError(
            f"{where}: class_mass must come from the same options as this call, {described(part.layout)}; got one of "
            f"{described(class_mass.layout)}."
        )
    group = as_group(where, process_group)
    if group is None:
        return class_mass, 1.0
    whole = part.mass().all_reduce(group, validate=validate) if class_mass is None else class_mass
    return whole, float(dist.get_world_size(group))


def as_group(where: str, process_group: Group) -> dist.ProcessGroup | None:
    """Return the process group an argument names, or None for this process alone."""
    if process_group is None or isinstance(process_group, dist.ProcessGroup):
        return process_group
    if process_group != "world":
        raise TypeError(
            f'{where}: process_group must be a torch.distributed.ProcessGroup, "world" or None; got {process_group!r}.'
        )
    # Looked up at each call, since a loss is often made before the launcher has joined the processes.
    return dist.group.WORLD if dist.is_available() and dist.is_initialized() else None
