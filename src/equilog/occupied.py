"""Sums of the groups that small pools meet in, where most groups would be empty: few numbers a pool, not one a group.

Each set's place in its pool holds the sum of the set's group, if no set before it is of the same one. The sets of a
pool are compared with each other, so nothing here grows with the number of groups; a pool of one set needs no
comparison.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from equilog.logspace import log_sum_exp, log_sum_exp_by
from equilog.pooling import Pools


@dataclass(frozen=True)
class Groups:
    """The groups that the sums of each pool stand for, where the pools have different ones."""

    ids: Tensor
    """(P, K) int64 in 0..count-1. A group may stand several times in a pool, all but one of its sums empty."""
    count: int
    """G."""

    def together(self, log_sums: Tensor) -> Tensor:
        """Return the log sums (G,) over all pools, from those of each, (P, K)."""
        return log_sum_exp_by(log_sums.flatten(), self.ids.flatten(), self.count)


def are_small(pools: Pools, slots: int) -> bool:
    """Tell whether to compare the sets of each pool costs less than a sum for each of its slots."""
    # A comparison takes more loops than a sum: with 21 slots, pools of 4 are no faster for it, and slower compiled.
    return pools.count > 1 and pools.given is None and 2 * pools.size**2 <= slots


def groups_of(pools: Pools, slot: Tensor, slots: int, columns: int) -> Groups:
    """Return the group of each place and column (P, size * columns) from the slot (n,) of each set.

    A group is a slot and a column: slot * columns + column.
    """
    groups = slot[:, None] * columns + torch.arange(columns, device=slot.device)
    return Groups(pools.side_by_side(groups, 0).flatten(1), slots * columns)


def log_sums_at_first(log_terms: Tensor, pools: Pools, slot: Tensor) -> Tensor:
    """Return the log of the sum of exp(log_terms) (n, K) per pool and slot (n,) at the place of its first set in it.

    (P, size * K), minus infinity in the places of the others.
    """
    terms = pools.side_by_side(log_terms, -torch.inf)
    if pools.size > 1:
        slot_of = pools.side_by_side(slot[:, None], 0)
        same = slot_of == slot_of.mT
        leads = ~same.tril(-1).any(2, keepdim=True)
        terms = log_sum_exp(torch.where((same & leads)[..., None], terms[:, None], -torch.inf), 2).squeeze(2)
    return terms.flatten(1)
