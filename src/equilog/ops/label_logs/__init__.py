"""The loss of yes/no labels: yes_weight log(1 + the positive sum) + log(1 + the negative sum) of each pool."""

from torch import Tensor

from equilog.ops.label_logs import native
from equilog.ops.label_sums import is_for_native
from equilog.ops.units import Units


def pooled_label_logs(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pool_size: int,
    *,
    scale: float = 1.0,
    yes_weight: float = 1.0,
    units: Units | None = None,
) -> Tensor:
    """Return the logs of each pool of consecutive labels, added up (P,), or their mean, where `takes_label_logs`.

    Args:
        logits: (n,) float32.
        target: (n,) in [0, 1] of any type, or (P, k) sorted positives of each pool, `pool_size` where there is none.
        weight: (n,) in the type to compute in, 0 where the label is left out; of positives (P, pool_size); None for 1.
        pool_size: labels a pool; the last may be short.
        scale: factor > 0 on the logits.
        yes_weight: factor >= 0 on the log of the positives.
        units: what the mean divides by, or None for the value of each pool.
    """
    return native.pooled_label_logs(logits, target, weight, pool_size, scale, yes_weight, units)


def takes_label_logs(logits: Tensor, target: Tensor, weight: Tensor | None, pool_size: int) -> bool:
    """Tell whether `pooled_label_logs` takes these, in an eager call."""
    return is_for_native(logits, target, weight, pool_size, eager=True)
