"""Sets that are summed by a slot each, such as a pool by its id, cut into chunks of like size for as many programs.

The sets are put in the order of their slots. A program takes a chunk of one slot's sets, so that a common slot makes no
program longer than the others. How many chunks there are is bounded by shapes: no number is read from the device.
"""

# mypy: allow-untyped-calls, allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


class Chunks(NamedTuple):
    """Where the sets of each chunk are."""

    order: Tensor
    """(n,) the sets in the order of their slots."""
    starts: Tensor
    """(slots + 1,) where those of each slot begin."""
    first_chunks: Tensor | None
    """(slots + 1,) the first chunk of each slot; None where every slot is one chunk."""
    slot_of_chunk: Tensor | None
    """(chunks,) the slot of each chunk, `slots` of those that are left over; None where every slot is one."""
    chunks: int
    """How many chunks there may be."""


def chunks_of_slots(slot: Tensor, slots: int, most: int, *, always: bool = True) -> Chunks:
    """Return chunks of at most `most` of the sets with these slots (n,), 0..slots-1; one a slot unless `always`."""
    sorted_slots, order = slot.sort(stable=True)
    starts = torch.searchsorted(sorted_slots, torch.arange(slots + 1, device=slot.device))
    if not always:
        return Chunks(order, starts, None, None, slots)
    first_chunks = torch.zeros_like(starts)
    torch.cumsum((starts.diff() + (most - 1)) // most, 0, out=first_chunks[1:])
    chunks = slots + len(slot) // most
    slot_of_chunk = torch.searchsorted(first_chunks[1:], torch.arange(chunks, device=slot.device), right=True)
    return Chunks(order, starts, first_chunks, slot_of_chunk, chunks)


@triton.jit
def chunk_at(chunk, starts, first_chunks, slot_of_chunk, slots, most):
    """Return the slot of a chunk, and where in the order its sets begin and end."""
    if slot_of_chunk is not None:
        slot = tl.load(slot_of_chunk + chunk)
        is_chunk = slot < slots
        begin = tl.load(starts + slot, mask=is_chunk, other=0)
        begin += (chunk - tl.load(first_chunks + slot, mask=is_chunk, other=0)) * most
        end = tl.minimum(begin + most, tl.load(starts + slot + 1, mask=is_chunk, other=0))
    else:
        slot = chunk
        begin, end = tl.load(starts + slot), tl.load(starts + slot + 1)
    return slot, begin, end
