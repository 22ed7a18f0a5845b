"""What the other sets of a pool add up to, drawn from those of the training rows."""

import math

import torch
from torch import Tensor

from equilog.core.grouping import LogTerms
from equilog.core.pools import as_pools
from equilog.inputs.options import Options

_QUANTILES = 64
_SETS_DRAWN = 2**20
_NUMBERS_DRAWN = 2**22
"""As many sets, and as many sums of classes, are drawn in all, which takes a moment and some megabytes."""


def draw_pools(terms: LogTerms, log_weight: Tensor, sets: int) -> Tensor:
    """Return log O (K, G) of random pools of that many sets: K quantiles for each group, each as likely as the others.

    Thousands of pools are drawn, since a rare class is in few of them; their quantiles say the same in less space. The
    generator is one of its own (seed 0).
    """
    groups = terms.slots * terms.values.shape[1]
    if sets < 1 or len(log_weight) == 0:
        return terms.values.new_full((1, groups), -math.inf)
    numbers = sets * max(terms.values.shape[1] // 2, 1)  # of a set with the terms of many labels, so many
    per_quantile = min(
        max(_SETS_DRAWN // (numbers * _QUANTILES), 1), max(_NUMBERS_DRAWN // (groups * _QUANTILES), 1), 64
    )
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(len(log_weight), (_QUANTILES * per_quantile * sets,), generator=generator)
    index = index.to(log_weight.device)
    slot = None if terms.slot is None else terms.slot[index]
    pools = as_pools(Options(where="draw_pools", pool=sets), index.shape, index.device)
    drawn = LogTerms(terms.values[index], slot, terms.slots).pooled(pools, log_weight[index])
    # A copy: a view would keep all the draws, and be summed in another order than what is loaded from a file.
    return drawn.sort(0).values[per_quantile // 2 :: per_quantile].contiguous()
