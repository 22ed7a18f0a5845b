"""The positive and negative sums of pools of labels, by torch's operations.

Targets and weights multiply the exponentials as they are, since their logs would cost more than all the rest.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from equilog.ops.consecutive import side_by_side
from equilog.ops.dtypes import as_compute_dtype
from equilog.ops.logspace import log_sum_exp

PADDING = -1
"""What fills up the positives of samples with fewer of them than others."""


def label_log_sums(logits: Tensor, target: Tensor, weight: Tensor | None, pool_size: int, scale: float) -> Tensor:
    """Return both log sums of each pool (P, 2), from labels (n,)."""
    x, target = shown(logits, target, weight)
    # Side by side before anything else, so that the compiled loops of both directions run over pools and labels.
    x = scale * side_by_side(x[:, None], pool_size, -torch.inf)
    target = side_by_side(target[:, None], pool_size, 0.0)
    weight = None if weight is None else side_by_side(weight[:, None], pool_size, 0.0)
    sums = [log_sum_exp(-x, 1, _product(weight, target)), log_sum_exp(x, 1, _product(weight, 1.0 - target))]
    return torch.cat(sums, 2).squeeze(1)


def indexed_label_log_sums(logits: Tensor, index: Tensor, weight: Tensor | None, scale: float) -> Tensor:
    """Return both log sums of each sample (N, 2), from logits (N, L) and positives (N, k), L where there is none.

    The positives are taken out of the negatives' sum: taken off it, they would leave nothing but rounding.
    """
    x = as_compute_dtype(logits)
    labels = x.shape[1]
    x = scale * (x if weight is None else torch.where(weight == 0, 0.0, x))
    share = (index < labels).to(x.dtype)
    place = index.clamp(max=labels - 1)
    others = F.pad(x, (0, 1), value=-torch.inf).scatter(1, index, -torch.inf)
    if weight is not None:
        share, weight = share * weight.gather(1, place), F.pad(weight, (0, 1))
    return torch.cat((log_sum_exp(-x.gather(1, place), 1, share), log_sum_exp(others, 1, weight)), 1)


def any_label_log_sums(logits: Tensor, target: Tensor, weight: Tensor | None, pool_size: int, scale: float) -> Tensor:
    """Return both log sums of each pool (P, 2), from logits (n,) and values (n,) or positives (P, k)."""
    if target.dim() == 2:
        return indexed_label_log_sums(logits.view(-1, pool_size), target, weight, scale)
    return label_log_sums(logits, target, weight, pool_size, scale)


def sorted_positives(target: Tensor, labels: int) -> tuple[Tensor, Tensor]:
    """Return positives (N, k) in order, `labels` in place of the padding, and which samples are wrong (N,)."""
    in_range = (target >= 0) & (target < labels)
    outside = ~(in_range | (target == PADDING))
    index = torch.where(in_range, target, labels).sort(1).values
    again = (index[:, 1:] == index[:, :-1]) & (index[:, 1:] < labels)
    return index, outside.any(1) | again.any(1)


def shown(logits: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return logits and targets in the type to compute in, 0 where the weight is 0, whatever they were."""
    x = as_compute_dtype(logits)
    target = target.to(x.dtype)
    if weight is None:
        return x, target
    is_left_out = weight == 0
    return torch.where(is_left_out, 0.0, x), torch.where(is_left_out, 0.0, target)


def _product(weight: Tensor | None, share: Tensor) -> Tensor:
    return share if weight is None else weight * share
