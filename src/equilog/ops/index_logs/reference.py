"""The logs of each pool, by the formula."""

import torch
from torch import Tensor

from equilog.ops.index_odds import reference as index_odds
from equilog.ops.logspace import log_one_plus
from equilog.ops.sum_by_id import reference as sum_by_id


def pooled_index_logs(
    logits: Tensor,
    index: Tensor,
    log_weight: Tensor | None,
    shift: Tensor | None,
    class_weight: Tensor | None,
    pool_size: int,
    scale: float,
) -> Tensor:
    """Return the summed logs (P,)."""
    log_odds = index_odds.index_log_odds(logits, index, shift, scale)
    terms = log_odds if log_weight is None else torch.where(log_weight == -torch.inf, -torch.inf, log_odds + log_weight)
    n, classes = logits.shape
    pools = -(-n // pool_size)
    slot = torch.arange(n, device=index.device) // pool_size * classes + index
    log_mass = log_one_plus(sum_by_id.log_sum_exp_by(terms, slot, pools * classes)).view(pools, classes)
    return (log_mass if class_weight is None else log_mass * class_weight).sum(1)
