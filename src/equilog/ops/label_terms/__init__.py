"""The positive and negative sums of pools of yes/no labels, of any inner term: a label is a set of two classes."""

import torch
from torch import Tensor

from equilog.ops import dispatch
from equilog.ops.dtypes import compute_dtype
from equilog.ops.label_terms import chunked, reference
from equilog.ops.label_terms.reference import as_two_classes, in_order, shares_of
from equilog.ops.label_terms.sums import LabelSums
from equilog.ops.soft_odds import pooled_sums
from equilog.ops.soft_odds.inner_terms import TERMS

__all__ = [
    "LabelSums",
    "as_two_classes",
    "in_order",
    "pooled_label_residual",
    "pooled_label_terms",
    "reads_in_place",
]


def pooled_label_terms(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    asked: LabelSums,
    shift: Tensor | None = None,
    ids: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return the logs of each pool's positive and negative sum.

    Args:
        logits: (n,) of any floating type.
        target: (n,) in [0, 1], of any type.
        weight: (n,) in the type to compute in, 0 where the label is left out, which may hold anything; None for 1.
        asked: the pools, the inner term (as of `pooled_class_log_odds`), and the factor > 0 on the logits.
        shift: (L,) in the type to compute in, what is added to the logits of each of L labels; None for 0. Label i,
            pool by pool, has the number i // span modulo L.
        ids: (n,) int64, the pool of each label; None where pools are consecutive or side by side.

    Returns:
        The log sums (P, 2), and `pooled_label_residual` (P, 2) or None.
    """
    return _pooled_label_terms(logits, target, weight, shift, ids, asked)


def reads_in_place(logits: Tensor, shift: Tensor | None = None) -> bool:
    """Tell whether to leave a shift, and the order of labels, to `pooled_label_terms`: whether that makes no table."""
    return (
        logits.numel() > 0
        and not dispatch.learns(shift)
        and dispatch.triton(logits, shift)
        and dispatch.allows("triton")
    )


def pooled_label_residual(
    logits: Tensor, target: Tensor, weight: Tensor | None, inner: str, pool_size: int, ids: Tensor | None = None
) -> Tensor:
    """Return what the best scores leave of each pool's positive and negative sum (P, 2); no gradient.

    The logits (n,) give the type alone.
    """
    target = target if weight is None else torch.where(weight == 0, 0.0, target)
    probs, log_weight = shares_of(target.to(compute_dtype(logits)), weight)
    return pooled_sums(TERMS[inner][1], probs, log_weight, pool_size, ids)


Result = tuple[Tensor, Tensor | None]


def _is_bare(logits: Tensor, target: Tensor, weight: Tensor | None, shift: Tensor | None) -> bool:
    return logits.numel() > 0 and not dispatch.learns(target, weight, shift)


def _is_for_triton(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    shift: Tensor | None,
    ids: Tensor | None,
    _: LabelSums,
) -> bool:
    return _is_bare(logits, target, weight, shift) and dispatch.triton(logits, target, weight, shift, ids)


def _is_for_chunks(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    shift: Tensor | None,
    ids: Tensor | None,
    _: LabelSums,
) -> bool:
    # The terms are made once more for the gradient, which takes half as long again, and much less memory.
    is_bare = ids is None and dispatch.is_many(logits) and _is_bare(logits, target, weight, shift)
    return is_bare and dispatch.chunked(logits, target, weight)


def _by_triton(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    shift: Tensor | None,
    ids: Tensor | None,
    asked: LabelSums,
) -> Result:
    from equilog.ops.label_sums import triton

    return triton.label_terms_sums(logits, target, weight, shift, ids, asked)


def _by_chunks(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    shift: Tensor | None,
    _: Tensor | None,
    asked: LabelSums,
) -> Result:
    labels = in_order(logits, target, weight, shift, asked.span, asked.columns)
    residual = pooled_label_residual(*labels, asked.inner, asked.pool_size) if asked.with_residual else None
    return chunked.pooled_label_terms(*labels, asked.inner, asked.pool_size, asked.scale), residual


def _by_formula(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    shift: Tensor | None,
    ids: Tensor | None,
    asked: LabelSums,
) -> Result:
    labels = in_order(logits, target, weight, shift, asked.span, asked.columns)
    residual = pooled_label_residual(*labels, asked.inner, asked.pool_size, ids) if asked.with_residual else None
    return reference.pooled_label_terms(*labels, asked.inner, asked.pool_size, asked.scale, ids), residual


_pooled_label_terms = dispatch.Operation(
    "pooled_label_terms",
    ("triton", _is_for_triton, _by_triton),
    ("chunked", _is_for_chunks, _by_chunks),
    reference=_by_formula,
)
