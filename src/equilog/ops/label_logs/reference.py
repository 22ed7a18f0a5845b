"""The logs of each pool of yes/no labels, or their mean, by the formula."""

from torch import Tensor

from equilog.ops.label_sums import reference as label_sums
from equilog.ops.logspace import log_one_plus
from equilog.ops.units import Units, mean_of


def pooled_label_logs(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pool_size: int,
    scale: float,
    yes_weight: float,
    units: Units | None,
) -> Tensor:
    """Return the summed logs (P,), or their mean."""
    log_sums = label_sums.any_label_log_sums(logits, target, weight, pool_size, scale)
    yes, no = log_one_plus(log_sums).unbind(1)
    values = yes_weight * yes + no
    return values if units is None else mean_of(values.sum(), units.summed(log_sums, None))
