"""Which class pairs share a log.

In a set with target t the ordered pair (j, k) has the pairwise term t_j exp(z_k - z_j). Every balance is a partition of
these pairs, j != k, into groups, with one log per group and pool:

    "class"   one group per class j, all its pairwise terms together: the odds against it
    "pair"    one group per ordered pair
    blocks    one group per ordered pair of blocks of classes; single-class blocks are "pair", one block is "none"
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from equilog.core import sparse_groups
from equilog.core.inner import Inner, inner_of, log_odds_of_index
from equilog.core.pools import Pools
from equilog.core.sparse_groups import Groups
from equilog.inputs.classes import Sets, Targets
from equilog.inputs.options import ClassOptions
from equilog.ops import (
    Units,
    block_log_terms,
    class_log_odds,
    log_sum_exp,
    log_sum_exp_by,
    log_weighted,
    pair_log_terms,
    pooled_class_log_odds,
    pooled_index_logs,
    pooled_pair_log_sums,
    pooled_sums,
    takes_class_log_odds,
    takes_index_logs,
)


@dataclass(frozen=True)
class LogTerms:
    """The log terms of each set, laid out so that pooling sums each group.

    Row i of values (n, K) belongs to slot[i] of `slots` slots of its pool; slot and column together are the group.
    With index targets one slot per class stands for what a dense table would be mostly empty for.
    """

    values: Tensor
    slot: Tensor | None
    slots: int

    def pooled(self, pools: Pools, log_weight: Tensor) -> Tensor:
        """Return the log of the summed terms per pool and group, (P, slots * K)."""
        terms = self.values + log_weight[:, None]
        if self.slot is None:
            return pools.log_sums(terms)
        columns = terms.shape[1]
        terms = terms.squeeze(1) if columns == 1 else terms  # several times as fast as a table of one column
        table = log_sum_exp_by(terms, pools.slots(self.slot, self.slots), pools.count * self.slots)
        return table.reshape(pools.count, self.slots * columns)

    def sums(self, pools: Pools, log_weight: Tensor) -> "GroupSums":
        """Return the same as few sums a pool and their groups where that is less, else as it is, without groups."""
        if self.slot is None or not pools.sets or not sparse_groups.are_fewer(pools, self.slots, self.values):
            return GroupSums(self.pooled(pools, log_weight))
        terms = self.values + log_weight[:, None]
        return GroupSums(*sparse_groups.log_sums(terms, pools, self.slot, self.slots))


@dataclass(frozen=True)
class GroupSums:
    """What a grouping makes of the sets of each pool."""

    log_sums: Tensor
    """(P, G) log of the summed terms of each group, or (P, K) of those in `groups`."""
    groups: Groups | None = None
    """The groups of the sums where they are not all G."""
    residual: Tensor | None = None
    """(P, C) R, the terms summed at the best scores, for soft targets that are compensated, else None."""


@dataclass(frozen=True)
class ClassBalance:
    """One log per class: the inner terms of its sets, such as the odds against it."""

    classes: int
    inner: Inner

    name = "class"

    @property
    def group_count(self) -> int:
        """G, the number of logs of a pool."""
        return self.classes

    @property
    def by_index(self) -> bool:
        """Whether a set with an index target needs only the odds against its class."""
        return not self.inner.separate

    @property
    def logs_per_set(self) -> int | Tensor:
        """How many logs a set with an index target is in."""
        return 1

    def log_terms(self, sets: Sets) -> LogTerms:
        """Return the log terms of the index target's class, or of every class with its target's share."""
        if sets.index is None:
            return LogTerms(self.inner.log_of_soft(class_log_odds(sets.scores()), sets.probs), None, 1)
        if self.inner.separate:
            return LogTerms(self.inner.log_of_index(sets), None, 1)
        return LogTerms(self.inner.log_of_index(sets)[:, None], sets.index, self.classes)

    def sums(self, sets: Sets, pools: Pools, compensated: bool) -> GroupSums:
        """Return the log of the summed terms per pool and class, without a table of them where it can."""
        inner, soft = self.inner.name, sets.index is None
        compensated = compensated and soft and not self.inner.separate
        if (soft or self.inner.separate) and pools.sets:
            shift, (size, ids) = sets.shift, pools.partition
            weight = sets.log_weight if sets.usable is sets.kept else sets.blanked(sets.log_weight, -torch.inf)
            tables = sets.logits, sets.target, weight
            has_formula = soft and inner == "odds" and pools.consecutive
            if has_formula or takes_class_log_odds(*tables, shift, ids, inner):
                log_sums, residual = pooled_class_log_odds(
                    *tables, size, compensated, shift, sets.scale, inner, sets.smoothing, ids
                )
                return GroupSums(log_sums, residual=residual)
        sets = sets.with_probs()
        sums = self.log_terms(sets).sums(pools, sets.log_weight)
        return replace(sums, residual=self._residual(sets, pools)) if compensated else sums

    def index_logs(
        self, sets: Sets, pools: Pools, class_weight: Tensor | None
    ) -> Callable[[Units | None], Tensor] | None:
        """Return what gives the loss of each pool (P,), or their mean, at once; None where the sums come first."""
        index = sets.index
        if index is None or self.inner.gentle or not pools.consecutive:
            return None
        all_usable = sets.usable is sets.kept
        weight = sets.log_weight_if_any if all_usable else sets.blanked(sets.log_weight, -torch.inf)
        if not takes_index_logs(sets.logits, index, weight, sets.shift, class_weight):
            return None
        return lambda units: pooled_index_logs(
            sets.logits,
            index,
            pools.size,
            log_weight=weight,
            shift=sets.shift,
            scale=sets.scale,
            class_weight=class_weight,
            units=units,
        )

    def group_weight(self, weight: Tensor) -> Tensor:
        """Return the weight of each group (G,) from the weight of each class (C,): a group is a class."""
        return weight

    def _residual(self, sets: Sets, pools: Pools) -> Tensor:
        """Return R (P, C), each class's terms summed at the best scores; no gradient.

        The log divides each class's gradient by 1 + R_j; where the R_j differ so do the divisors, and the gradients
        that cancelled within a set no longer do. Weights 1 + R_j, or offsets that bring every R_j to the largest, make
        the divisors equal again. There is nothing to undo for index targets, which have R = 0, and separate terms.
        """
        return pooled_sums(self.inner.residual, sets.probs, sets.log_weight, *pools.partition)


@dataclass(frozen=True)
class BlockBalance:
    """One log per ordered pair of blocks of classes, and one per block for the pairs inside it."""

    block: Tensor
    """(C,) int64, the block of each class, 0..count-1."""
    count: int

    name: str
    """The balance in words, by which masses of the same one are known."""

    members: tuple[Tensor | slice, ...] | None = ()
    """The classes of each block, () where every block is one class, None where that cannot be read while compiling."""

    @property
    def group_count(self) -> int:
        """G, the number of logs of a pool."""
        return self.count**2

    @property
    def by_index(self) -> bool:
        """Whether a set with an index target needs only the odds against its class."""
        return self.count == 1

    @property
    def logs_per_set(self) -> int | Tensor:
        """How many logs a set with an index target is in: one per block, but for its own where all are single."""
        if self.members is None:
            blocks = (self.block == torch.arange(self.count, device=self.block.device)).sum()
            return blocks - (blocks == self.count).long()
        return self.count if self.members else max(self.count - 1, 1)

    def log_terms(self, sets: Sets) -> LogTerms:
        """Return, for each ordered pair of blocks (I, J), log sum of t_j exp(z_k - z_j) over j in I, k in J, k != j."""
        if sets.index is not None and self.count == 1:
            return LogTerms(log_odds_of_index(sets)[:, None], None, 1)
        z, sets = sets.scores(), sets.with_probs()
        if sets.index is not None:
            terms = self._log_total(pair_log_terms(z, sets.index))
            return LogTerms(terms, self.block[sets.index], self.count)
        inside = self._log_inside(z, sets.probs)
        if self.count == 1:
            return LogTerms(inside, None, 1)  # one block of all classes: there is no between
        wronged = self._log_total(log_weighted(-z, sets.probs))
        # Finite, so that a block with no class left takes nothing from the infinity of a target at minus infinity.
        taking = self._log_total(z).clamp(min=torch.finfo(z.dtype).min)
        between = wronged[:, :, None] + taking[:, None, :]
        same = torch.eye(self.count, dtype=torch.bool, device=z.device)
        return LogTerms(torch.where(same, inside[:, :, None], between).flatten(1), None, 1)

    def sums(self, sets: Sets, pools: Pools, compensated: bool) -> GroupSums:  # noqa: ARG002 - it needs no compensation
        """Return the log of the summed terms per pool and group."""
        single, dense = self.members == (), not sparse_groups.are_worth_comparing(pools, self.count)
        if sets.index is not None and single and dense and pools.sets:
            weight = sets.blanked(sets.log_weight, -torch.inf)  # a set of weight 0 is not looked at
            size, ids = pools.partition
            args = sets.logits, sets.index, weight, size, sets.shift, sets.scale, ids
            return GroupSums(pooled_pair_log_sums(*args))
        if sets.index is not None and self.members and self.count > 1:
            weight = sets.blanked(sets.log_weight, -torch.inf)
            terms = block_log_terms(sets.logits, sets.index, weight, self.block, self.count, sets.shift, sets.scale)
            weighed = LogTerms(terms, self.block[sets.index], self.count)
            return weighed.sums(pools, torch.zeros_like(weight))
        return self.log_terms(sets).sums(pools, sets.log_weight)

    def index_logs(self, sets: Sets, pools: Pools, class_weight: Tensor | None) -> None:
        """Return None: the sums of the pools come first."""

    def group_weight(self, weight: Tensor) -> Tensor:
        """Return the weight of class j for every pair (j, k); blocks of one class only."""
        return weight[:, None].expand(self.count, self.count).reshape(-1)

    def _log_inside(self, z: Tensor, probs: Tensor) -> Tensor:
        """(n, C) -> (n, B): log of the terms between the classes of each block."""
        if self.members is None:
            same = (self.block[:, None] == self.block) & ~torch.eye(len(self.block), dtype=torch.bool, device=z.device)
            rivals = log_sum_exp(torch.where(same, z[:, None, :], -torch.inf)).squeeze(2)
            return self._log_total(log_weighted(rivals - z, probs))
        if not self.members:
            return z.masked_fill(torch.ones_like(z, dtype=torch.bool), -torch.inf)  # which has a gradient: 0
        inside = [log_weighted(class_log_odds(z[:, block]), probs[:, block]) for block in self.members]
        return torch.cat([log_sum_exp(terms) for terms in inside], 1)

    def _log_total(self, values: Tensor) -> Tensor:
        """(n, C) -> (n, B): log-sum-exp over the classes of each block."""
        if self.count == values.shape[1] and self.members == ():
            return values
        return log_sum_exp_by(values.T, self.block, self.count).T


Grouping = ClassBalance | BlockBalance
"""A partition of the ordered class pairs."""


def as_grouping(options: ClassOptions, classes: int, device: torch.device) -> Grouping:
    """Return the grouping that the balance of these options stands for, with their inner term."""
    where, balance, inner = options.where, options.balance, inner_of(options)
    by_class = isinstance(balance, ClassBalance) or (isinstance(balance, str) and balance == "class")
    if inner.name != "odds" and not by_class:
        raise ValueError(
            f'{where}: inner {inner.name!r} has one log per class; use balance "class", or inner "odds". Got '
            f"{balance if isinstance(balance, str) else 'blocks of classes'!r}."
        )
    if isinstance(balance, BlockBalance):
        members = balance.members and tuple(m if isinstance(m, slice) else m.to(device) for m in balance.members)
        return replace(balance, block=balance.block.to(device), members=members)
    if isinstance(balance, Tensor):
        return _blocks(where, balance, classes, device)
    if balance == "class":
        return ClassBalance(classes, inner)
    if balance == "pair":
        return BlockBalance(torch.arange(classes, device=device), classes, "pair")
    if balance == "none":
        return BlockBalance(torch.zeros(classes, dtype=torch.int64, device=device), 1, "none", (slice(None),))
    raise ValueError(f'{where}: balance must be "class", "pair", "none" or a ({classes},) tensor; got {balance!r}.')


def _blocks(where: str, balance: Tensor, classes: int, device: torch.device) -> BlockBalance:
    if balance.is_floating_point() or balance.shape != (classes,):
        raise ValueError(
            f"{where}: a balance tensor must hold the block of each class, ({classes},) integers; "
            f"got {tuple(balance.shape)} {balance.dtype}."
        )
    balance = balance.to(device)
    order = torch.arange(classes, device=device)
    if torch.compiler.is_compiling():
        # How many blocks there are cannot be read here: each is numbered by its first class, and some have no class.
        first = torch.where(balance[:, None] == balance, order, classes).amin(1)
        return BlockBalance(first, classes, "blocks", None)
    ids, block = torch.unique(balance, return_inverse=True)
    if len(ids) == classes:
        return BlockBalance(order, classes, "pair")
    members = tuple((block == number).nonzero().squeeze(1) for number in range(len(ids)))
    return BlockBalance(block, len(ids), f"blocks {[int(number) for number in block]}", members)


def index_log_terms(log_odds: Tensor, targets: Targets) -> LogTerms:
    """Return the terms of class balance from the log odds (n,) against each class index, however these were come by."""
    assert targets.index is not None
    return LogTerms(log_odds[:, None], targets.index, targets.classes)
