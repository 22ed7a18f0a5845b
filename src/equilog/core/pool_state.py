"""What the sets of one pool add up to, wherever they are: a state that merges over parts of a step, ranks and time.

Sets meet only in the sums of their terms, a number per group of class pairs (per class for "class" balance). Kept as
logarithms, those sums merge in any order; then every part back-propagates its share of the whole.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from equilog.inputs.values import reads_values
from equilog.ops import log_one_plus, precise

ProcessGroup = dist.ProcessGroup | Literal["world"] | None
"""Ranks that each hold a part: a process group, all of them whenever torch.distributed runs, or this process alone."""


@dataclass(frozen=True)
class Layout:
    """What the numbers of a class mass stand for. Only masses of one layout merge."""

    balance: str
    """The grouping: "class", "pair", "none", blocks, or "multilabel"."""
    classes: int
    """C; 2 of yes/no labels, whose two groups are yes and no."""
    spans: bool
    """Whether the pools span all parts. Where each part has pools of its own, only their number is shared."""
    pools: int = 1
    """How many pools span the parts: one, or one a label."""
    labels: int = 0
    """How many labels are counted by themselves, for a running prior; 0 where it is all together."""
    compensated: bool = False
    """Whether soft targets are compensated, so that R is gathered."""
    inner: str = "odds"
    """What the sets add: odds, or another inner term of "class" balance."""
    weighted: bool = False
    """Whether the units of the parts' own pools are by the weights of classes."""

    def described(self) -> str:
        """Return the layout in words, for error texts."""
        return (
            f'balance "{self.balance}" over {self.classes} classes'
            + (f", a pool for each of {self.pools} labels" if self.pools != 1 else "")
            + (f", counted by {self.labels} labels" if self.labels else "")
            + (f', inner "{self.inner}"' if self.inner != "odds" else "")
            + (", compensated" if self.compensated else "")
            + (", weighted by class" if self.weighted else "")
            + ("" if self.spans else ", with pools of its own")
        )


@dataclass(frozen=True)
class ClassMass:
    """Sums over the sets of one step, or of the part of it that one call has seen.

    `merge` is associative and commutative, and `empty` its neutral element. Where there is a pool for each of L labels,
    G, the number of groups, and C are those of all pools, one after the other.
    """

    log_sums: Tensor
    """(G,) log of the terms summed over the sets, for each group; minus infinity where there are none. Where the parts
    have pools of their own, it tells no more than whether one of these is NaN."""
    residual: Tensor
    """(C,) R, the terms summed at the best possible scores of soft targets; zeros where there is no such thing."""
    class_count: Tensor
    """(C,) weighted number of sets of each class, or of the positives and negatives of each label, (2 L,)."""
    sets: Tensor
    """0-d, number of sets that are not ignored."""
    pools: Tensor
    """0-d, number of pools with such a set."""
    samples: Tensor
    """0-d, number of samples with such a set, each by its weight; of each of several pools (L,). Where parts have pools
    of their own, 0."""
    units: Tensor
    """0-d, what the mean divides by where the parts have pools of their own; else 0: the whole pool must be known."""
    layout: Layout

    @property
    def log_mass(self) -> Tensor:
        """(G,) log A = log(1 + the summed terms)."""
        return log_one_plus(self.log_sums)

    def empty(self) -> "ClassMass":
        """Return the mass of no sets at all, of this layout."""
        zeros: dict[str, Any] = {name: torch.zeros_like(getattr(self, name)) for name in _ADDED}
        return replace(
            self, log_sums=torch.full_like(self.log_sums, -torch.inf), pools=torch.zeros_like(self.pools), **zeros
        )

    def merge(self, other: "ClassMass") -> "ClassMass":
        """Return the mass of this part and the other together.

        Raises:
            ValueError: the other is of another balance, number of classes or kind of pool.
        """
        if self.layout != other.layout:
            raise ValueError(
                f"ClassMass.merge: expected a mass of {self.layout.described()}; got one of "
                f"{other.layout.described()}. Only masses of one loss with the same options merge."
            )
        added = {name: getattr(self, name) + getattr(other, name) for name in _ADDED}
        # A pool that spans two parts is still one pool.
        pools = (added["samples"] > 0).sum().to(self.pools) if self.layout.spans else self.pools + other.pools
        return replace(self, log_sums=torch.logaddexp(self.log_sums, other.log_sums), pools=pools, **added)

    def decayed(self, momentum: float) -> "ClassMass":
        """Return the mass with every sum multiplied by `momentum`: what a stream keeps of its past."""
        kept = {name: getattr(self, name) * momentum for name in _ADDED}
        return replace(self, log_sums=self.log_sums + (math.log(momentum) if momentum else -math.inf), **kept)

    def all_reduce(self, group: dist.ProcessGroup, *, validate: bool = False) -> "ClassMass":
        """Return the merged masses of all ranks of the group, by a single all-reduce of what each has `packed`.

        That is world size x (G + 2 C + 4) numbers where one pool spans the parts.

        The ranks' numbers are put side by side and merged by each rank in the same order, so that every rank has
        the same result to the last digit. The first of a layout is preceded by an exchange of the layouts.

        Raises:
            ValueError: on every rank, where they are of different balances or numbers of classes, when a rank meets
                this layout in this group for the first time.
            RuntimeError: on every rank, where one rank's mass is NaN (on the CPU, or with `validate`; else a GPU is
                not made to wait, and gives NaN).
        """
        _require_one_layout(self.layout, group)
        packed = self.packed()
        table = packed.new_zeros(dist.get_world_size(group), len(packed))
        table[dist.get_rank(group)] = packed
        dist.all_reduce(table, group=group)
        if reads_values(table, validate):
            _require_numbers(table[:, : len(self.log_sums)], self.layout.balance)
        parts = [self.unpacked(row) for row in table]
        total = parts[0]
        for part in parts[1:]:
            total = total.merge(part)
        return total

    def packed(self) -> Tensor:
        """Return all numbers in one row, in float64 (float32 where a device has no float64)."""
        numbers = [getattr(self, name).detach() for name in _NUMBERS]
        return torch.cat([number.reshape(-1).to(precise(number.device)) for number in numbers])

    def unpacked(self, row: Tensor) -> "ClassMass":
        """Return the mass whose `packed` is this row, of the same layout."""
        numbers = torch.split(row, [getattr(self, name).numel() for name in _NUMBERS])
        named = zip(_NUMBERS, numbers, strict=True)
        fields: dict[str, Any] = {name: number.view_as(getattr(self, name)) for name, number in named}
        return replace(self, **fields)


_ADDED = ("residual", "class_count", "sets", "samples", "units")
_NUMBERS = ("log_sums", *_ADDED, "pools")


def numbers_in(groups: int, classes: int, layout: Layout) -> int:
    """Return how many numbers `ClassMass.packed` holds, of G groups and C classes a pool."""
    return layout.pools * (groups + classes + 1) + (2 * layout.labels or classes) + 3


def sets_in(packed: Tensor, layout: Layout) -> Tensor:
    """Return the number of sets among the numbers of `ClassMass.packed`."""
    return packed[-3 - layout.pools]


def log_mass_of_share(log_sums: Tensor, total: Tensor, factor: Tensor | float) -> Tensor:
    """Return log(1 + the total), whose gradient is that of this part's share of it, times `factor`.

    With X this part's sum and A = 1 + the total, d log A = dX / A: what the other parts add is a constant here, and
    their gradients are theirs to compute.
    """
    log_mass = log_one_plus(total.detach()).to(log_sums)
    share = (log_sums - log_mass).exp()
    return log_mass + factor * (share - share.detach())


def as_process_group(where: str, process_group: ProcessGroup) -> dist.ProcessGroup | None:
    """Return the process group an argument names, or None for this process alone."""
    if process_group is None or isinstance(process_group, dist.ProcessGroup):
        return process_group
    if process_group != "world":
        raise TypeError(
            f'{where}: process_group must be a torch.distributed.ProcessGroup, "world" or None; got {process_group!r}.'
        )
    # Looked up at each call, since a loss is often made before the launcher has joined the processes.
    return dist.group.WORLD if dist.is_available() and dist.is_initialized() else None


def _require_numbers(log_sums: Tensor, balance: str) -> None:
    wrong = log_sums.isnan().nonzero().tolist()
    if wrong:
        kind = "class" if balance == "class" else "class group"
        places = ", ".join(f"rank {rank} in {kind} {group}" for rank, group in wrong[:5])
        raise RuntimeError(
            f"ClassMass.all_reduce: the class mass is NaN on {places}. Look for NaN or +inf in the logits of that rank."
        )


_agreed: WeakKeyDictionary[dist.ProcessGroup, set[Layout]] = WeakKeyDictionary()
"""The layouts that all ranks of a group are known to have met together."""


def _require_one_layout(layout: Layout, group: dist.ProcessGroup) -> None:
    """Exchange the layouts of a group's ranks, once: an all-reduce of unequal lengths would end the process."""
    if torch.compiler.is_compiling() or layout in _agreed.setdefault(group, set()):
        return
    of_ranks = [""] * dist.get_world_size(group)
    dist.all_gather_object(of_ranks, layout.described(), group=group)
    other = [f"rank {rank} has {its}" for rank, its in enumerate(of_ranks) if its != of_ranks[0]]
    if other:
        raise ValueError(
            f"ClassMass.all_reduce: all ranks must have a class mass of one kind; rank 0 has {of_ranks[0]}, but "
            f"{'; '.join(other[:5])}. Give the loss the same options and as many classes on every rank."
        )
    _agreed[group].add(layout)
