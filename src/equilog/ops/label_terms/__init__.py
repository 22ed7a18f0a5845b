"""The positive and negative sums of pools of yes/no labels, of any inner term: a label is a set of two classes."""

import torch
from torch import Tensor

from equilog.ops import dispatch
from equilog.ops.dtypes import compute_dtype
from equilog.ops.label_terms import chunked, reference
from equilog.ops.label_terms.reference import as_two_classes, shares_of
from equilog.ops.soft_odds import pooled_sums
from equilog.ops.soft_odds.inner_terms import TERMS

__all__ = ["as_two_classes", "pooled_label_residual", "pooled_label_terms", "shares_of"]


def pooled_label_terms(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    inner: str,
    pool_size: int,
    with_residual: bool = False,
    scale: float = 1.0,
    ids: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return the logs of each pool's positive and negative sum.

    Args:
        logits: (n,) of any floating type.
        target: (n,) in [0, 1], of any type.
        weight: (n,) in the type to compute in, 0 where the label is left out, which may hold anything; None for 1.
        inner: the inner term, as of `pooled_class_log_odds`.
        pool_size: consecutive labels a pool; the last may be short. With ids, the number of pools.
        with_residual: whether to sum what the best scores leave too.
        scale: factor > 0 on the logits.
        ids: (n,) int64, the pool of each label; None where pools are consecutive.

    Returns:
        The log sums (P, 2), and `pooled_label_residual` (P, 2) or None.
    """
    return _pooled_label_terms(logits, target, weight, inner, pool_size, with_residual, scale, ids)


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


def _is_bare(logits: Tensor, target: Tensor, weight: Tensor | None) -> bool:
    return logits.numel() > 0 and not dispatch.learns(target, weight)


def _is_for_triton(
    logits: Tensor, target: Tensor, weight: Tensor | None, _: str, __: int, ___: bool, ____: float, ids: Tensor | None
) -> bool:
    return _is_bare(logits, target, weight) and dispatch.triton(logits, target, weight, ids)


def _is_for_chunks(
    logits: Tensor, target: Tensor, weight: Tensor | None, _: str, __: int, ___: bool, ____: float, ids: Tensor | None
) -> bool:
    # The terms are made once more for the gradient, which takes half as long again, and much less memory.
    is_bare = ids is None and dispatch.is_many(logits) and _is_bare(logits, target, weight)
    return is_bare and dispatch.chunked(logits, target, weight)


def _by_triton(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    inner: str,
    pool_size: int,
    with_residual: bool,
    scale: float,
    ids: Tensor | None,
) -> Result:
    from equilog.ops.label_sums import triton

    return triton.label_log_sums(logits, target, weight, pool_size, scale, inner, with_residual, ids)


def _by_chunks(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    inner: str,
    pool_size: int,
    with_residual: bool,
    scale: float,
    _: Tensor | None,
) -> Result:
    residual = pooled_label_residual(logits, target, weight, inner, pool_size) if with_residual else None
    return chunked.pooled_label_terms(logits, target, weight, inner, pool_size, scale), residual


def _by_formula(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    inner: str,
    pool_size: int,
    with_residual: bool,
    scale: float,
    ids: Tensor | None,
) -> Result:
    residual = pooled_label_residual(logits, target, weight, inner, pool_size, ids) if with_residual else None
    return reference.pooled_label_terms(logits, target, weight, inner, pool_size, scale, ids), residual


_pooled_label_terms = dispatch.Operation(
    "pooled_label_terms",
    ("triton", _is_for_triton, _by_triton),
    ("chunked", _is_for_chunks, _by_chunks),
    reference=_by_formula,
)
