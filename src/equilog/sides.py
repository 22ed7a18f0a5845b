"""The two sums of a pool of labels, as logarithms: the threats to its positives, and to its negatives."""

import torch
from torch import Tensor

from equilog.logspace import log_sum_exp, log_sum_exp_by
from equilog.pooling import Pools
from equilog.targets import as_compute_dtype


def log_side_sums(logits: Tensor, target: Tensor, weight: Tensor | None, pools: Pools, scale: float) -> Tensor:
    """Return the logs of sum v t exp(-scale x) and of sum v (1 - t) exp(scale x) for each pool, (P, 2).

    From labels (n,), by the formula alone. Targets and weights v multiply the exponentials as they are: their logs
    would cost more than all the rest.
    """
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


def shown(logits: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return logits and targets in the dtype that is computed in, 0 where the weight is 0, whatever they were."""
    x = as_compute_dtype(logits)
    target = target.to(x.dtype)
    if weight is None:
        return x, target
    hidden = weight == 0
    return torch.where(hidden, 0.0, x), torch.where(hidden, 0.0, target)
