"""The odds against every class with their targets' shares, summed over pools, and their residual at the optimum."""

from collections.abc import Callable

import torch
from torch import Tensor

from equilog.ops import dispatch
from equilog.ops.soft_odds import chunked, native, reference
from equilog.ops.soft_odds.reference import class_log_odds, log_weighted, odds_residual

__all__ = ["class_log_odds", "log_weighted", "odds_residual", "pooled_class_log_odds", "pooled_sums"]


def pooled_class_log_odds(
    scores: Tensor, target: Tensor, log_weight: Tensor, pool_size: int, with_residual: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the log of the summed odds against every class, log sum_i w_i t_ij (1/p_ij - 1), per pool.

    Args:
        scores: (n, C) in the type to compute in.
        target: (n, C) probabilities in the same type.
        log_weight: (n,); minus infinity for a set that is left out, which may hold anything.
        pool_size: consecutive sets a pool; the last may be short.
        with_residual: whether to sum the residual too.

    Returns:
        The log sums (P, C), and the sums (P, C) of w_i `odds_residual`_ij without gradient, or None.
    """
    return _pooled_class_log_odds(scores, target, log_weight, pool_size, with_residual)


def pooled_sums(row_function: Callable[[Tensor], Tensor], values: Tensor, log_weight: Tensor, pool_size: int) -> Tensor:
    """Return the weighted sums (P, C) over consecutive pools of what a function makes of values, without gradient.

    Args:
        row_function: (k, C) -> (k, C), row by row.
        values: (n, C).
        log_weight: (n,), minus infinity for a row that is left out.
        pool_size: rows a pool; the last may be short.
    """
    return _pooled_sums(row_function, values.detach(), log_weight.detach(), pool_size)


def _is_bare(scores: Tensor, target: Tensor, log_weight: Tensor) -> bool:
    return len(scores) > 0 and not dispatch.learns(target, log_weight)


_pooled_class_log_odds = dispatch.Operation(
    "pooled_class_log_odds",
    (
        "native",
        lambda scores, target, log_weight, *_: (
            scores.dtype == torch.float32
            and _is_bare(scores, target, log_weight)
            and dispatch.native(scores, target, log_weight)
        ),
        native.pooled_class_log_odds,
    ),
    (
        "chunked",
        lambda scores, target, log_weight, *_: (
            _is_bare(scores, target, log_weight) and dispatch.chunked(scores, target, log_weight)
        ),
        chunked.pooled_class_log_odds,
    ),
    reference=reference.pooled_class_log_odds,
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
