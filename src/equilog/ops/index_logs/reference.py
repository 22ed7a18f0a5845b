"""The logs of each pool, by the formula."""

import torch
from torch import Tensor

from equilog.ops.consecutive import pool_count, slot_ids
from equilog.ops.index_odds import reference as index_odds
from equilog.ops.logspace import log_one_plus
from equilog.ops.sum_by_id import reference as sum_by_id
from equilog.ops.units import Units, mean_of


def pooled_index_logs(
    logits: Tensor,
    index: Tensor,
    log_weight: Tensor | None,
    shift: Tensor | None,
    class_weight: Tensor | None,
    pool_size: int,
    scale: float,
    units: Units | None = None,
    look: None = None,  # noqa: ARG001 - the indices have been looked at
) -> Tensor:
    """Return the summed logs (P,), or their mean."""
    log_odds = index_odds.index_log_odds(logits, index, shift, scale)
    terms = log_odds if log_weight is None else torch.where(log_weight == -torch.inf, -torch.inf, log_odds + log_weight)
    pools, classes = pool_count(len(logits), pool_size), logits.shape[1]
    slot = slot_ids(index, pool_size, classes)
    log_sums = sum_by_id.log_sum_exp_by(terms, slot, pools * classes).view(pools, classes)
    log_mass = log_one_plus(log_sums)
    values = (log_mass if class_weight is None else log_mass * class_weight).sum(1)
    return values if units is None else mean_of(values.sum(), units.summed(log_sums, class_weight))
