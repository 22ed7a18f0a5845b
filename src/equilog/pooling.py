"""Which sets share a log, and the sum within each pool."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from equilog.logspace import log_sum_exp, log_sum_exp_by
from equilog.targets import per_set


@dataclass(frozen=True)
class Pools:
    """The pool of each set."""

    ids: Tensor
    """(n,) int64 in 0..count-1."""
    count: int
    size: int | None = None
    """Sets a pool where every pool is that many consecutive sets (the last one may be short), else None."""
    apart: bool = False
    """Whether a pool of one set was asked for (not just found), so that a value a pool is a value a set."""

    def log_sums(self, log_terms: Tensor, slot: Tensor | None = None, slots: int = 1) -> Tensor:
        """Return the log of the sum of exp(log_terms) per pool, slot and column, (P, slots, K), from (n, K).

        `slot` (n,) in 0..slots-1 splits each pool's sets; None puts them all in one slot.
        """
        if slot is not None:
            table = log_sum_exp_by(log_terms, self.ids * slots + slot, self.count * slots)
        elif self.size is None:
            table = log_sum_exp_by(log_terms, self.ids, self.count)
        else:
            table = log_sum_exp(self._side_by_side(log_terms, self.size, -torch.inf), 1)
        return table.reshape(self.count, slots, log_terms.shape[1])

    def sums(self, values: Tensor) -> Tensor:
        """Return the sums (P, K) of values (n, K) over each pool's sets."""
        if self.size is not None:
            return self._side_by_side(values, self.size, 0.0).sum(1)
        zeros = torch.zeros(self.count, values.shape[1], dtype=values.dtype, device=values.device)
        return zeros.index_add(0, self.ids, values)

    def nonempty(self, kept: Tensor) -> Tensor:
        """Return the number of pools that hold at least one kept set, as a 0-d tensor."""
        return (self.sums(kept.long()[:, None]) > 0).sum()

    def _side_by_side(self, values: Tensor, size: int, padding: float) -> Tensor:
        """(n, K) -> (P, size, K), a short last pool filled up with the padding."""
        missing = self.count * size - values.shape[0]
        if torch.compiler.is_compiling() or missing:  # compiled, a question of the size would be asked anew for each
            values = F.pad(values, (0, 0, 0, missing), value=padding)
        return values.reshape(self.count, size, values.shape[1])


def as_pools(where: str, pool: str | int | Tensor | None, shape: torch.Size, device: torch.device) -> Pools:
    """Return the pools of sets of this shape: "sample", "batch", q consecutive sets, or a tensor of ids."""
    n = shape.numel()
    if pool is None:
        pool = "sample" if len(shape) > 1 else "batch"
    if isinstance(pool, Tensor):
        return _given_pools(where, pool, shape, device)
    order = torch.arange(n, device=device)
    if isinstance(pool, int) and not isinstance(pool, bool) and pool >= 1:
        return Pools(order // pool, -(-n // pool), pool, apart=pool == 1)
    if pool == "batch":
        return Pools(torch.zeros_like(order), 1, n)
    if pool == "sample":
        size = shape[1:].numel()
        return Pools(order // max(size, 1), shape[0] if shape else 1, size)
    raise ValueError(
        f'{where}: pool must be "sample", "batch", a number of sets >= 1, a tensor of pool ids, or None; got {pool!r}.'
    )


def _given_pools(where: str, pool: Tensor, shape: torch.Size, device: torch.device) -> Pools:
    if pool.is_floating_point() or pool.dtype == torch.bool:
        raise TypeError(f"{where}: a tensor of pool ids must hold integers, not {pool.dtype}; call pool.long().")
    ids = per_set(where, "pool", pool, shape).to(device).long()
    as_many = Pools(ids, max(ids.shape[0], 1))  # where no value can be looked at: as many pools as sets is enough
    if torch.compiler.is_compiling():
        return as_many
    if ids.numel() == 0:
        return Pools(ids, 0)
    try:
        least, most = torch.stack(torch.aminmax(ids)).tolist()  # makes a GPU wait, once
    except RuntimeError:  # inside torch.func.vmap there is no one value
        return as_many
    if least < 0:
        raise ValueError(f"{where}: pool ids must be 0 or more; got {least}.")
    return Pools(ids, most + 1)
