"""Which sets share a log."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from equilog.inputs.options import Options
from equilog.inputs.values import least_and_most, value_per_set
from equilog.ops import log_sum_exp, log_sum_exp_by, precise

_SPARSE = 4
"""Pool ids that reach this many times the number of sets are numbered anew, so that no memory is made for the gaps."""


@dataclass(frozen=True)
class Pools:
    """The pool of each set."""

    count: int
    sets: int
    """n."""
    positions: int
    """Sets of one sample."""
    device: torch.device
    size: int = 0
    """Sets a pool where these are consecutive, the last pool with what is over; 0 where there are ids."""
    chosen_ids: Tensor | None = None
    """(n,) int64 in 0..count-1, where the pools are not consecutive sets; or (N,) where they are of whole samples."""
    names: Tensor | None = None
    """(count,) the caller's ids of the pools, where they had gaps too large to keep; rising."""
    ragged: bool = False
    """Whether the last pool may be short."""
    apart: bool = False
    """Whether a pool of one set was asked for (not just came out), so that a value a pool is a value a set."""

    @property
    def consecutive(self) -> bool:
        """Whether the pools are `size` sets in a row."""
        return self.chosen_ids is None

    @property
    def sample_ids(self) -> Tensor | None:
        """(N,) int64, the pool of each sample where ids were of whole samples, else None."""
        return self.chosen_ids if self.chosen_ids is not None and len(self.chosen_ids) != self.sets else None

    @property
    def ids(self) -> Tensor:
        """(n,) int64, the pool of each set; made only where it is needed, since it is twice the size of the sets."""
        if self.sample_ids is not None:
            return self.sample_ids.repeat_interleave(self.positions)
        if self.chosen_ids is not None:
            return self.chosen_ids
        return quotient(self.sets, self.size, self.device)

    @property
    def partition(self) -> tuple[int, Tensor | None]:
        """How operations take the pools: by the sets of each, or by how many there are and their ids (n,)."""
        # Of no sets the size does not tell how many pools there are.
        return (self.size, None) if self.consecutive and self.sets else (self.count, self.ids)

    def slots(self, slot: Tensor, slots: int) -> Tensor:
        """Return the number (n,) of each set's slot among all the pools', 0..count*slots-1, from that in its pool."""
        return slot if self.count == 1 else self.ids * slots + slot

    def log_sums(self, log_terms: Tensor) -> Tensor:
        """Return the log of the sum of exp(log_terms) per pool and column, (P, K), from (n, K)."""
        if self.chosen_ids is not None:
            return log_sum_exp_by(log_terms, self.ids, self.count)
        return log_sum_exp(self.side_by_side(log_terms, -torch.inf), 1).squeeze(1)

    def sums(self, values: Tensor) -> Tensor:
        """Return the sums (P,) of values (n,) over each pool's sets."""
        if self.chosen_ids is None:
            return self.side_by_side(values[:, None], 0.0).sum((1, 2))
        return values.new_zeros(self.count).index_add(0, self.ids, values)

    def side_by_side(self, values: Tensor, padding: float) -> Tensor:
        """(n, K) -> (P, size, K) for consecutive pools, a short last one filled up with the padding."""
        if self.ragged:
            missing = self.count * self.size - values.shape[0]
            if torch.compiler.is_compiling() or missing:  # compiled, the question would be asked anew for each size
                values = F.pad(values, (0, 0, 0, missing), value=padding)
        return values.reshape(self.count, self.size, values.shape[1])

    def named(self, values: Tensor) -> Tensor:
        """Return one value a pool as the caller numbers the pools, 0 where there is none, from values (count,)."""
        if self.names is None:
            return values
        return values.new_zeros(int(self.names[-1]) + 1).index_put((self.names,), values)


def as_pools(options: Options, shape: torch.Size, device: torch.device, *, samples: int | None = None) -> Pools:
    """Return the pools of sets of this shape: "sample", "batch", q consecutive sets, or a tensor of ids."""
    pool, n = options.pool, shape.numel()
    if samples is None:
        samples = shape[0] if shape else 1
    positions = n // samples if samples else math.prod(shape[1:])
    if pool is None:
        pool = "sample" if len(shape) > 1 else "batch"
    if isinstance(pool, Tensor):
        return _pools_of_ids(options, pool, shape, positions, device)
    if isinstance(pool, int) and not isinstance(pool, bool) and pool >= 1:
        return Pools(-(-n // pool), n, positions, device, size=pool, ragged=True, apart=pool == 1)
    if pool == "batch":
        return Pools(1, n, positions, device, size=n)
    if pool == "sample":
        return Pools(samples, n, positions, device, size=positions)
    raise ValueError(
        f'{options.where}: pool must be "sample", "batch", a number of sets >= 1, a tensor of pool ids, or None; got '
        f"{pool!r}."
    )


def spans_parts(pool: object, shape: torch.Size) -> bool:
    """Tell whether one pool holds all sets of the call, and so of all calls of a step."""
    return (isinstance(pool, str) and pool == "batch") or (pool is None and len(shape) < 2)


def quotient(count: int, divisor: int, device: torch.device) -> Tensor:
    """Return i // divisor of each i below count."""
    return divided(torch.arange(count, device=device), max(divisor, 1))


def divided(numbers: Tensor, divisor: int) -> Tensor:
    """Return numbers // divisor of whole numbers, 0 or more."""
    if torch.compiler.is_compiling():
        # Not by integers: where the range is dynamic, torch's compiler (2.13) takes it for a multiple of the divisor.
        # Exact: no quotient is nearer to a whole number than half a unit, more than float64 rounds.
        return ((numbers.to(precise(numbers.device)) + 0.5) / divisor).floor().long()
    return numbers // divisor


def _pools_of_ids(options: Options, pool: Tensor, shape: torch.Size, positions: int, device: torch.device) -> Pools:
    if pool.is_floating_point() or pool.dtype == torch.bool:
        raise TypeError(
            f"{options.where}: a tensor of pool ids must hold integers, not {pool.dtype}; call pool.long()."
        )
    n = shape.numel()
    of_samples = len(shape) > 1 and pool.shape == shape[:1] and n > 0
    ids = pool if of_samples else value_per_set(options.where, "pool", pool, shape)
    ids = ids.to(device).long()
    bounds = least_and_most(ids, wait=True)  # makes a GPU wait, once
    if bounds is None:  # where no value can be looked at, as many pools as sets is enough
        return Pools(max(n, 1) if torch.compiler.is_compiling() else n, n, positions, device, chosen_ids=ids)
    least, most = bounds
    if least < 0:
        raise ValueError(f"{options.where}: pool ids must be 0 or more; got {least}.")
    if most < _SPARSE * n:
        return Pools(most + 1, n, positions, device, chosen_ids=ids)
    names, ids = torch.unique(ids, return_inverse=True)
    return Pools(len(names), n, positions, device, chosen_ids=ids, names=names)
