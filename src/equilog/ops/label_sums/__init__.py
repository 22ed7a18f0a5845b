"""The positive and negative sums of pools of yes/no labels: v t exp(-s x) and v (1 - t) exp(s x), as logarithms."""

from collections.abc import Callable

import torch
from torch import Tensor

from equilog.ops import dispatch
from equilog.ops.dtypes import as_compute_dtype
from equilog.ops.label_sums import chunked, native, reference
from equilog.ops.label_sums.reference import PADDING

__all__ = [
    "PADDING",
    "indexed_label_log_sums",
    "is_for_native",
    "pooled_label_log_sums",
    "sorted_positives",
]

_LEAST_LABELS = 8
"""In smaller pools most of a vector of sixteen is idle, and loops over the labels of a block are as fast."""


def pooled_label_log_sums(
    logits: Tensor, target: Tensor, weight: Tensor | None, pool_size: int, scale: float = 1.0
) -> Tensor:
    """Return the logs of each pool's positive and negative sum, from a value for every label.

    Args:
        logits: (n,) of any floating type.
        target: (n,) in [0, 1], of any type.
        weight: (n,) in the type to compute in, 0 where the label is left out, which may hold anything; None for 1.
        pool_size: consecutive labels a pool; the last may be short.
        scale: factor > 0 on the logits.

    Returns:
        (P, 2): log sum v t exp(-scale x) and log sum v (1 - t) exp(scale x).
    """
    return _pooled_label_log_sums(logits, target, weight, pool_size, scale)


def indexed_label_log_sums(
    logits: Tensor, index: Tensor, weight: Tensor | None, scale: float = 1.0, shift: Tensor | None = None
) -> Tensor:
    """Return the logs of each sample's positive and negative sum, from the indices of its positives.

    Args:
        logits: (N, L) of any floating type.
        index: (N, k) int64, each positive once and in order; L where there is none.
        weight: (N, L) of any strides, as of `pooled_label_log_sums`; None for 1.
        scale: factor > 0 on the logits.
        shift: (L,) in the type to compute in, what is added to the logits before that; None for 0.

    Returns:
        (N, 2).
    """
    return _indexed_label_log_sums(logits, index, weight, scale, shift)


def sorted_positives(target: Tensor, labels: int) -> tuple[Tensor, Tensor]:
    """Return positives (N, k) in order, `labels` in place of the padding, and which samples are wrong (N,).

    A wrong sample names a label twice, or one that is not there, which is taken for padding.
    """
    return _sorted_positives(target, labels)


def _is_bare(logits: Tensor, target: Tensor, weight: Tensor | None) -> bool:
    return logits.numel() > 0 and not dispatch.learns(target, weight)


def is_for_native(
    logits: Tensor, target: Tensor, weight: Tensor | None, pool_size: int, *, eager: bool = False
) -> bool:
    """Tell whether the C++ kernels take these labels (n,) with targets (n,), or positives (P, k), and are worth it."""
    return (
        logits.dtype == torch.float32
        and (target.dim() == 2 or pool_size >= _LEAST_LABELS)
        and not (eager and (dispatch.is_compiled() or not dispatch.allows("native")))
        and _is_bare(logits, target, weight)
        and dispatch.native(logits, target, weight)
        and not dispatch.is_few(logits)
    )


def _is_for_chunks(logits: Tensor, target: Tensor, weight: Tensor | None, *_: float) -> bool:
    return _is_bare(logits, target, weight) and dispatch.chunked(logits, target, weight)


def _is_for_triton(
    logits: Tensor, target: Tensor, weight: Tensor | None, _: float, shift: Tensor | float | None
) -> bool:
    added = shift if isinstance(shift, Tensor) else None
    is_bare = _is_bare(logits, target, weight) and not dispatch.learns(added)
    return is_bare and dispatch.triton(logits, target, weight, added)


def _by_triton(logits: Tensor, target: Tensor, weight: Tensor | None, pool_size: int, scale: float) -> Tensor:
    from equilog.ops.label_sums import triton

    return triton.label_log_sums(logits, target, weight, pool_size, scale)


def _indexed_by_triton(
    logits: Tensor, index: Tensor, weight: Tensor | None, scale: float, shift: Tensor | None
) -> Tensor:
    from equilog.ops.label_sums import triton

    return triton.indexed_label_log_sums(logits, index, weight, scale, shift)


def _of_shifted(
    compute: Callable[[Tensor, Tensor, Tensor | None, float], Tensor],
) -> Callable[[Tensor, Tensor, Tensor | None, float, Tensor | None], Tensor]:
    """Return a way of logits and a shift from one of logits alone."""

    def call(logits: Tensor, index: Tensor, weight: Tensor | None, scale: float, shift: Tensor | None) -> Tensor:
        logits = logits if shift is None else as_compute_dtype(logits) + shift
        return compute(logits, index, weight, scale)

    return call


_pooled_label_log_sums = dispatch.Operation(
    "pooled_label_log_sums",
    ("triton", _is_for_triton, _by_triton),
    (
        "native",
        lambda logits, target, weight, pool_size, _: is_for_native(logits, target, weight, pool_size),
        native.label_log_sums,
    ),
    ("chunked", _is_for_chunks, chunked.label_log_sums),
    reference=reference.label_log_sums,
)
_indexed_label_log_sums = dispatch.Operation(
    "indexed_label_log_sums",
    ("triton", _is_for_triton, _indexed_by_triton),
    (
        "native",
        lambda logits, index, weight, _, shift: is_for_native(logits, index, weight, 0) and not dispatch.learns(shift),
        _of_shifted(native.indexed_label_log_sums),
    ),
    (
        "chunked",
        lambda logits, index, weight, _, shift: _is_for_chunks(logits, index, weight) and not dispatch.learns(shift),
        _of_shifted(chunked.indexed_label_log_sums),
    ),
    reference=_of_shifted(reference.indexed_label_log_sums),
)
_sorted_positives = dispatch.Operation(
    "sorted_positives",
    ("native", lambda target, _: dispatch.native(target) and not dispatch.is_few(target), native.sorted_positives),
    reference=reference.sorted_positives,
)
