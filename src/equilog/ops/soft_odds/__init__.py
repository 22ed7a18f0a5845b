"""The odds against every class with their targets' shares, summed over pools, and their residual at the optimum."""

from collections.abc import Callable

import torch
from torch import Tensor

from equilog.ops import dispatch
from equilog.ops.dtypes import compute_dtype
from equilog.ops.scores import scores_of
from equilog.ops.soft_odds import chunked, native, reference
from equilog.ops.soft_odds.inner_terms import TERMS, log_of_gap, log_of_nll, log_weighted
from equilog.ops.soft_odds.reference import class_log_odds
from equilog.ops.soft_odds.sums import Sums
from equilog.ops.soft_odds.targets import target_probs

__all__ = [
    "TERMS",
    "class_log_odds",
    "log_of_gap",
    "log_of_nll",
    "log_weighted",
    "pooled_class_log_odds",
    "pooled_sums",
    "takes_class_log_odds",
    "target_probs",
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
    smoothing: float = 0.0,
    ids: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return the log of the summed odds against every class, log sum_i w_i t_ij (1/p_ij - 1), per pool.

    Or of another inner term than the odds: -t log p ("nll"), t^t (p^-t - 1) ("power"), or t log(t / p) - t + p
    ("divergence").

    Args:
        logits: (n, C) of any floating type; the scores are scale * (logits + shift).
        target: (n, C) probabilities of any floating type, or (n,) int64 class indices, 0..C-1.
        log_weight: (n,) in the type to compute in; minus infinity for a set left out, which may hold anything.
        pool_size: consecutive sets a pool; the last may be short. With ids, the number of pools.
        with_residual: whether to sum the residual too.
        shift: (C,) in the type to compute in, or None for 0.
        scale: factor > 0.
        inner: the inner term.
        smoothing: in [0, 1), the share of a target that is spread evenly over the classes that take part in its set.
        ids: (n,) int64, the pool of each set; None where pools are consecutive.

    Returns:
        The log sums (P, C), and the sums (P, C) of w_i `odds_residual`_ij (or what the best scores leave of another
        inner term) without gradient, or None.
    """
    asked = Sums(pool_size, with_residual, scale, inner, smoothing)
    return _pooled_class_log_odds(logits, target, log_weight, shift, ids, asked)


def takes_class_log_odds(
    logits: Tensor, target: Tensor, log_weight: Tensor, shift: Tensor | None, ids: Tensor | None, inner: str
) -> bool:
    """Tell whether `pooled_class_log_odds` has another way than its formula."""
    return _pooled_class_log_odds.way(logits, target, log_weight, shift, ids, Sums(1, inner=inner)) is not None


def pooled_sums(
    row_function: Callable[[Tensor], Tensor],
    values: Tensor,
    log_weight: Tensor,
    pool_size: int,
    ids: Tensor | None = None,
) -> Tensor:
    """Return the weighted sums (P, C) over pools of what a function makes of values, without gradient.

    Args:
        row_function: (k, C) -> (k, C), row by row.
        values: (n, C).
        log_weight: (n,), minus infinity for a row that is left out.
        pool_size: consecutive rows a pool; the last may be short. With ids, the number of pools.
        ids: (n,) int64, the pool of each row; None where pools are consecutive.
    """
    return _pooled_sums(row_function, values.detach(), log_weight.detach(), pool_size, ids)


Result = tuple[Tensor, Tensor | None]
Way = Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Sums], Result]


def _of_scores(compute: Callable[..., Result]) -> Way:
    """Return a way for logits from one of consecutive pools for scores and targets in the type to compute in."""

    def call(
        logits: Tensor, target: Tensor, log_weight: Tensor, shift: Tensor | None, ids: Tensor | None, asked: Sums
    ) -> Result:
        scores = scores_of(logits, shift, asked.scale)
        probs = target_probs(target, logits, asked.smoothing, scores.dtype)
        others = () if asked.inner == "odds" and ids is None else (asked.inner, ids)
        return compute(scores, probs, log_weight, asked.pool_size, asked.with_residual, *others)

    return call


def _is_bare(logits: Tensor, target: Tensor, log_weight: Tensor) -> bool:
    return len(logits) > 0 and not dispatch.learns(target, log_weight)


def _is_for_cpu(logits: Tensor, target: Tensor, log_weight: Tensor, ids: Tensor | None, asked: Sums) -> bool:
    return asked.inner == "odds" and ids is None and _is_bare(logits, target, log_weight)


def _by_triton(
    logits: Tensor, target: Tensor, log_weight: Tensor, shift: Tensor | None, ids: Tensor | None, asked: Sums
) -> Result:
    from equilog.ops.soft_odds import triton

    if dispatch.learns(shift):  # of which the kernel has no gradient
        logits, shift, asked = scores_of(logits, shift, asked.scale), None, asked._replace(scale=1.0)
    return triton.pooled_class_log_odds(logits, target, log_weight, shift, ids, asked)


_pooled_class_log_odds = dispatch.Operation(
    "pooled_class_log_odds",
    (
        "triton",
        lambda logits, target, log_weight, shift, ids, _: (
            _is_bare(logits, target, log_weight) and dispatch.triton(logits, target, log_weight, shift, ids)
        ),
        _by_triton,
    ),
    (
        "native",
        lambda logits, target, log_weight, shift, ids, asked: (
            compute_dtype(logits) == torch.float32
            and _is_for_cpu(logits, target, log_weight, ids, asked)
            and dispatch.native(logits, target, log_weight, shift)
        ),
        _of_scores(native.pooled_class_log_odds),
    ),
    (
        "chunked",
        lambda logits, target, log_weight, shift, ids, asked: (
            _is_for_cpu(logits, target, log_weight, ids, asked) and dispatch.chunked(logits, target, log_weight, shift)
        ),
        _of_scores(chunked.pooled_class_log_odds),
    ),
    reference=_of_scores(reference.pooled_class_log_odds),
)
_pooled_sums = dispatch.Operation(
    "pooled_sums",
    (
        "chunked",
        lambda _, values, log_weight, __, ids: len(values) > 0 and ids is None and dispatch.chunked(values, log_weight),
        lambda row_function, values, log_weight, pool_size, _: chunked.pooled_sums(
            row_function, values, log_weight, pool_size
        ),
    ),
    reference=reference.pooled_sums,
)
