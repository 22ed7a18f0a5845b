"""The logs of each pool by the C++ kernel: every score is read once a direction."""

from typing import Any

import torch
from torch import Tensor

from equilog.ops.dtypes import as_compute_dtype
from equilog.ops.index_logs import reference
from equilog.ops.native.call import as_scores, run, table_of_scores
from equilog.ops.operators import operator
from equilog.ops.second_order import Differentiable, apply, keep


def pooled_index_logs(
    logits: Tensor,
    index: Tensor,
    log_weight: Tensor | None,
    shift: Tensor | None,
    class_weight: Tensor | None,
    pool_size: int,
    scale: float,
) -> Tensor:
    """Return the summed logs (P,), computed in float32 on the CPU."""
    values: Tensor = apply(
        NativeIndexLogs, as_compute_dtype(logits), index, log_weight, shift, class_weight, pool_size, scale
    )
    return values


class NativeIndexLogs(Differentiable):
    """The summed logs (P,) of float32 scores scale * (z + shift) (n, C). Keeps three numbers a set."""

    formula = staticmethod(reference.pooled_index_logs)

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        index: Tensor,
        log_weight: Tensor | None,
        shift: Tensor | None,
        class_weight: Tensor | None,
        pool_size: int,
        scale: float,
    ) -> Tensor:
        """Return the summed logs."""
        values, *kept = index_logs_forward(z, index, log_weight, shift, class_weight, pool_size, scale)
        keep(ctx, (z, index, log_weight, shift, class_weight), (pool_size, scale), *kept)
        return values

    @staticmethod
    def gradient(ctx: Any, upstream: Tensor) -> Tensor:
        """Return the gradient of z."""
        z, index, _, shift, _, slopes, peak, inverse = ctx.saved_tensors
        return index_logs_backward(z, index, shift, slopes, peak, inverse, upstream, *ctx.constants)

    @staticmethod
    def reached(upstream: Tensor, *inputs: Any) -> Tensor:
        """Return whether anything flows back to each set (n,): to its pool, where it is not left out."""
        z, _, log_weight, _, _, pool_size, _ = inputs
        of_pool = (upstream != 0).repeat_interleave(pool_size)[: len(z)]
        return of_pool if log_weight is None else of_pool & (log_weight > -torch.inf)


def _as_forward(
    z: Tensor,
    index: Tensor,  # noqa: ARG001
    log_weight: Tensor | None,  # noqa: ARG001
    shift: Tensor | None,  # noqa: ARG001
    class_weight: Tensor | None,  # noqa: ARG001
    pool_size: int,
    scale: float,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n = z.shape[0]
    return z.new_empty(-(-n // pool_size)), z.new_empty(n), z.new_empty(n), z.new_empty(n)


@operator(_as_forward)
def index_logs_forward(
    z: Tensor,
    index: Tensor,
    log_weight: Tensor | None,
    shift: Tensor | None,
    class_weight: Tensor | None,
    pool_size: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the summed logs (P,), and three numbers of each set (n,).

    What flows back to its log odds, the largest score of its other classes, and 1 / the sum of their exponentials.
    """
    results = _as_forward(z, index, log_weight, shift, class_weight, pool_size, scale)
    run(
        "index_logs_forward", *table_of_scores(z, shift, scale), index.contiguous(), log_weight, class_weight,
        pool_size, *results,
    )  # fmt: skip
    return results


@operator(as_scores)
def index_logs_backward(
    z: Tensor,
    index: Tensor,
    shift: Tensor | None,
    slopes: Tensor,
    peak: Tensor,
    inverse: Tensor,
    upstream: Tensor,
    pool_size: int,
    scale: float,
) -> Tensor:
    """Return the gradient of z from the three numbers of each set, and what flows back to its pool."""
    gradient = z.new_empty(z.shape)
    run(
        "index_logs_backward", *table_of_scores(z, shift, scale), index.contiguous(), peak, inverse, slopes,
        upstream.contiguous(), pool_size, gradient,
    )  # fmt: skip
    return gradient
