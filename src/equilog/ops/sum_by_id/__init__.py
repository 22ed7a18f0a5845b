"""The log of the sum of exponentials of the rows that share an id, or a slot of their pool."""

import torch
from torch import Tensor

from equilog.ops import dispatch
from equilog.ops.sum_by_id import native, reference


def log_sum_exp_by(values: Tensor, ids: Tensor, count: int) -> Tensor:
    """Return the log of the sum of exp(values) over the rows with one id.

    Args:
        values: (n,) or (n, K) log terms, float32 or float64.
        ids: (n,) int64, 0..count-1.
        count: number of sums.

    Returns:
        (count,) or (count, K), minus infinity where no row has the id.
    """
    if values.dim() == 2 and values.shape[1] == 1:
        return _log_sum_exp_by(values.squeeze(1), ids, count)[:, None]  # several times as fast
    return _log_sum_exp_by(values, ids, count)


def log_sum_exp_at_first(log_terms: Tensor, slot: Tensor, pool_size: int, slots: int) -> Tensor:
    """Return the same per slot of consecutive pools, with a place for each row: the first of its slot has the sum.

    Where pools are small and most slots empty, these are fewer sums than one for each slot.

    Args:
        log_terms: (n, K).
        slot: (n,) int64, 0..slots-1, the slot of each row in its pool.
        pool_size: rows a pool; the last may be short.
        slots: number of slots a pool.

    Returns:
        (P, pool_size * K), minus infinity in the places of the rows that are not the first of their slot.
    """
    return _log_sum_exp_at_first(log_terms, slot, pool_size, slots)


def finds_first(log_terms: Tensor) -> bool:
    """Tell whether `log_sum_exp_at_first` needs no comparison of the rows of a pool with each other."""
    return log_terms.shape[1] == 1 and dispatch.allows("native") and _is_for_native(log_terms)


def _is_for_native(values: Tensor, *others: Tensor) -> bool:
    return values.dtype == torch.float32 and not dispatch.is_compiled() and dispatch.native(values, *others)


def _by_triton(values: Tensor, ids: Tensor, count: int) -> Tensor:
    from equilog.ops.sum_by_id import triton

    return triton.log_sum_exp_by(values, ids, count)


_log_sum_exp_by = dispatch.Operation(
    "log_sum_exp_by",
    ("native", lambda values, ids, _: values.dim() == 1 and _is_for_native(values, ids), native.log_sum_exp_by),
    (
        "triton",
        lambda values, ids, count: values.dim() == 1 and count <= reference.FEW_SUMS and dispatch.triton(values, ids),
        _by_triton,
    ),
    ("reference", lambda values, ids, _: dispatch.is_transformed(values, ids), reference.log_sum_exp_by),
    reference=reference.log_sum_exp_by_with_gradient,
)
_log_sum_exp_at_first = dispatch.Operation(
    "log_sum_exp_at_first",
    (
        "native",
        lambda log_terms, slot, pool_size, _: (
            pool_size > 1 and log_terms.shape[1] == 1 and _is_for_native(log_terms, slot)
        ),
        native.log_sum_exp_at_first,
    ),
    reference=reference.log_sum_exp_at_first,
)
