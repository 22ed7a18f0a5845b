"""The logs of each pool, or their mean, by the C++ kernel: every score is read once a direction."""

from typing import Any, NamedTuple

from torch import Tensor

from equilog.ops.consecutive import pool_count
from equilog.ops.dtypes import as_compute_dtype
from equilog.ops.index_logs import reference
from equilog.ops.native.call import run, table_of_scores
from equilog.ops.second_order import Differentiable, apply, keep
from equilog.ops.units import Units, as_numbers


class Look(NamedTuple):
    """That the indices are to be looked at, which others have been."""

    ignored: int
    """The index of sets to leave out, of which there must be none."""
    counts: Tensor | None
    """(C,) float64, to be filled with how many sets have each index."""


class NotPlainError(Exception):
    """An index that was to be looked at is out of range, or that of a set to leave out."""


def pooled_index_logs(
    logits: Tensor,
    index: Tensor,
    log_weight: Tensor | None,
    shift: Tensor | None,
    class_weight: Tensor | None,
    pool_size: int,
    scale: float,
    units: Units | None,
    look: Look | None,
) -> Tensor:
    """Return the summed logs (P,) or their mean, computed in float32 on the CPU, in an eager call."""
    z = as_compute_dtype(logits)
    values: Tensor = apply(NativeIndexLogs, z, index, log_weight, shift, class_weight, pool_size, scale, units, look)
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
        look: Look | None,
    ) -> Tensor:
        """Return the summed logs, or their mean.

        Keep what flows back to the log odds of each set, the largest score of its other classes and 1 / the sum of
        their exponentials, each (n,).
        """
        n = z.shape[0]
        result = z.new_empty(() if units is not None else pool_count(n, pool_size))
        kept = z.new_empty(3 * n + 1)  # and 1 / the units
        looked_at = (False, 0, None) if look is None else (True, *look)
        if run(
            "index_logs_forward", *table_of_scores(z, shift, scale), index.contiguous(), log_weight, class_weight,
            pool_size, *as_numbers(units), *looked_at, result, kept,
        ):  # fmt: skip
            raise NotPlainError
        keep(ctx, (z, index, log_weight, shift, class_weight), (pool_size, scale, units, None), kept)
        return result

    @staticmethod
    def gradient(ctx: Any, upstream: Tensor) -> Tensor:
        """Return the gradient of z."""
        z, index, _, shift, _, kept = ctx.saved_tensors
        pool_size, scale, units, _ = ctx.constants
        gradient: Tensor = z.new_empty(z.shape)
        run(
            "index_logs_backward", *table_of_scores(z, shift, scale), index.contiguous(), kept, units is not None,
            upstream.contiguous(), pool_size, gradient,
        )  # fmt: skip
        return gradient
