"""The positive and the negative sum of each pool of yes/no labels: the two groups of a choice between two classes."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from equilog.core.pools import Pools, as_pools
from equilog.inputs.labels import IndexedLabels, Labels
from equilog.inputs.options import LabelOptions
from equilog.ops import (
    Units,
    as_compute_dtype,
    indexed_label_log_sums,
    label_log_terms,
    log_sum_exp_by,
    pooled_label_log_sums,
    pooled_label_logs,
    precise,
    takes_label_logs,
)


def pools_of_labels(options: LabelOptions, labels: Labels | IndexedLabels) -> Pools:
    """Return the pools of labels, or of whole samples where their positives are named."""
    device, pool = labels.logits.device, options.pool
    if isinstance(labels, IndexedLabels):
        if isinstance(pool, int):
            raise ValueError(
                f'{options.where}: pool must be "sample", "batch" or (N,) pool ids where the target is label indices; '
                f"got {pool!r}, a number of labels. Give pool ids, torch.arange(N) // samples."
            )
        return as_pools(options, labels.logits.shape[:1], device)
    if len(labels.shape) > 1:
        return as_pools(options, labels.shape, device)
    # Labels (L,) are one sample, where sets (N,) would be N.
    if isinstance(pool, str) and pool == "sample":
        options = replace(options, pool="batch")
    return as_pools(options, labels.shape, device, samples=1)


def pooled_sums_of_labels(labels: Labels | IndexedLabels, pools: Pools, scale: float) -> Tensor:
    """Return the logs of each pool's positive and negative sum (P, 2): of v t exp(-x) and of v (1 - t) exp(x)."""
    if isinstance(labels, IndexedLabels):
        of_samples = indexed_label_log_sums(labels.logits, labels.index, labels.weight, scale)
        if labels.wrong is not None:
            of_samples = torch.where(labels.wrong[:, None], torch.nan, of_samples)
        return of_samples if pools.consecutive and pools.size == 1 else pools.log_sums(of_samples)
    if pools.consecutive and pools.sets:
        return pooled_label_log_sums(labels.logits, labels.target, labels.weight, pools.size, scale)
    if pools.sample_ids is not None:
        of_samples = pooled_label_log_sums(labels.logits, labels.target, labels.weight, pools.positions, scale)
        return log_sum_exp_by(of_samples, pools.sample_ids, pools.count)
    terms = label_log_terms(labels.logits, labels.target, scale, labels.weight)
    return pools.log_sums(torch.stack(terms, 1))


def label_logs(
    labels: Labels | IndexedLabels, pools: Pools, scale: float, factors: Tensor | None
) -> Callable[[Units | None], Tensor] | None:
    """Return what gives the loss of each pool (P,), or their mean, at once; None where the sums come first.

    factors: (2,) on the log of the positives and on that of the negatives, which is 1; None for 1.
    """
    target: Tensor
    if isinstance(labels, Labels):
        logits, target, size = labels.logits, labels.target, pools.size
    else:
        logits, target, size = labels.logits.reshape(-1), labels.index, labels.labels_per_set
        if labels.wrong is not None or pools.size != 1:
            return None
    learns = factors is not None and factors.requires_grad
    if learns or not pools.consecutive or not takes_label_logs(logits, target, labels.weight, size):
        return None
    return lambda units: pooled_label_logs(
        logits,
        target,
        labels.weight,
        size,
        scale=scale,
        yes_weight=1.0 if factors is None else float(factors[0]),
        units=units,
    )


def count_of_labels(labels: Labels | IndexedLabels) -> Tensor:
    """Return the weighted number of positives and of negatives (2,); no gradient."""
    wide = precise(labels.logits.device)
    if isinstance(labels, Labels):
        target = labels.target.detach().to(as_compute_dtype(labels.logits[:0]).dtype)
        if labels.weight is None:
            positives = target.sum(dtype=wide)
            return torch.stack((positives, target.numel() - positives))
        weight = labels.weight.detach()
        positives = torch.where(weight == 0, 0.0, weight * target).sum(dtype=wide)
        return torch.stack((positives, weight.sum(dtype=wide) - positives))
    size = labels.logits.shape[1]
    there = labels.index < size
    if labels.weight is None:
        positives, total = there.sum().to(wide), torch.full_like(there.sum(), labels.logits.numel()).to(wide)
    else:
        weight = labels.weight.detach()
        positives = (weight.gather(1, labels.index.clamp(max=size - 1)) * there).sum(dtype=wide)
        total = weight.sum(dtype=wide)
    return torch.stack((positives, total - positives))
