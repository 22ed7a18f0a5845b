"""The loss of class balance with index targets: sum_j weight_j log(1 + the summed odds against j) of each pool."""

import torch
from torch import Tensor

from equilog.ops import dispatch
from equilog.ops.dtypes import compute_dtype
from equilog.ops.index_logs import native, reference
from equilog.ops.index_logs.native import Look, NotPlainError
from equilog.ops.sharded import is_sharded
from equilog.ops.units import Units

__all__ = [
    "Look",
    "NotPlainError",
    "mean_of_index_logs",
    "pooled_index_logs",
    "takes_ignored",
    "takes_index_logs",
    "takes_look",
]


def pooled_index_logs(
    logits: Tensor,
    index: Tensor,
    pool_size: int,
    *,
    log_weight: Tensor | None = None,
    shift: Tensor | None = None,
    scale: float = 1.0,
    class_weight: Tensor | None = None,
    units: Units | None = None,
) -> Tensor:
    """Return the logs of each pool of consecutive sets, added up (P,), or their mean.

    Args:
        logits: (n, C) of any floating type and strides.
        index: (n,) int64, 0..C-1.
        pool_size: sets a pool; the last may be short.
        log_weight: (n,) log of the weight of each set, minus infinity where it is left out; None where all are 1.
        shift: (C,) added to the logits, in the type to compute in, or None.
        scale: factor > 0 on what comes of that.
        class_weight: (C,) factor on the log of each class, or None.
        units: what the mean divides by, or None for the value of each pool.

    Returns:
        Nats, float64 for float64 logits, else float32.
    """
    return _pooled_index_logs(logits, index, log_weight, shift, class_weight, pool_size, scale, units, None)


def mean_of_index_logs(
    logits: Tensor,
    index: Tensor,
    pool_size: int,
    *,
    shift: Tensor | None,
    scale: float,
    units: Units | None,
    look: Look,
) -> Tensor:
    """Return the mean of the logs of sets that all weigh the same, where `takes_look` or `takes_ignored` says so.

    units: what the mean divides by; None, where `takes_ignored`, for the number of sets that are not ignored.
    look: to look at the indices, and count them. NotPlainError where they are not what they should be, unless
        `takes_ignored`, which takes any.
    """
    if units is None:
        from equilog.ops.index_logs import triton

        return triton.mean_of_index_logs(logits, index, shift, pool_size, scale, look)
    return native.pooled_index_logs(logits, index, None, shift, None, pool_size, scale, units, look)


def takes_index_logs(
    logits: Tensor,
    index: Tensor,
    log_weight: Tensor | None = None,
    shift: Tensor | None = None,
    class_weight: Tensor | None = None,
) -> bool:
    """Tell whether `pooled_index_logs` has another way than its formula, which is slower than its parts."""
    return _pooled_index_logs.way(logits, index, log_weight, shift, class_weight, 1, 1.0, None, None) is not None


def takes_look(logits: Tensor, index: Tensor) -> bool:
    """Tell whether `mean_of_index_logs` takes these, if none is ignored."""
    return dispatch.allows("native") and _is_for_native(logits, index, None, None, None)


def takes_ignored(logits: Tensor, index: Tensor) -> bool:
    """Tell whether `mean_of_index_logs` takes these, ignored ones among them, of which nobody knows."""
    return dispatch.allows("triton") and _is_for_triton(logits, index, None, None, None)


def _is_for_native(
    logits: Tensor,
    index: Tensor,
    log_weight: Tensor | None,
    shift: Tensor | None,
    class_weight: Tensor | None,
    *_: object,
) -> bool:
    return (
        compute_dtype(logits) == torch.float32
        and not dispatch.is_compiled()
        and dispatch.native(logits, index, log_weight, shift, class_weight)
        and not dispatch.learns(log_weight, shift, class_weight)
        and logits.shape[0] > 0
    )


def _is_for_triton(
    logits: Tensor,
    index: Tensor,
    log_weight: Tensor | None,
    shift: Tensor | None,
    class_weight: Tensor | None,
    *_: object,
) -> bool:
    return (
        dispatch.triton(logits, index, log_weight, shift, class_weight)
        and not is_sharded(logits)
        and not dispatch.learns(log_weight, shift, class_weight)
        and logits.shape[0] > 0
    )


def _by_triton(
    logits: Tensor,
    index: Tensor,
    log_weight: Tensor | None,
    shift: Tensor | None,
    class_weight: Tensor | None,
    pool_size: int,
    scale: float,
    units: Units | None,
    look: Look | None,  # noqa: ARG001
) -> Tensor:
    from equilog.ops.index_logs import triton

    return triton.pooled_index_logs(logits, index, log_weight, shift, class_weight, pool_size, scale, units)


_pooled_index_logs = dispatch.Operation(
    "pooled_index_logs",
    ("triton", _is_for_triton, _by_triton),
    ("native", _is_for_native, native.pooled_index_logs),
    reference=reference.pooled_index_logs,
)
