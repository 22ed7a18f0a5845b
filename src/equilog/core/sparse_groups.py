"""Sums of the groups that small pools meet in, where most groups would be empty: few numbers a pool, not one a group.

The place of each set in its pool holds the sum of the set's group, if no set before it is of the same one. Nothing here
grows with the number of groups; a pool of one set needs no comparison.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from equilog.core.pools import Pools
from equilog.ops import finds_first, log_sum_exp_at_first, log_sum_exp_by


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


def are_fewer(pools: Pools, slots: int, log_terms: Tensor) -> bool:
    """Tell whether a sum for each set of a pool costs less than one for each of its slots."""
    if pools.consecutive and pools.count > 1 and finds_first(log_terms):
        return pools.size < slots
    return are_worth_comparing(pools, slots)


def are_worth_comparing(pools: Pools, slots: int) -> bool:
    """Tell whether to compare the sets of each pool costs less than a sum for each of its slots."""
    # A comparison takes more loops than a sum: with 21 slots, pools of 4 are no faster for it, and slower compiled.
    return pools.count > 1 and pools.consecutive and 2 * pools.size**2 <= slots


def log_sums(log_terms: Tensor, pools: Pools, slot: Tensor, slots: int) -> tuple[Tensor, Groups]:
    """Return the log sums (P, size * K) of log terms (n, K) by slot (n,), and their groups.

    A group is a slot and a column: slot * columns + column.
    """
    columns = log_terms.shape[1]
    groups = slot[:, None] * columns + torch.arange(columns, device=slot.device)
    ids = pools.side_by_side(groups, 0).flatten(1)
    return log_sum_exp_at_first(log_terms, slot, pools.size, slots), Groups(ids, slots * columns)
