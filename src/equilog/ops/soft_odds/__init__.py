"""The odds against every class with their targets' shares, summed over pools, and their residual at the optimum."""

from collections.abc import Callable

import torch
from torch import Tensor

from equilog.ops import dispatch
from equilog.ops.dtypes import compute_dtype
from equilog.ops.scores import scores_of
from equilog.ops.soft_odds import chunked, native, reference
from equilog.ops.soft_odds.reference import class_log_odds, log_weighted, odds_residual

__all__ = ["class_log_odds", "log_weighted", "odds_residual", "pooled_class_log_odds", "pooled_sums"]


def pooled_class_log_odds(
    logits: Tensor,
    target: Tensor,
    log_weight: Tensor,
    pool_size: int,
    with_residual: bool,
    shift: Tensor | None = None,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor | None]:
    """Return the log of the summed odds against every class, log sum_i w_i t_ij (1/p_ij - 1), per pool.

    Args:
        logits: (n, C) of any floating type; the scores are scale * (logits + shift).
        target: (n, C) probabilities of any floating type.
        log_weight: (n,) in the type to compute in; minus infinity for a set left out, which may hold anything.
        pool_size: consecutive sets a pool; the last may be short.
        with_residual: whether to sum the residual too.
        shift: (C,) in the type to compute in, or None for 0.
        scale: factor > 0.

    Returns:
        The log sums (P, C), and the sums (P, C) of w_i `odds_residual`_ij without gradient, or None.
    """
    return _pooled_class_log_odds(logits, target, log_weight, pool_size, with_residual, shift, scale)


def pooled_sums(row_function: Callable[[Tensor], Tensor], values: Tensor, log_weight: Tensor, pool_size: int) -> Tensor:
    """Return the weighted sums (P, C) over consecutive pools of what a function makes of values, without gradient.

    Args:
        row_function: (k, C) -> (k, C), row by row.
        values: (n, C).
        log_weight: (n,), minus infinity for a row that is left out.
        pool_size: rows a pool; the last may be short.
    """
    return _pooled_sums(row_function, values.detach(), log_weight.detach(), pool_size)


Call = Callable[[Tensor, Tensor, Tensor, int, bool, Tensor | None, float], tuple[Tensor, Tensor | None]]


def _of_scores(
    compute: Callable[[Tensor, Tensor, Tensor, int, bool], tuple[Tensor, Tensor | None]],
) -> Call:
    """Return a way for logits from one for scores and targets in the type to compute in."""

    def call(
        logits: Tensor,
        target: Tensor,
        log_weight: Tensor,
        pool_size: int,
        with_residual: bool,
        shift: Tensor | None,
        scale: float,
    ) -> tuple[Tensor, Tensor | None]:
        scores = scores_of(logits, shift, scale)
        return compute(scores, target.to(scores.dtype), log_weight, pool_size, with_residual)

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
) -> tuple[Tensor, Tensor | None]:
    from equilog.ops.soft_odds import triton

    if dispatch.learns(shift):  # of which the kernel has no gradient
        logits, shift, scale = scores_of(logits, shift, scale), None, 1.0
    return triton.pooled_class_log_odds(logits, target, log_weight, pool_size, with_residual, shift, scale)


_pooled_class_log_odds = dispatch.Operation(
    "pooled_class_log_odds",
    (
        "triton",
        lambda logits, target, log_weight, _, __, shift, ___: (
            _is_bare(logits, target, log_weight) and dispatch.triton(logits, target, log_weight, shift)
        ),
        _by_triton,
    ),
    (
        "native",
        lambda logits, target, log_weight, _, __, shift, ___: (
            compute_dtype(logits) == torch.float32
            and _is_bare(logits, target, log_weight)
            and dispatch.native(logits, target, log_weight, shift)
        ),
        _of_scores(native.pooled_class_log_odds),
    ),
    (
        "chunked",
        lambda logits, target, log_weight, _, __, shift, ___: (
            _is_bare(logits, target, log_weight) and dispatch.chunked(logits, target, log_weight, shift)
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
