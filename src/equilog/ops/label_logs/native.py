"""The logs of each pool of yes/no labels, or their mean, by the C++ kernels: labels are read once a direction."""

from typing import Any

from torch import Tensor

from equilog.ops.consecutive import pool_count
from equilog.ops.label_logs import reference
from equilog.ops.label_sums.native import run_on_labels
from equilog.ops.second_order import Differentiable, apply, keep
from equilog.ops.units import Units, as_numbers


def pooled_label_logs(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pool_size: int,
    scale: float,
    yes_weight: float,
    units: Units | None,
) -> Tensor:
    """Return the summed logs (P,) or their mean, of float32 logits (n,) on the CPU, in an eager call."""
    values: Tensor = apply(NativeLabelLogs, logits, target, weight, pool_size, scale, yes_weight, units)
    return values


class NativeLabelLogs(Differentiable):
    """The summed logs (P,), or their mean. Keeps six numbers a pool."""

    formula = staticmethod(reference.pooled_label_logs)

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        target: Tensor,
        weight: Tensor | None,
        pool_size: int,
        scale: float,
        yes_weight: float,
        units: Units | None,
    ) -> Tensor:
        """Return the summed logs, or their mean."""
        pools = pool_count(len(logits), pool_size)
        result = logits.new_empty(pools) if units is None else logits.new_empty(())
        kept = logits.new_empty(6 * pools + 1)
        run_on_labels(
            "label_logs_forward", logits, target, weight, pool_size, scale, float(yes_weight), *as_numbers(units),
            result, kept,
        )  # fmt: skip
        keep(ctx, (logits, target, weight), (pool_size, scale, yes_weight, units), kept)
        return result

    @staticmethod
    def gradient(ctx: Any, upstream: Tensor) -> Tensor:
        """Return the gradient of the logits."""
        logits, target, weight, kept = ctx.saved_tensors
        pool_size, scale, _, units = ctx.constants
        flow = upstream.contiguous()
        gradient: Tensor = logits.new_empty(logits.shape)
        run_on_labels(
            "label_logs_backward", logits, target, weight, pool_size, scale, kept, units is not None, flow, gradient
        )
        return gradient
