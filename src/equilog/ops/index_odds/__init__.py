"""The log odds against the class that each set names: log sum_{k != j} exp(z_k - z_j) for index j."""

import torch
from torch import Tensor

from equilog.ops import dispatch
from equilog.ops.dtypes import compute_dtype
from equilog.ops.index_odds import chunked, dtensor, native, reference
from equilog.ops.scores import scores_of
from equilog.ops.sharded import is_sharded


def index_log_odds(logits: Tensor, index: Tensor, shift: Tensor | None = None, scale: float = 1.0) -> Tensor:
    """Return the log odds (n,) against each set's class, of scores scale * (logits + shift).

    Args:
        logits: (n, C) of any floating type and strides; also a DTensor sharded over its classes.
        index: (n,) int64, 0..C-1.
        shift: (C,) in the type to compute in, or None for 0.
        scale: factor > 0.

    Returns:
        Nats, float64 for float64 logits, else float32. A set to which gradient 0 flows back gets gradient 0, whatever
        its scores, NaN included.
    """
    return _index_log_odds(logits, index, shift, scale)


def _is_for_native(logits: Tensor, index: Tensor, shift: Tensor | None, scale: float) -> bool:  # noqa: ARG001
    return (
        compute_dtype(logits) == torch.float32
        and dispatch.native(logits, index, shift)
        and not dispatch.is_few(logits)
        and not dispatch.learns(shift)
    )


def _by_triton(logits: Tensor, index: Tensor, shift: Tensor | None, scale: float) -> Tensor:
    from equilog.ops.index_odds import triton

    if dispatch.learns(shift):  # of which the kernel has no gradient
        logits, shift, scale = scores_of(logits, shift, scale), None, 1.0
    return triton.index_log_odds(logits, index, shift, scale)


_index_log_odds = dispatch.Operation(
    "index_log_odds",
    ("dtensor", lambda logits, *_: is_sharded(logits), dtensor.index_log_odds),
    ("triton", lambda logits, index, shift, _: dispatch.triton(logits, index, shift), _by_triton),
    ("native", _is_for_native, native.index_log_odds),
    ("chunked", lambda logits, index, shift, _: dispatch.chunked(logits, index, shift), chunked.index_log_odds),
    (
        "reference",
        lambda logits, index, shift, _: dispatch.is_transformed(logits, index, shift),
        reference.index_log_odds,
    ),
    reference=reference.index_log_odds_with_gradient,
)
