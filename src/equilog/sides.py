"""The two sums of a pool of labels, as logarithms: the threats to its positives, and to its negatives.

By the formula alone: sum v t exp(-x) and sum v (1 - t) exp(x), of logits x, targets t and weights v. Targets and
weights multiply the exponentials as they are, since their logs would cost more than all the rest.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from equilog.logspace import log_sum_exp, log_sum_exp_by
from equilog.pooling import Pools
from equilog.targets import as_compute_dtype

PADDING = -1
"""What fills up the positives of samples with fewer of them than others."""


def log_side_sums(logits: Tensor, target: Tensor, weight: Tensor | None, pools: Pools, scale: float) -> Tensor:
    """Return both log sums of each pool (P, 2), from labels (n,)."""
    x, target = (each[:, None] for each in shown(logits, target, weight))
    weight = None if weight is None else weight[:, None]
    if pools.given is None:
        # Before anything else, so that the compiled loops of both directions run over pools and labels.
        x, target = pools.side_by_side(x, -torch.inf), pools.side_by_side(target, 0.0)
        weight = None if weight is None else pools.side_by_side(weight, 0.0)
    x = scale * x
    sums = []
    for exponent, share in ((-x, target), (x, 1.0 - target)):
        share = share if weight is None else weight * share
        if pools.given is None:
            sums.append(log_sum_exp(exponent, 1, share).flatten(1))
        else:
            sums.append(log_sum_exp_by(exponent, pools.given, pools.count, share))
    return torch.cat(sums, 1)


def log_index_sums(logits: Tensor, index: Tensor, weight: Tensor | None, scale: float) -> Tensor:
    """Return both log sums of each sample (N, 2), from logits (N, L) and positives (N, k), L where there is none.

    The positives are taken out of the negatives' sum: taken off it, they would leave nothing but rounding.
    """
    x = as_compute_dtype(logits)
    x = scale * (x if weight is None else torch.where(weight == 0, 0.0, x))
    there = index < x.shape[1]
    own = index.clamp(max=x.shape[1] - 1)
    others = F.pad(x, (0, 1), value=-torch.inf).scatter(1, index, -torch.inf)
    share = there.to(x.dtype)
    if weight is not None:
        share, weight = share * weight.gather(1, own), F.pad(weight, (0, 1))
    return torch.cat((log_sum_exp(-x.gather(1, own), 1, share), log_sum_exp(others, 1, weight)), 1)


def sorted_positives(target: Tensor, labels: int) -> tuple[Tensor, Tensor]:
    """Return positives (N, k) in order, `labels` in place of the padding, and which samples are wrong (N,).

    A wrong sample names a label twice, or one that is not there, which is taken for padding.
    """
    in_range = (target >= 0) & (target < labels)
    outside = ~(in_range | (target == PADDING))
    index = torch.where(in_range, target, labels).sort(1).values
    again = (index[:, 1:] == index[:, :-1]) & (index[:, 1:] < labels)
    return index, outside.any(1) | again.any(1)


def shown(logits: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return logits and targets in the dtype that is computed in, 0 where the weight is 0, whatever they were."""
    x = as_compute_dtype(logits)
    target = target.to(x.dtype)
    if weight is None:
        return x, target
    hidden = weight == 0
    return torch.where(hidden, 0.0, x), torch.where(hidden, 0.0, target)
