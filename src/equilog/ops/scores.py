"""Scores scale * (logits + shift), formed where they are read."""

from torch import Tensor

from equilog.ops.dtypes import as_compute_dtype
from equilog.ops.sharded import beside


def scores_of(logits: Tensor, shift: Tensor | None, scale: float) -> Tensor:
    """Return scale * (logits + shift) in the type to compute in, from logits (..., C) and a shift (C,) or None."""
    z = as_compute_dtype(logits)
    z = z if shift is None else z + beside(shift, z)
    return z if scale == 1.0 else scale * z
