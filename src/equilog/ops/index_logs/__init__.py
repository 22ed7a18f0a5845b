"""The loss of class balance with index targets: sum_j weight_j log(1 + the summed odds against j) of each pool."""

import torch
from torch import Tensor

from equilog.ops import dispatch
from equilog.ops.dtypes import compute_dtype
from equilog.ops.index_logs import native
from equilog.ops.index_logs.native import Look, NotPlainError
from equilog.ops.units import Units

__all__ = ["Look", "NotPlainError", "pooled_index_logs", "takes_index_logs"]


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
    look: Look | None = None,
) -> Tensor:
    """Return the logs of each pool of consecutive sets, added up (P,), or their mean, where `takes_index_logs` says so.

    Args:
        logits: (n, C) of any floating type and strides.
        index: (n,) int64, 0..C-1.
        pool_size: sets a pool; the last may be short.
        log_weight: (n,) log of the weight of each set, minus infinity where it is left out; None where all are 1.
        shift: (C,) added to the logits, in the type to compute in, or None.
        scale: factor > 0 on what comes of that.
        class_weight: (C,) factor on the log of each class, or None.
        units: what the mean divides by, or None for the value of each pool.
        look: to look at the indices first, and count them; NotPlainError where they are not what they should be.

    Returns:
        Nats, float64 for float64 logits, else float32.
    """
    return native.pooled_index_logs(logits, index, log_weight, shift, class_weight, pool_size, scale, units, look)


def takes_index_logs(logits: Tensor, *others: Tensor | None) -> bool:
    """Tell whether `pooled_index_logs` is one pass over the logits, and not more than its parts are by themselves."""
    return (
        dispatch.allows("native")
        and compute_dtype(logits) == torch.float32
        and not dispatch.is_compiled()
        and dispatch.native(logits, *others)
        and not dispatch.learns(*others)
        and logits.shape[0] > 0
    )
