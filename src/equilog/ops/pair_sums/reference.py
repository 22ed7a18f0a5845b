"""The pairwise terms of index targets and their sums, by torch's operations."""

import torch
from torch import Tensor

from equilog.ops.consecutive import pool_count, slot_ids
from equilog.ops.scores import scores_of
from equilog.ops.sum_by_id import log_sum_exp_by


def pair_log_terms(scores: Tensor, index: Tensor) -> Tensor:
    """Return the log pairwise terms (n, C) of every class to each set's, minus infinity of its own, from scores."""
    index = index[:, None]
    score = scores.gather(1, index)
    return torch.where(score == -torch.inf, torch.inf, (scores - score).scatter(1, index, -torch.inf))


def log_terms(scores: Tensor, index: Tensor, log_weight: Tensor) -> Tensor:
    """Return the logs of what every set adds to the sums (n, C); a set that is left out may hold anything."""
    scores = torch.where((log_weight == -torch.inf)[:, None], 0.0, scores)
    return pair_log_terms(scores, index) + log_weight[:, None]


def block_log_terms(
    logits: Tensor,
    index: Tensor,
    log_weight: Tensor,
    block: Tensor,
    blocks: int,
    shift: Tensor | None,
    scale: float,
) -> Tensor:
    """Return the logs of what every set adds for each block (n, B)."""
    terms = log_terms(scores_of(logits, shift, scale), index, log_weight)
    return log_sum_exp_by(terms.T, block, blocks).T


def pooled_pair_log_sums(
    logits: Tensor,
    index: Tensor,
    log_weight: Tensor,
    pool_size: int,
    shift: Tensor | None,
    scale: float,
    ids: Tensor | None = None,
) -> Tensor:
    """Return the log sums (P, C * C)."""
    classes = logits.shape[1]
    slot, pools = slots_of(index, classes, pool_size, ids)
    return log_sums_of_slots(logits, slot, log_weight, pools, shift, scale)


def slots_of(index: Tensor, classes: int, pool_size: int, ids: Tensor | None) -> tuple[Tensor, int]:
    """Return the slot of each set (n,), pool * classes + index, and how many pools there are."""
    if ids is not None:
        return ids * classes + index, pool_size
    return slot_ids(index, pool_size, classes), pool_count(len(index), pool_size)


def log_sums_of_slots(
    logits: Tensor, slot: Tensor, log_weight: Tensor, pools: int, shift: Tensor | None, scale: float
) -> Tensor:
    """Return the log sums (P, C * C) of sets with these slots (n,)."""
    classes = logits.shape[1]
    terms = log_terms(scores_of(logits, shift, scale), slot % classes, log_weight)
    return log_sum_exp_by(terms, slot, pools * classes).view(pools, classes * classes)
