"""The positive and the negative sum of each pool of yes/no labels: the two groups of a choice between two classes."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from equilog.core.grouping import GroupSums, LogTerms, residual_sums
from equilog.core.inner import Inner
from equilog.core.pools import Pools, as_pools
from equilog.inputs.labels import IndexedLabels, Labels, along_labels, label_count
from equilog.inputs.options import LabelOptions
from equilog.ops import (
    Units,
    as_compute_dtype,
    indexed_label_log_sums,
    label_log_terms,
    pooled_label_log_sums,
    pooled_label_logs,
    precise,
    scores_of,
    takes_label_logs,
)


def pools_of_labels(options: LabelOptions, labels: Labels | IndexedLabels) -> Pools:
    """Return the pools of labels, or of whole samples where their positives are named."""
    device, pool = labels.logits.device, options.pool
    if isinstance(pool, str) and pool == "label":
        pools, shape = label_count(labels.shape), labels.shape
        positions = shape[2:].numel()
        return Pools(pools, shape.numel(), positions, device, size=(shape[0] if len(shape) > 1 else 1) * positions)
    if isinstance(pool, str) and pool not in ("sample", "batch"):
        raise ValueError(
            f'{options.where}: pool must be "sample", "batch", "label", a number of labels >= 1, or a tensor of pool '
            f"ids; got {pool!r}."
        )
    if isinstance(labels, IndexedLabels):
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
    terms = label_log_terms(labels.logits, labels.target, scale, labels.weight)
    return pools.log_sums(torch.stack(terms, 1))


def sums_of_labels(labels: Labels | IndexedLabels, pools: Pools, scale: float, inner: Inner) -> GroupSums:
    """Return the logs of each pool's positive and negative sum, and what the best scores leave of them.

    A label is a set of two classes, yes and no, with the log odds -x and x against them.
    """
    if inner.name == "odds":
        return GroupSums(pooled_sums_of_labels(labels, pools, scale))
    labels = labels.by_value()
    probs, log_weight = targets_of_labels(labels)
    terms = LogTerms(inner.log_of_soft(log_odds_of_labels(labels, scale), probs), None, 1)
    soft = labels.target.is_floating_point() and not inner.separate
    return GroupSums(
        terms.pooled(pools, log_weight),
        residual=residual_sums(inner, probs, log_weight, pools) if soft else None,
    )


def log_odds_of_labels(labels: Labels, scale: float) -> Tensor:
    """Return the log odds (n, 2) against yes and no, 0 where a label is left out."""
    x = scores_of(labels.visible()[0], None, scale)
    return torch.stack((-x, x), 1)


def targets_of_labels(labels: Labels) -> tuple[Tensor, Tensor]:
    """Return the shares (n, 2) of yes and no in each target, and the log weights (n,)."""
    _, target, weight = labels.visible()
    kept = weight != 0
    log_weight = torch.where(kept, torch.where(kept, weight, 1.0).log(), -torch.inf)
    return torch.stack((target, 1.0 - target), 1), log_weight


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


def count_by_label(labels: Labels | IndexedLabels) -> Tensor:
    """Return the weighted number of positives and of negatives of each label (2 L,), side by side; no gradient."""
    wide, count = precise(labels.logits.device), label_count(labels.shape)
    if isinstance(labels, Labels):
        _, target, weight = labels.visible()
        of_label = along_labels(torch.arange(count, device=target.device), labels.shape).reshape(-1)
        both = torch.stack((weight * target, weight), 1).detach().to(wide)
        positives, total = both.new_zeros(count, 2).index_add(0, of_label, both).unbind(1)
    else:
        index = labels.index
        weight = index.new_ones((), dtype=wide) if labels.weight is None else labels.weight.detach().to(wide)
        weight = weight.expand(labels.logits.shape)
        of_named = F.pad(weight, (0, 1)).gather(1, index)  # 0 where there is none
        positives = weight.new_zeros(count + 1).index_add(0, index.reshape(-1), of_named.reshape(-1))[:-1]
        total = weight.sum(0)
    return torch.stack((positives, total - positives), 1).reshape(-1)


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
