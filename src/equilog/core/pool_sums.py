"""The pools of one call: their sums, and the loss once it is known what they are part of."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from equilog.core.grouping import GroupSums
from equilog.core.pool_state import ClassMass, Layout, ProcessGroup, as_process_group, log_mass_of_share
from equilog.core.units import Samples
from equilog.inputs.options import CLASS_MASS, Options
from equilog.ops import Units, log_one_plus, logs_held, mean_of


class Part(Protocol):
    """What a call is to a whole that it may be a part of."""

    @property
    def layout(self) -> Layout:
        """What the numbers of its mass stand for."""

    def mass(self) -> ClassMass:
        """Return what it adds to a whole."""

    def loss(
        self,
        options: Options,
        *,
        whole: ClassMass | None = None,
        factor: Tensor | float = 1.0,
        streams: bool = False,
    ) -> Tensor:
        """Return the loss of the whole, or of this part alone."""


@dataclass(frozen=True)
class PoolSums:
    """The sums of one call's pools."""

    make_sums: Callable[[], GroupSums]
    """Gives the sums of each pool and group, where somebody asks."""
    samples: Samples
    """The pools, and what their units are made of."""
    class_count: Callable[[], Tensor]
    """Gives the weighted number of sets of each class (C,), where somebody asks."""
    shape: torch.Size
    """The shape of the caller's sets, which n values in a row have lost."""
    layout: Layout
    compensation: str | None = None
    """How soft targets are compensated."""
    at_once: Callable[[Units | None], Tensor | None] | None = None
    """Gives the loss of each pool (P,), or their mean, by one operation without the sums, where there is such.

    None where that does not give the mean."""
    group_weight: Tensor | None = None
    """(G,) factor on each log."""
    class_weight: Tensor | None = None
    """(C,) the weight of each class that the units count by."""
    labels_per_set: int = 1
    """How many labels one of the pools' sets is."""
    known_units: Tensor | float | None = None
    """What the mean divides by, where it is known before the sums are."""
    _made: list[GroupSums] = field(default_factory=list, init=False)

    @property
    def sums(self) -> GroupSums:
        """The sums of each pool and group."""
        # functools.cached_property has a lock in Python 3.11, which the compiler does not go through.
        if not self._made:
            self._made.append(self.make_sums())
        return self._made[0]

    def mass(self) -> ClassMass:
        """Return what this part adds to a whole, without gradient."""
        spans = self.layout.spans
        log_sums, groups = self.sums.log_sums.detach(), self.sums.groups
        shared = self.sums.residual if spans else None
        zero = log_sums.new_zeros(())
        pools, classes = self.layout.pools, self.layout.classes
        if groups is not None:
            log_sums = groups.together(log_sums)
        else:
            log_sums = log_sums.reshape(-1) if spans else log_sums.logsumexp(0)
        return ClassMass(
            log_sums=log_sums,
            residual=log_sums.new_zeros(pools * classes) if shared is None else shared.reshape(-1),
            class_count=self.class_count(),
            sets=_as_number(self.kept_sets(), log_sums),
            pools=_as_number(self.nonempty_pools(), log_sums),
            samples=self._samples_of_whole().to(log_sums) if spans else zero,
            units=zero if spans else _as_number(self.mean_units(), log_sums),
            layout=self.layout,
        )

    def mean_units(self) -> Tensor | float:
        """Return what the mean over these pools divides by: the sum of their units."""
        units = self.units()
        if units.total is not None:
            return units.total
        return units.summed(self.sums.log_sums, self._weight_of_sums(self._unit_weight(self.sums.residual)))

    def units(self) -> Units:
        """Return the units as far as they are known before the sums are."""
        samples = self.samples
        if self.known_units is not None:
            return Units(0, self.known_units)
        if samples.logs_do_not_count:
            return Units(0, samples.logs_per_set * samples.total(self.class_weight))
        samples_of_pool = samples.spanned()
        if self.class_weight is not None:
            samples_of_pool = samples_of_pool * samples.class_weight(self.class_weight)
        return Units(samples.logs_per_set * samples_of_pool)

    def units_of(self, whole: ClassMass, streams: bool) -> Tensor:
        """Return what the mean over the whole that these pools are a part of divides by."""
        if not self.layout.spans:
            return whole.units
        samples, logs_per_set = whole.samples, self.samples.logs_per_set
        if self.class_weight is not None:
            count = whole.class_count
            share = count / count.sum().clamp(min=torch.finfo(count.dtype).tiny)
            samples = samples * (share * self.class_weight).sum()
        if self.samples.logs_do_not_count and self.samples.gentle:
            return samples.sum()
        pools = self.layout.pools
        logs = logs_held(whole.log_sums.view(pools, -1), self._unit_weight(self._residual_of(whole)))
        if streams:  # which has seen more classes than it still holds sets of
            logs = torch.minimum(logs, logs_per_set * whole.sets / pools)
        return torch.maximum(logs_per_set * samples, logs).sum()

    def _residual_of(self, whole: ClassMass) -> Tensor | None:
        """Return R of the pools that span the parts (P, C), where soft targets are compensated."""
        return whole.residual.view(self.layout.pools, -1) if self.layout.compensated else None

    def _samples_of_whole(self) -> Tensor:
        """Return how many samples the pools that span the parts do here, each by its weight: 0-d of one pool, (P,)."""
        pools = self.samples.pools
        spanned = self.samples.spanned()
        if not isinstance(spanned, Tensor):
            spanned = torch.full((pools.count,), spanned, device=pools.device)
        return spanned.sum() if self.layout.pools == 1 else spanned

    def kept_sets(self) -> Tensor | int:
        """Return the number of sets that are not ignored, or of labels."""
        kept = self.samples.kept
        return self.samples.pools.sets * self.labels_per_set if kept is None else kept.sum()

    def nonempty_pools(self) -> Tensor | int:
        """Return the number of pools that hold a set not ignored."""
        pools, kept = self.samples.pools, self.samples.kept
        if kept is None and pools.consecutive:
            return pools.count if pools.sets else 0
        return (pools.sums(_kept_sets(self.samples)) > 0).sum()

    def loss(
        self,
        options: Options,
        *,
        whole: ClassMass | None = None,
        factor: Tensor | float = 1.0,
        streams: bool = False,
    ) -> Tensor:
        """Return the loss of the whole this part belongs to (of this part alone where there is none).

        Where one pool spans the parts, the value is the whole's and the gradient this part's share, times `factor`.
        Where each part has pools of its own, value and gradient are this part's share of the mean, times `factor`.
        """
        values = None
        if whole is None and self.at_once is not None:
            values = self.at_once(self.units() if options.reduction == "mean" else None)
            if values is not None and options.reduction == "mean":
                return values
        if values is None:
            values = self._values(whole, factor)
        total = values if options.reduction == "none" else values.sum()
        if whole is not None and not self.layout.spans:
            total = total * factor
        if options.reduction == "none":
            pools = self.samples.pools
            return total.reshape(self.shape) if pools.apart else pools.named(total)
        if options.reduction == "sum":
            return total
        return mean_of(total, self.mean_units() if whole is None else self.units_of(whole, streams))

    def _values(self, whole: ClassMass | None, factor: Tensor | float) -> Tensor:
        """Return the loss of each pool (P,), from the sums."""
        log_sums, residual = self.sums.log_sums, self.sums.residual
        if whole is not None and self.layout.spans:
            log_mass = log_mass_of_share(log_sums, whole.log_sums.view(self.layout.pools, -1), factor)
            # A part with index targets has no R of its own, but shares that of the others.
            residual = self._residual_of(whole)
            residual = None if residual is None else residual.to(log_mass)
        else:
            log_mass = log_one_plus(log_sums)
        if residual is not None and self.compensation == "offset":
            log_mass = torch.logaddexp(log_mass, (residual.amax(1, keepdim=True) - residual).log())
        weight = self._weight_of_sums(self._log_weight(residual))
        return (log_mass if weight is None else log_mass * weight).sum(1)

    def _unit_weight(self, residual: Tensor | None) -> Tensor | None:
        """Return by what a log counts in the units: the factor on it, but for that on the positives of labels.

        By that torch's mean does not divide either.
        """
        return None if self.layout.balance == "multilabel" else self._log_weight(residual)

    def _log_weight(self, residual: Tensor | None) -> Tensor | None:
        """Return the factor on the log of each group, (G,) or (P, G): of its class, and to compensate soft targets."""
        if residual is None or self.compensation != "weight":
            return self.group_weight
        weight = (1 + residual) / (1 + residual).mean(1, keepdim=True)
        return weight if self.group_weight is None else weight * self.group_weight

    def _weight_of_sums(self, weight: Tensor | None) -> Tensor | None:
        """Return the factor on each of the log sums, (G,), (P, G) or (P, K), from that on each group."""
        groups = self.sums.groups
        if weight is None or groups is None:
            return weight
        return weight[groups.ids] if weight.dim() == 1 else weight.gather(1, groups.ids)


def part_of(
    options: Options, part: Part, class_mass: ClassMass | None, process_group: ProcessGroup
) -> tuple[ClassMass | None, float]:
    """Return the whole that a part belongs to, and the factor on its gradient.

    Data-parallel wrappers (DistributedDataParallel, fully sharded) average the gradients of the ranks where the
    gradient of the whole is their sum. The factor, the number of ranks, makes up for it; this is the one place.
    """
    if class_mass is not None and class_mass.layout != part.layout:
        raise ValueError(
            f"{options.where}: class_mass must come from the same options as this call, {part.layout.described()}; "
            f"got one of {class_mass.layout.described()}."
        )
    group = as_process_group(options.where, process_group)
    if group is None:
        return class_mass, 1.0
    whole = part.mass().all_reduce(group, validate=options.validate) if class_mass is None else class_mass
    return whole, float(dist.get_world_size(group))


def pooled_loss(
    options: Options,
    part: Part,
    class_mass: ClassMass | None,
    process_group: ProcessGroup,
) -> Tensor:
    """Return the loss of a call from its pools' sums, or its class mass where the options ask for that."""
    if options.reduction == CLASS_MASS:
        return part.mass()  # type: ignore[return-value]
    whole, factor = part_of(options, part, class_mass, process_group)
    return part.loss(options, whole=whole, factor=factor)


def _kept_sets(samples: Samples) -> Tensor:
    pools = samples.pools
    if samples.kept is None:
        return torch.ones(pools.sets, device=pools.device)
    return (samples.kept != 0).to(torch.float32)


def _as_number(count: Tensor | float, like: Tensor) -> Tensor:
    """Return a count as a 0-d tensor; filled in, since a tensor made of it would compile anew for each."""
    return count.to(like) if isinstance(count, Tensor) else like.new_full((), count)
