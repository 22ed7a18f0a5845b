"""The positive and the negative sum of each pool of yes/no labels: the two groups of a choice between two classes."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from equilog.core.grouping import GroupSums
from equilog.core.inner import Inner, inner_of
from equilog.core.pool_state import Layout
from equilog.core.pools import Pools, as_pools, spans_parts
from equilog.inputs.labels import IndexedLabels, Labels, label_count
from equilog.inputs.options import LabelOptions
from equilog.ops import (
    LabelSums,
    Units,
    as_two_classes,
    indexed_label_log_sums,
    log_sum_exp_by,
    pooled_label_log_sums,
    pooled_label_logs,
    pooled_label_residual,
    pooled_label_terms,
    precise,
    takes_label_logs,
)

_MOST = 2**22
"""Labels that are counted at a time: so many that the calls take no time, and what is made of them little memory."""


def pools_of_labels(options: LabelOptions, labels: Labels | IndexedLabels) -> Pools:
    """Return the pools of labels, or of whole samples where their positives are named."""
    device, pool = labels.logits.device, options.pool
    if options.by_label:
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


def layout_of_labels(options: LabelOptions, shape: torch.Size, *, counts: bool = False) -> Layout:
    """Return what the class mass of labels of this shape is; `counts`: whether each label is counted by itself."""
    inner = inner_of(options)
    return Layout(
        "multilabel",
        2,
        spans=options.by_label or spans_parts(options.pool, shape),
        pools=label_count(shape) if options.by_label else 1,
        labels=label_count(shape) if counts else 0,
        compensated=inner.name != "odds" and not inner.separate,
        inner=inner.name,
    )


def pooled_sums_of_labels(labels: Labels | IndexedLabels, pools: Pools, scale: float) -> Tensor:
    """Return the logs of each pool's positive and negative sum (P, 2): of v t exp(-x) and of v (1 - t) exp(x)."""
    if isinstance(labels, IndexedLabels):
        of_samples = indexed_label_log_sums(labels.logits, labels.index, labels.weight, scale, labels.shift)
        if labels.wrong is not None:
            of_samples = torch.where(labels.wrong[:, None], torch.nan, of_samples)
        return of_samples if pools.consecutive and pools.size == 1 else pools.log_sums(of_samples)
    plain = labels.shift is None and not labels.turned
    if plain and pools.consecutive and pools.sets:
        return pooled_label_log_sums(labels.logits, labels.target, labels.weight, pools.size, scale)
    if plain and pools.sample_ids is not None:
        of_samples = pooled_label_log_sums(labels.logits, labels.target, labels.weight, pools.positions, scale)
        return log_sum_exp_by(of_samples, pools.sample_ids, pools.count)
    return _sums_of_terms(labels, pools, scale, "odds")[0]


def sums_of_labels(
    labels: Labels | IndexedLabels, pools: Pools, scale: float, inner: Inner, *, compensated: bool = True
) -> GroupSums:
    """Return the logs of each pool's positive and negative sum, and what the best scores leave of them.

    A label is a set of two classes, yes and no, with the log odds -x and x against them.
    """
    if inner.name == "odds":
        return GroupSums(pooled_sums_of_labels(labels, pools, scale))
    assert isinstance(labels, Labels)
    soft = compensated and labels.may_be_soft and not inner.separate
    log_sums, residual = _sums_of_terms(labels, pools, scale, inner.name, with_residual=soft)
    return GroupSums(log_sums, residual=residual)


def _sums_of_terms(
    labels: Labels, pools: Pools, scale: float, inner: str, *, with_residual: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Return the log sums (P, 2) of an inner term and, where it is asked for, what the best scores leave of them."""
    by_sample = pools.sample_ids is not None
    size, ids = (pools.positions, None) if by_sample else pools.partition
    asked = LabelSums(size, scale, inner, labels.span, labels.columns, with_residual)
    log_sums, residual = pooled_label_terms(labels.logits, labels.target, labels.weight, asked, labels.shift, ids)
    if pools.sample_ids is not None:
        log_sums = log_sum_exp_by(log_sums, pools.sample_ids, pools.count)
        if residual is not None:
            residual = residual.new_zeros(pools.count, 2).index_add(0, pools.sample_ids, residual)
    return log_sums, residual


def residual_of_labels(labels: Labels, pools: Pools, inner: Inner) -> Tensor:
    """Return what the best scores leave of each pool's positive and negative sum (P, 2); no gradient."""
    return pooled_label_residual(labels.logits, labels.target, labels.weight, inner.name, *pools.partition)


def two_classes_of(labels: Labels, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log odds (n, 2) against yes and no, their shares (n, 2) in the target, and the log weights (n,)."""
    return as_two_classes(*labels.in_order(), scale)


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
    learns = (factors is not None and factors.requires_grad) or labels.shift is not None
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
    count, shape = label_count(labels.shape), labels.shape
    if isinstance(labels, Labels):
        samples = shape[0] if len(shape) > 1 else 1
        sums = _sums_in_columns(labels, samples, count * shape[2:].numel())
        positives, total = (values.view(count, shape[2:].numel()).sum(1) for values in sums)
    else:
        of_named, weight = _weight_of_named(labels), labels.weight
        positives = of_named.new_zeros(count + 1).index_add(0, labels.index.reshape(-1), of_named.reshape(-1))[:-1]
        if weight is None:
            total = positives.new_full((count,), len(labels.index))
        else:
            total = weight.detach().sum(0, dtype=of_named.dtype)
    return torch.stack((positives, total - positives), 1).reshape(-1)


def count_of_labels(labels: Labels | IndexedLabels) -> Tensor:
    """Return the weighted number of positives and of negatives (2,); no gradient."""
    if isinstance(labels, Labels):
        positives, total = (values.sum() for values in _sums_in_columns(labels, labels.logits.numel(), 1))
    else:
        of_named, weight = _weight_of_named(labels), labels.weight
        positives, size = of_named.sum(), labels.logits.numel()
        total = positives.new_full((), size) if weight is None else weight.detach().sum(dtype=of_named.dtype)
    return torch.stack((positives, total - positives))


def _sums_in_columns(labels: Labels, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Return the sums (columns,) of weighted targets and of weights, of labels that lie in rows and columns.

    Some rows at a time, since torch makes a table of what it sums in another type.
    """
    wide = precise(labels.logits.device)
    target = labels.target.detach().view(rows, columns)
    weight = None if labels.weight is None else labels.weight.detach().view(rows, columns)
    positives, total = (torch.zeros(columns, dtype=wide, device=target.device) for _ in range(2))
    most = max(_MOST // max(columns, 1), 1)
    # What is compiled makes no tables, and a loop over parts would depend on how many there are.
    parts = [slice(None)] if torch.compiler.is_compiling() else [slice(i, i + most) for i in range(0, rows, most)]
    for part in parts:  # not in place: under vmap the sums get a dimension more
        if weight is None:
            positives = positives + target[part].sum(0, dtype=wide)
            total = total + len(target[part])
        else:
            counted = torch.where(weight[part] == 0, 0.0, weight[part] * target[part])
            positives = positives + counted.sum(0, dtype=wide)
            total = total + weight[part].sum(0, dtype=wide)
    return positives, total


def _weight_of_named(labels: IndexedLabels) -> Tensor:
    """Return the weight of each positive (N, k), 0 where there is none."""
    wide, size = precise(labels.logits.device), labels.logits.shape[1]
    there = (labels.index < size).to(wide)
    if labels.weight is None or not size:
        return there
    return there * labels.weight.detach().gather(1, labels.index.clamp(max=size - 1))
