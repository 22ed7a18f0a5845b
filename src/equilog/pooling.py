"""Which sets share a log, and the sum within each pool."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from equilog.logspace import log_sum_exp, log_sum_exp_by
from equilog.mass import precise
from equilog.targets import per_set


@dataclass(frozen=True)
class Pools:
    """The pool of each set."""

    count: int
    sets: int
    """n."""
    device: torch.device
    given: Tensor | None = None
    """(n,) int64 in 0..count-1, or None where the pools are `size` consecutive sets."""
    size: int = 0
    """Sets a pool, where no ids were given."""
    ragged: bool = False
    """Whether the last pool may be short."""
    apart: bool = False
    """Whether a pool of one set was asked for (not just found), so that a value a pool is a value a set."""

    @property
    def ids(self) -> Tensor:
        """(n,) int64, the pool of each set; made only where it is needed, since it is twice the size of the sets."""
        if self.given is not None:
            return self.given
        size = max(self.size, 1)
        if torch.compiler.is_compiling():
            # Not by integers: where the number of sets is dynamic, torch's compiler (2.13) takes it for a multiple of
            # the divisor. Exact: no quotient is nearer to a whole number than half a set, more than float64 rounds.
            order = torch.arange(self.sets, device=self.device, dtype=precise(self.device))
            return ((order + 0.5) / size).floor().long()
        return torch.arange(self.sets, device=self.device) // size

    def slots(self, slot: Tensor, slots: int) -> Tensor:
        """Return the number (n,) of each set's slot among all the pools', 0..count*slots-1, from that in its pool."""
        return slot if self.count == 1 else self.ids * slots + slot

    def log_sums(self, log_terms: Tensor) -> Tensor:
        """Return the log of the sum of exp(log_terms) per pool and column, (P, K), from (n, K)."""
        if self.given is not None:
            return log_sum_exp_by(log_terms, self.given, self.count)
        return log_sum_exp(self.side_by_side(log_terms, -torch.inf), 1).squeeze(1)

    def sums(self, values: Tensor) -> Tensor:
        """Return the sums (P, K) of values (n, K) over each pool's sets."""
        if self.given is None:
            return self.side_by_side(values, 0.0).sum(1)
        zeros = torch.zeros(self.count, values.shape[1], dtype=values.dtype, device=values.device)
        return zeros.index_add(0, self.given, values)

    def nonempty(self, kept: Tensor | None) -> Tensor | int:
        """Return the number of pools that hold at least one kept set (None: they all are), 0-d unless it is known."""
        if kept is None:
            if self.given is None:
                return self.count if self.sets else 0
            kept = torch.ones_like(self.given)
        if self.given is None:
            return self.side_by_side(kept[:, None], 0).any(1).sum()
        return (self.sums(kept.long()[:, None]) > 0).sum()

    def side_by_side(self, values: Tensor, padding: float) -> Tensor:
        """(n, K) -> (P, size, K) for consecutive pools, a short last one filled up with the padding."""
        if self.ragged:
            missing = self.count * self.size - values.shape[0]
            if torch.compiler.is_compiling() or missing:  # compiled, the question would be asked anew for each size
                values = F.pad(values, (0, 0, 0, missing), value=padding)
        return values.reshape(self.count, self.size, values.shape[1])


def as_pools(where: str, pool: str | int | Tensor | None, shape: torch.Size, device: torch.device) -> Pools:
    """Return the pools of sets of this shape: "sample", "batch", q consecutive sets, or a tensor of ids."""
    n = shape.numel()
    if pool is None:
        pool = "sample" if len(shape) > 1 else "batch"
    if isinstance(pool, Tensor):
        return _given_pools(where, pool, shape, device)
    if isinstance(pool, int) and not isinstance(pool, bool) and pool >= 1:
        return Pools(-(-n // pool), n, device, size=pool, ragged=True, apart=pool == 1)
    if pool == "batch":
        return Pools(1, n, device, size=n)
    if pool == "sample":
        return Pools(shape[0] if shape else 1, n, device, size=shape[1:].numel())
    raise ValueError(
        f'{where}: pool must be "sample", "batch", a number of sets >= 1, a tensor of pool ids, or None; got {pool!r}.'
    )


def _given_pools(where: str, pool: Tensor, shape: torch.Size, device: torch.device) -> Pools:
    if pool.is_floating_point() or pool.dtype == torch.bool:
        raise TypeError(f"{where}: a tensor of pool ids must hold integers, not {pool.dtype}; call pool.long().")
    ids = per_set(where, "pool", pool, shape).to(device).long()
    n = ids.shape[0]
    as_many = Pools(max(n, 1), n, device, ids)  # where no value can be looked at: as many pools as sets is enough
    if torch.compiler.is_compiling():
        return as_many
    if ids.numel() == 0:
        return Pools(0, n, device, ids)
    try:
        least, most = torch.stack(torch.aminmax(ids)).tolist()  # makes a GPU wait, once
    except RuntimeError:  # inside torch.func.vmap there is no one value
        return as_many
    if least < 0:
        raise ValueError(f"{where}: pool ids must be 0 or more; got {least}.")
    return Pools(most + 1, n, device, ids)
