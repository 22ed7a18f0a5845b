"""Pools of `size` consecutive rows, of which the last may be short.

n rows make ceil(n / size) pools: none where there are no rows, but one where all n are to be one pool and n is 0.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from equilog.ops.dtypes import precise


def pool_count(rows: int, size: int) -> int:
    """Return the number of pools P."""
    return -(-rows // size) if size else 1


def pool_ids(rows: int, size: int, device: torch.device) -> Tensor:
    """Return the pool of each row (n,), int64."""
    if torch.compiler.is_compiling():
        # Not by integers: where the number of rows is dynamic, torch's compiler (2.13) takes it for a multiple of the
        # divisor. Exact: no quotient is nearer to a whole number than half a row, more than float64 rounds.
        order = torch.arange(rows, device=device, dtype=precise(device))
        return ((order + 0.5) / size).floor().long()
    return torch.arange(rows, device=device) // size


def slot_ids(slot: Tensor, size: int, slots: int) -> Tensor:
    """Return the number (n,) of each row's slot among those of all pools, from that in its pool."""
    return slot if len(slot) <= size else pool_ids(len(slot), size, slot.device) * slots + slot


def side_by_side(values: Tensor, size: int, padding: float) -> Tensor:
    """(n, K) -> (P, size, K), a short last pool filled up with the padding."""
    rows, columns = values.shape
    if rows == size:
        return values[None]
    missing = pool_count(rows, size) * size - rows
    if torch.compiler.is_compiling() or missing:  # compiled, the question would be asked anew for each size
        values = F.pad(values, (0, 0, 0, missing), value=padding)
    return values.reshape(-1, size, columns)
