"""Calls as training mostly makes them: rows of logits with class indices, all of one weight.

On the CPU none may be left out, which is found out by looking; on a GPU, where nobody looks, some may be.

What such a call is, its pools and what its mean divides by, follows from its options and shapes. The general way finds
it out for the first call of these; the next are one operation, which takes less time than to find it out again.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from equilog.core.grouping import GroupSums
from equilog.core.pool_state import ClassMass, Layout
from equilog.core.pool_sums import PoolSums
from equilog.inputs.classes import Sets
from equilog.inputs.options import ClassOptions, Options
from equilog.ops import Look, NotPlainError, Units, mean_of_index_logs, precise, takes_ignored, takes_look


class Plan(NamedTuple):
    """What all plain calls of the same options and shapes have in common."""

    pool_size: int
    pools: int
    units: Units | None
    """None for the number of sets that are not ignored, where some may be."""


def keep_plan(options: ClassOptions, logits: Tensor, target: Tensor, sets: Sets, part: PoolSums) -> None:
    """Keep what the general way found out about a call, where it is a plain one."""
    if part.at_once is None or not sets.unweighted or part.class_weight is not None:
        return
    if logits.dim() != 2 or target.dtype != torch.int64 or options.validate or isinstance(options.pool, Tensor):
        return
    pools, units = part.samples.pools, None
    if not takes_ignored(logits, target):
        units = part.units()
        if sets.kept is not None or isinstance(units.samples, Tensor) or not takes_look(logits, target):
            return
    options.remembered(_key(logits, target), lambda _: Plan(pools.size, pools.count, units))


def plain_sums(
    options: ClassOptions, logits: Tensor, target: Tensor, general: Callable[[Tensor | None], PoolSums], counts: bool
) -> "Callable[[Tensor | None], PlainSums] | None":
    """Return what gives the sums of a call for a shift (C,), or None where it is not known to be a plain one.

    general: gives the same the general way.
    counts: whether somebody will ask for the number of sets of each class.
    """
    if options.reduction != "mean" or torch.compiler.is_compiling():
        return None
    if not isinstance(logits, Tensor) or not isinstance(target, Tensor):
        return None
    plan: Plan | None = options.known(_key(logits, target))
    if plan is None:
        return None
    takes = takes_ignored if plan.units is None else takes_look
    if not takes(logits, target):
        return None
    return lambda shift: PlainSums(options, plan, logits, target, shift, general, counts)


def _key(logits: Tensor, target: Tensor) -> tuple[object, ...]:
    return logits.shape, target.shape, logits.dtype, target.dtype, logits.device.type


class PlainSums:
    """The pools of a plain call, as `PoolSums` are of any; their sums are made the general way, if somebody asks."""

    __slots__ = ("_counts", "_general", "_logits", "_made", "_options", "_plan", "_shift", "_target")

    def __init__(
        self,
        options: ClassOptions,
        plan: Plan,
        logits: Tensor,
        target: Tensor,
        shift: Tensor | None,
        general: Callable[[Tensor | None], PoolSums],
        counts: bool,
    ) -> None:
        self._options, self._plan, self._general = options, plan, general
        self._made: PoolSums | None = None
        self._logits, self._target, self._shift = logits, target, shift
        self._counts = (
            torch.empty(logits.shape[1], dtype=precise(logits.device), device=logits.device) if counts else None
        )

    @property
    def general(self) -> PoolSums:
        """The same, made the general way."""
        if self._made is None:
            self._made = self._general(self._shift)
        return self._made

    def loss(
        self,
        options: Options,
        *,
        whole: ClassMass | None = None,
        factor: Tensor | float = 1.0,
        streams: bool = False,
    ) -> Tensor:
        """Return the loss of the whole this part belongs to, or of this part alone."""
        shift, plan = self._shift, self._plan
        if whole is None and self._made is None and (shift is None or not shift.requires_grad):
            look = Look(self._options.ignore_index, self._counts)
            try:
                return mean_of_index_logs(
                    self._logits,
                    self._target,
                    plan.pool_size,
                    shift=shift,
                    scale=options.scale,
                    units=plan.units,
                    look=look,
                )
            except NotPlainError:  # which of its shapes others will not be, either
                self._options.forget(_key(self._logits, self._target))
        return self.general.loss(options, whole=whole, factor=factor, streams=streams)

    def class_count(self) -> Tensor:
        """Return the number of sets of each class (C,), after the loss."""
        return self.general.class_count() if self._counts is None or self._made is not None else self._counts

    def kept_sets(self) -> Tensor | int:
        """Return the number of sets that are not ignored, after the loss."""
        if self._made is None and self._plan.units is not None:
            return self._target.shape[0]
        return self.general.kept_sets()

    def nonempty_pools(self) -> Tensor | int:
        """Return the number of pools that hold a set not ignored, after the loss."""
        if self._made is None and self._plan.units is not None:
            return self._plan.pools
        return self.general.nonempty_pools()

    def mass(self) -> ClassMass:
        """Return what this part adds to a whole."""
        return self.general.mass()

    @property
    def sums(self) -> GroupSums:
        """The sums of each pool and group."""
        return self.general.sums

    @property
    def layout(self) -> Layout:
        """What the numbers of a class mass stand for."""
        return self.general.layout
