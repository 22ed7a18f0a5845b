"""The odds against every class with their targets' shares, summed over pools, and their residual at the optimum."""

from collections.abc import Callable

import torch
from torch import Tensor

from equilog.ops import dispatch
from equilog.ops.dtypes import compute_dtype
from equilog.ops.scores import scores_of
from equilog.ops.soft_odds import chunked, native, reference
from equilog.ops.soft_odds.reference import TERMS, class_log_odds, log_of_nll, log_weighted

__all__ = [
    "TERMS",
    "class_log_odds",
    "log_of_nll",
    "log_weighted",
    "pooled_class_log_odds",
    "pooled_sums",
    "takes_inner_terms",
]


def pooled_class_log_odds(
    logits: Tensor,
    target: Tensor,
    log_weight: Tensor,
    pool_size: int,
    with_residual: bool,
    shift: Tensor | None = None,
    scale: float = 1.0,
    inner: str = "odds",
) -> tuple[Tensor, Tensor | None]:
    """Return the log of the summed odds against every class, log sum_i w_i t_ij (1/p_ij - 1), per pool.

    Or of another inner term than the odds: -t log p ("nll"), or t^t (p^-t - 1) ("power").

    Args:
        logits: (n, C) of any floating type; the scores are scale * (logits + shift).
        target: (n, C) probabilities of any floating type.
        log_weight: (n,) in the type to compute in; minus infinity for a set left out, which may hold anything.
        pool_size: consecutive sets a pool; the last may be short.
        with_residual: whether to sum the residual too.
        shift: (C,) in the type to compute in, or None for 0.
        scale: factor > 0.
        inner: the inner term.

    Returns:
        The log sums (P, C), and the sums (P, C) of w_i `odds_residual`_ij (or what the best scores leave of another
        inner term) without gradient, or None.
    """
    return _pooled_class_log_odds(logits, target, log_weight, pool_size, with_residual, shift, scale, inner)


def takes_inner_terms(inner: str, logits: Tensor, target: Tensor, log_weight: Tensor, shift: Tensor | None) -> bool:
    """Tell whether `pooled_class_log_odds` has another way for an inner term than its formula."""
    if inner not in TERMS:
        return False
    return _pooled_class_log_odds.way(logits, target, log_weight, 1, False, shift, 1.0, inner) is not None


def pooled_sums(row_function: Callable[[Tensor], Tensor], values: Tensor, log_weight: Tensor, pool_size: int) -> Tensor:
    """Return the weighted sums (P, C) over consecutive pools of what a function makes of values, without gradient.

    Args:
        row_function: (k, C) -> (k, C), row by row.
        values: (n, C).
        log_weight: (n,), minus infinity for a row that is left out.
        pool_size: rows a pool; the last may be short.
    """
    return _pooled_sums(row_function, values.detach(), log_weight.detach(), pool_size)


Sums = tuple[Tensor, Tensor | None]


def _of_scores(
    compute: Callable[..., Sums],
) -> Callable[[Tensor, Tensor, Tensor, int, bool, Tensor | None, float, str], Sums]:
    """Return a way for logits from one for scores and targets in the type to compute in."""

    def call(
        logits: Tensor,
        target: Tensor,
        log_weight: Tensor,
        pool_size: int,
        with_residual: bool,
        shift: Tensor | None,
        scale: float,
        inner: str,
    ) -> Sums:
        scores = scores_of(logits, shift, scale)
        others = () if inner == "odds" else (inner,)
        return compute(scores, target.to(scores.dtype), log_weight, pool_size, with_residual, *others)

    return call


def _is_bare(logits: Tensor, target: Tensor, log_weight: Tensor) -> bool:
    return len(logits) > 0 and not dispatch.learns(target, log_weight)


def _by_triton(
    logits: Tensor,
    target: Tensor,
    log_weight: Tensor,
    pool_size: int,
    with_residual: bool,
    shift: Tensor | None,
    scale: float,
    inner: str,
) -> Sums:
    from equilog.ops.soft_odds import triton

    if dispatch.learns(shift):  # of which the kernel has no gradient
        logits, shift, scale = scores_of(logits, shift, scale), None, 1.0
    return triton.pooled_class_log_odds(logits, target, log_weight, pool_size, with_residual, shift, scale, inner)


_pooled_class_log_odds = dispatch.Operation(
    "pooled_class_log_odds",
    (
        "triton",
        lambda logits, target, log_weight, _, __, shift, ___, ____: (
            _is_bare(logits, target, log_weight) and dispatch.triton(logits, target, log_weight, shift)
        ),
        _by_triton,
    ),
    (
        "native",
        lambda logits, target, log_weight, _, __, shift, ___, inner: (
            inner == "odds"
            and compute_dtype(logits) == torch.float32
            and _is_bare(logits, target, log_weight)
            and dispatch.native(logits, target, log_weight, shift)
        ),
        _of_scores(native.pooled_class_log_odds),
    ),
    (
        "chunked",
        lambda logits, target, log_weight, _, __, shift, ___, inner: (
            inner == "odds"
            and _is_bare(logits, target, log_weight)
            and dispatch.chunked(logits, target, log_weight, shift)
        ),
        _of_scores(chunked.pooled_class_log_odds),
    ),
    reference=_of_scores(reference.pooled_class_log_odds),
)
_pooled_sums = dispatch.Operation(
    "pooled_sums",
    (
        "chunked",
        lambda _, values, log_weight, __: len(values) > 0 and dispatch.chunked(values, log_weight),
        chunked.pooled_sums,
    ),
    reference=reference.pooled_sums,
)
