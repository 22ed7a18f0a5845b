"""The odds against every class, summed over pools on a GPU: nothing of the logits' size is made but the gradient.

A program takes some rows of one pool and keeps the sum of each class, relative to its peak, in registers. Up to
`_WHOLE` classes a row is held whole, and logits and targets are read once a direction. Of more classes the numbers of
each set (its largest score, and the others' exponentials) are found in a reading of their own, since no term can be
added up before them: the odds of a class have those numbers inside a log or a difference, which no factor that is found
later brings right. And so is the sum over a row in the gradient. Targets that are indices, or smoothed, become
probabilities in registers.
"""

# mypy: allow-untyped-calls, allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs

import functools
from typing import Any

import triton
from torch import Tensor

from equilog.ops.dtypes import compute_dtype
from equilog.ops.scores import scores_of
from equilog.ops.second_order import Differentiable, apply, keep
from equilog.ops.soft_odds import reference
from equilog.ops.soft_odds.sums import Sums
from equilog.ops.soft_odds.targets import target_probs
from equilog.ops.soft_odds.triton_kernels import gradient_kernel, sets_kernel, sums_kernel
from equilog.ops.sum_by_id.reference import log_sum_exp_by
from equilog.ops.triton_rows import chunks_of_pools, kernel_operator, launch, like_logits, offset_type, warps_of
from equilog.ops.triton_slots import chunks_of_slots

_WHOLE = 4096
"""Classes of a row that a program holds; of more its registers would spill."""
_TILE = 2048
"""Scores that a program holds where a row is not whole, or several rows are."""
_BLOCK = 1024


def pooled_class_log_odds(
    logits: Tensor, target: Tensor, log_weight: Tensor, shift: Tensor | None, ids: Tensor | None, asked: Sums
) -> tuple[Tensor, Tensor | None]:
    """Return the log sums (P, C), and the residual (P, C) or None, on a GPU or by the interpreter.

    Logits and targets of any type are read in their own. A class whose sum is infinite sends nothing back.
    """
    log_sums, residual = apply(TritonLogOddsSums, logits, target, log_weight, shift, ids, *asked)
    return log_sums, residual if asked.with_residual else None


class TritonLogOddsSums(Differentiable):
    """The log sums (P, C), and the residual (P, C), (0, C) unless it is asked for. Keeps four numbers a set."""

    @staticmethod
    def formula(
        z: Tensor, target: Tensor, log_weight: Tensor, shift: Tensor | None, ids: Tensor | None, *asked: Any
    ) -> Tensor:
        """Return the log sums."""
        size, _, scale, inner, smoothing = Sums(*asked)
        scores = scores_of(z, shift, scale)
        return reference.log_sums(
            scores, target_probs(target, z, smoothing, scores.dtype), log_weight, size, inner, ids
        )

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        target: Tensor,
        log_weight: Tensor,
        shift: Tensor | None,
        ids: Tensor | None,
        *asked: Any,
    ) -> tuple[Tensor, Tensor]:
        """Return the log sums and the residual."""
        log_sums, of_sets, residual = class_log_odds_sums(z, target, log_weight, shift, ids, *asked)
        keep(ctx, (z, target, log_weight, shift, ids), asked, log_sums, of_sets)
        ctx.mark_non_differentiable(residual)
        return log_sums, residual

    @staticmethod
    def gradient(ctx: Any, upstream: Tensor) -> Tensor:
        """Return the gradient of z."""
        # saved_tensors complains if the logits have been changed since.
        z, target, log_weight, shift, ids, log_sums, of_sets = ctx.saved_tensors
        size, _, scale, inner, smoothing = ctx.constants
        return class_log_odds_sums_gradient(
            z, target, log_weight, shift, ids, log_sums, of_sets, upstream, size, scale, inner, smoothing
        )


def _as_sums(
    z: Tensor,
    target: Tensor,  # noqa: ARG001
    log_weight: Tensor,  # noqa: ARG001
    shift: Tensor | None,  # noqa: ARG001
    ids: Tensor | None,
    *asked: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype, (sets, classes), sums = compute_dtype(z), z.shape, Sums(*asked)
    pools = sums.pools(sets, ids)
    return (
        z.new_empty(pools, classes, dtype=dtype),
        z.new_empty(5 if sums.smoothing else 4, sets, dtype=dtype),
        z.new_empty(pools if sums.with_residual else 0, classes, dtype=dtype),
    )


@kernel_operator(_as_sums)
def class_log_odds_sums(
    z: Tensor,
    target: Tensor,
    log_weight: Tensor,
    shift: Tensor | None,
    ids: Tensor | None,
    pool_size: int,
    with_residual: bool,
    scale: float,
    inner: str,
    smoothing: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log sums (P, C), some numbers of each set (4 or 5, n), and the residual (P, C).

    The numbers are the largest score; the peak of the others, and their exponentials' sum relative to it; where there
    is a residual the sum of the targets' roots; and what smoothing gives each class.
    """
    asked = pool_size, with_residual, scale, inner, smoothing
    log_sums, of_sets, residual = _as_sums(z, target, log_weight, shift, ids, *asked)
    (n, classes), pools = z.shape, len(log_sums)
    layout = _layout_of(z, target, ids, pool_size)
    rows, blocks = layout["ROWS"], triton.cdiv(classes, layout["BLOCK"])
    tables = z, target, log_weight.contiguous(), shift, of_sets
    numbers = *_strides(z, target), scale, smoothing
    kind = {"INDEXED": target.dim() == 1, "SMOOTH": smoothing > 0.0}
    if not layout["WHOLE"]:
        of_rows = {name: layout[name] for name in ("ROWS", "BLOCK", "OFFSET", "num_warps")}
        launch(
            sets_kernel, (triton.cdiv(n, rows),), z, *tables, n, classes, *numbers, **of_rows, **kind,
            ROOTS=with_residual and inner == "odds",
        )  # fmt: skip
    chunks, chunk = chunks_of_pools(n, pool_size if ids is None else n, rows, blocks)
    where: list[Any] = [None] * 4
    count = pools * chunks
    if ids is not None:
        *where, count = chunks_of_slots(ids, pools, chunk)
    by_pool = count == pools and ids is None
    parts, residuals = log_sums, residual
    if not by_pool:
        parts, residuals = (like.new_empty(count if len(like) else 0, classes) for like in (log_sums, residual))
    launch(
        sums_kernel, (count, blocks), z, *tables, *where, parts, residuals, n, classes, pool_size, *numbers, chunks,
        chunk, **layout, **kind, RESIDUAL=with_residual, INNER=inner,
    )  # fmt: skip
    if by_pool:
        return log_sums, of_sets, residual
    if ids is None:
        of_pools = parts.view(pools, chunks, classes), residuals.view(len(residual), chunks, classes)
        return of_pools[0].logsumexp(1), of_sets, of_pools[1].sum(1)
    pool = where[-1].clamp(max=pools - 1)  # what is left over adds nothing
    residual = residual.zero_().index_add_(0, pool[: len(residuals)], residuals)
    return log_sum_exp_by(parts, pool, pools), of_sets, residual


@kernel_operator(like_logits)
def class_log_odds_sums_gradient(
    z: Tensor,
    target: Tensor,
    log_weight: Tensor,
    shift: Tensor | None,
    ids: Tensor | None,
    log_sums: Tensor,
    of_sets: Tensor,
    upstream: Tensor,
    pool_size: int,
    scale: float,
    inner: str,
    smoothing: float,
) -> Tensor:
    """Return the gradient of z from the numbers of each set, and what flows back to the log sums."""
    gradient, (n, classes) = like_logits(z), z.shape
    layout = _layout_of(z, target, ids, pool_size, inner)
    chunks = triton.cdiv(n if ids is not None else min(n, pool_size), layout["ROWS"])
    launch(
        gradient_kernel, ((1 if ids is not None else len(log_sums)) * chunks,), z, z, target, log_weight.contiguous(),
        shift, of_sets, ids, log_sums.contiguous(), upstream.contiguous(), gradient, n, classes, pool_size,
        *_strides(z, target), scale, smoothing, chunks, **layout, INNER=inner, INDEXED=target.dim() == 1,
        SMOOTH=smoothing > 0.0,
    )  # fmt: skip
    return gradient


def _strides(z: Tensor, target: Tensor) -> tuple[int, ...]:
    return *z.stride(), *target.stride(), *(0,) * (2 - target.dim())


def _layout_of(
    z: Tensor, target: Tensor, ids: Tensor | None, pool_size: int, gradient_of: str | None = None
) -> dict[str, Any]:
    n, classes = z.shape
    sets = pool_size if ids is None else triton.cdiv(n, max(pool_size, 1))
    return _layout(classes, sets, max(_strides(z, target)[1::2]), gradient_of)


@functools.cache
def _layout(classes: int, pool_size: int, column_stride: int, gradient_of: str | None) -> dict[str, Any]:
    """Return how a program takes the scores: ROWS sets of a pool and BLOCK classes at a time.

    For the sums, or for the gradient of an inner term: that of the odds has registers left for twice the classes; and
    of longer rows it takes one at a time, so that the second reading finds it in the cache.
    """
    whole = classes <= (2 * _WHOLE if gradient_of == "odds" else _WHOLE)
    block = triton.next_power_of_2(classes) if whole else _TILE if gradient_of else _BLOCK
    rows = min(max(_TILE // block, 1), triton.next_power_of_2(pool_size))
    return {
        "ROWS": rows,
        "BLOCK": block,
        "WHOLE": whole,
        "OFFSET": offset_type((classes + block) * column_stride),
        "num_warps": warps_of(rows, block),
    }
