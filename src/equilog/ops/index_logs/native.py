"""The logs of each pool, or their mean, by the C++ kernel: every score is read once a direction."""

from typing import Any

import torch
from torch import Tensor

from equilog.ops.consecutive import pool_count
from equilog.ops.dtypes import as_compute_dtype
from equilog.ops.index_logs import reference
from equilog.ops.native.call import run, table_of_scores
from equilog.ops.second_order import Differentiable, apply, keep
from equilog.ops.units import Units, as_numbers


def pooled_index_logs(
    logits: Tensor,
    index: Tensor,
    log_weight: Tensor | None,
    shift: Tensor | None,
    class_weight: Tensor | None,
    pool_size: int,
    scale: float,
    units: Units | None,
) -> Tensor:
    """Return the summed logs (P,) or their mean, computed in float32 on the CPU, in an eager call."""
    values: Tensor = apply(
        NativeIndexLogs, as_compute_dtype(logits), index, log_weight, shift, class_weight, pool_size, scale, units
    )
    return values


class NativeIndexLogs(Differentiable):
    """The summed logs (P,) of float32 scores scale * (z + shift) (n, C), or their mean. Keeps three numbers a set."""

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
        units: Units | None,
    ) -> Tensor:
        """Return the summed logs, or their mean.

        Keep what flows back to the log odds of each set, the largest score of its other classes and 1 / the sum of
        their exponentials, each (n,).
        """
        n = len(z)
        pools = pool_count(n, pool_size)
        result = z.new_empty(pools) if units is None else z.new_empty(())
        kept = z.new_empty(3 * n + 1)  # and 1 / the units
        run(
            "index_logs_forward", *table_of_scores(z, shift, scale), index.contiguous(), log_weight, class_weight,
            pool_size, *as_numbers(units), result, kept,
        )  # fmt: skip
        keep(ctx, (z, index, log_weight, shift, class_weight), (pool_size, scale, units), kept)
        return result

    @staticmethod
    def gradient(ctx: Any, upstream: Tensor) -> Tensor:
        """Return the gradient of z."""
        z, index, _, shift, _, kept = ctx.saved_tensors
        pool_size, scale, units = ctx.constants
        gradient = z.new_empty(z.shape)
        run(
            "index_logs_backward", *table_of_scores(z, shift, scale), index.contiguous(), kept, units is not None,
            upstream.contiguous(), pool_size, gradient,
        )  # fmt: skip
        return gradient


def class_counts(index: Tensor, classes: int, ignored: int) -> Tensor | None:
    """Return how many sets have each index (C,), float64, or None where one is out of range or `ignored`."""
    counts = torch.empty(classes, dtype=torch.float64)
    return None if run("class_counts", index.contiguous(), len(index), classes, ignored, counts) else counts
