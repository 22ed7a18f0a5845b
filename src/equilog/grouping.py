"""Which class pairs share a log.

In a set with target t, class k threatens class j with t_j exp(z_k - z_j). Every balance is a partition of the ordered
pairs (j, k), j != k, into groups, with one log per group and pool:

    "class"   one group per class j, all its threats together
    "pair"    one group per ordered pair
    blocks    one group per ordered pair of blocks of classes; single-class blocks are "pair", one block is "none"
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from equilog import occupied
from equilog.compensation import left_at_optimum
from equilog.inner import INNERS, Inner, log_odds_of_label
from equilog.kernels import are_small, log_odds_sums, log_pair_sums, log_sums, log_sums_at_first
from equilog.logspace import log_sum_exp, log_sum_exp_by
from equilog.occupied import Groups, groups_of
from equilog.odds import log_odds_against_each, log_threats_to_label, weighted_log
from equilog.pooling import Pools
from equilog.targets import Sets


@dataclass(frozen=True)
class LogThreats:
    """Log threats of each set, laid out so that pooling sums each group.

    Row i of values (n, K) belongs to slot[i] of `slots` slots of its pool; slot and column together are the group.
    With index targets one slot per class holds what a dense table would be mostly empty for.
    """

    values: Tensor
    slot: Tensor | None
    slots: int

    def pooled(self, pools: Pools, log_weight: Tensor) -> Tensor:
        """Return the log of the summed threats per pool and group, (P, slots * K)."""
        return log_sums(self.values + log_weight[:, None], pools, self.slot, self.slots)

    def occupied(self, pools: Pools, log_weight: Tensor) -> tuple[Tensor, Groups | None]:
        """Return the same as few sums a pool and their groups where that is less, else as it is, without groups."""
        if self.slot is None or not are_small(pools, self.slots, self.values):
            return self.pooled(pools, log_weight), None
        log_sums = log_sums_at_first(self.values + log_weight[:, None], pools, self.slot, self.slots)
        return log_sums, groups_of(pools, self.slot, self.slots, self.values.shape[1])


@dataclass(frozen=True)
class Sums:
    """What a grouping makes of the sets of each pool."""

    log_sums: Tensor
    """(P, G) log of the summed threats of each group, or (P, K) of those in `groups`."""
    groups: Groups | None = None
    """The groups of the sums where they are not all G."""
    at_optimum: Tensor | None = None
    """(P, C) what is left of the terms at the best scores, for soft targets that are compensated, else None."""


@dataclass(frozen=True)
class ClassBalance:
    """One log per class: its threats are the inner terms, such as the odds against it."""

    classes: int
    inner: Inner = INNERS["odds"]

    name = "class"

    @property
    def by_label(self) -> bool:
        """Whether a set with an index target needs only the odds against its label."""
        return not self.inner.separate

    def log_threats(self, sets: Sets) -> LogThreats:
        """Return the log terms of the label, or of every class with its target's share."""
        if sets.labels is None:
            assert sets.probs is not None
            return LogThreats(self.inner.log_of_each(sets.scores(), sets.probs), None, 1)
        if self.inner.separate:
            return LogThreats(self.inner.log_of_label(sets), None, 1)
        return LogThreats(self.inner.log_of_label(sets)[:, None], sets.labels, self.classes)

    def sums(self, sets: Sets, pools: Pools, compensated: bool) -> Sums:
        """Return the log of the summed threats per pool and class, without a table of them where it can."""
        if sets.probs is not None and self.inner.name == "odds":
            log_sums, left = log_odds_sums(sets.scores(), sets.probs, sets.log_weight, pools, compensated)
            return Sums(log_sums, at_optimum=left)
        log_sums, groups = self.log_threats(sets).occupied(pools, sets.log_weight)
        return Sums(log_sums, groups, left_at_optimum(sets, pools, self.inner) if compensated else None)

    def group_weight(self, weight: Tensor) -> Tensor:
        """Return the weight of each group (G,) from the weight of each class (C,): a group is a class."""
        return weight


@dataclass(frozen=True)
class BlockBalance:
    """One log per ordered pair of blocks of classes, and one per block for the pairs inside it."""

    block: Tensor
    """(C,) int64, the block of each class, 0..count-1."""
    count: int

    name: str
    """The balance in words, by which masses of the same one are known."""

    members: tuple[Tensor | slice, ...] = ()
    """The classes of each block, () where every block is one class."""

    @property
    def by_label(self) -> bool:
        """Whether a set with an index target needs only the odds against its label."""
        return self.count == 1

    def log_threats(self, sets: Sets) -> LogThreats:
        """Return, for each ordered pair of blocks (I, J), log sum of t_j exp(z_k - z_j) over j in I, k in J, k != j."""
        if sets.labels is not None and self.count == 1:
            return LogThreats(log_odds_of_label(sets)[:, None], None, 1)
        z = sets.scores()
        if sets.labels is not None:
            threats = self._log_total(log_threats_to_label(z, sets.labels))
            return LogThreats(threats, self.block[sets.labels], self.count)
        assert sets.probs is not None
        inside = self._log_inside(z, sets.probs)
        if len(self.members) == 1:
            return LogThreats(inside, None, 1)  # one block of all classes: there is no between
        threatened = self._log_total(weighted_log(-z, sets.probs))
        # Finite, so that a block with no class left takes nothing from the infinity of a target at minus infinity.
        threatening = self._log_total(z).clamp(min=torch.finfo(z.dtype).min)
        between = threatened[:, :, None] + threatening[:, None, :]
        same = torch.eye(self.count, dtype=torch.bool, device=z.device)
        return LogThreats(torch.where(same, inside[:, :, None], between).flatten(1), None, 1)

    def sums(self, sets: Sets, pools: Pools, compensated: bool) -> Sums:  # noqa: ARG002 - it needs no compensation
        """Return the log of the summed threats per pool and group."""
        if sets.labels is not None and not self.members and not occupied.are_small(pools, self.count):
            return Sums(log_pair_sums(sets, pools))
        return Sums(*self.log_threats(sets).occupied(pools, sets.log_weight))

    def group_weight(self, weight: Tensor) -> Tensor:
        """Return the weight of class j for every pair (j, k); blocks of one class only."""
        return weight[:, None].expand(self.count, self.count).reshape(-1)

    def _log_inside(self, z: Tensor, probs: Tensor) -> Tensor:
        """(n, C) -> (n, B): log of the threats between the classes of each block."""
        if not self.members:
            return torch.full_like(z, -torch.inf)
        inside = [weighted_log(log_odds_against_each(z[:, own]), probs[:, own]) for own in self.members]
        return torch.cat([log_sum_exp(threats) for threats in inside], 1)

    def _log_total(self, values: Tensor) -> Tensor:
        """(n, C) -> (n, B): log-sum-exp over the classes of each block."""
        if self.count == values.shape[1]:
            return values
        return log_sum_exp_by(values.T, self.block, self.count).T


Grouping = ClassBalance | BlockBalance
"""A partition of the ordered class pairs."""


def as_grouping(
    where: str, balance: str | Tensor | Grouping, classes: int, device: torch.device, inner: str = "odds"
) -> Grouping:
    """Return the grouping a `balance` argument names, with the inner term that `inner` names."""
    if inner not in INNERS:
        raise ValueError(f"{where}: inner must be one of {', '.join(map(repr, INNERS))}; got {inner!r}.")
    if inner != "odds" and not (isinstance(balance, ClassBalance) or (isinstance(balance, str) and balance == "class")):
        raise ValueError(
            f'{where}: inner {inner!r} has one log per class; use balance "class", or inner "odds". Got '
            f"{balance if isinstance(balance, str) else 'blocks of classes'!r}."
        )
    if isinstance(balance, ClassBalance):
        return replace(balance, inner=INNERS[inner])
    if isinstance(balance, BlockBalance):
        members = tuple(own if isinstance(own, slice) else own.to(device) for own in balance.members)
        return replace(balance, block=balance.block.to(device), members=members)
    if isinstance(balance, Tensor):
        if balance.is_floating_point() or balance.shape != (classes,):
            raise ValueError(
                f"{where}: a balance tensor must hold the block of each class, ({classes},) integers; "
                f"got {tuple(balance.shape)} {balance.dtype}."
            )
        ids, block = torch.unique(balance.to(device), return_inverse=True)
        order = torch.arange(classes, device=device)
        if len(ids) == classes:
            return BlockBalance(order, classes, "pair")
        members = tuple((block == number).nonzero().squeeze(1) for number in range(len(ids)))
        return BlockBalance(block, len(ids), f"blocks {block.tolist()}", members)
    if balance == "class":
        return ClassBalance(classes, INNERS[inner])
    if balance == "pair":
        return BlockBalance(torch.arange(classes, device=device), classes, "pair")
    if balance == "none":
        return BlockBalance(torch.zeros(classes, dtype=torch.int64, device=device), 1, "none", (slice(None),))
    raise ValueError(f'{where}: balance must be "class", "pair", "none" or a ({classes},) tensor; got {balance!r}.')
