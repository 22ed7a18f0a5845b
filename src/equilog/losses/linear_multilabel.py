"""The multi-label loss of a linear layer's output from its input, for so many labels that the logits are too much.

The logits are made for a few samples at a time; for pools by label, which are those by sample of the transposed logits,
for a few labels at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from equilog.core.chunks import Chunks
from equilog.core.grouping import GroupSums
from equilog.core.inner import Inner, inner_of
from equilog.core.label_sums import layout_of_labels, pools_of_labels, residual_of_labels, sums_of_labels
from equilog.core.linear_layer import Layer, as_head, check_layer, rows_of_a_chunk, uncompiled, with_known_units
from equilog.core.pool_state import ClassMass, ProcessGroup
from equilog.core.pool_sums import PoolSums
from equilog.core.pools import Pools, as_pools
from equilog.core.units import Samples
from equilog.inputs.classes import log_set_weight
from equilog.inputs.labels import IndexedLabels, Labels, label_index, looks_indexed
from equilog.inputs.options import InnerName, LabelOptions, Reduction
from equilog.inputs.values import all_true, class_vector, known
from equilog.losses.multilabel import log_odds_of_prior, weight_of_logs
from equilog.ops import as_compute_dtype


@uncompiled
def linear_multilabel_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    *,
    inner: InnerName = "odds",
    pool: str | Tensor = "sample",
    index_target: bool | None = None,
    scale: float = 1.0,
    prior: Any = None,
    prior_strength: float = 1.0,
    label_weight: Any = None,
    pos_weight: float | Tensor | None = None,
    sample_weight: Tensor | None = None,
    reduction: Reduction = "mean",
    class_mass: ClassMass | None = None,
    process_group: ProcessGroup = None,
    chunk_rows: int | None = None,
    validate: bool = False,
) -> Tensor:
    r"""`multilabel_cross_entropy` of a linear layer's logits, which are never there all at once.

    For tagging with up to millions of labels. Value and gradients are those of

    $$ \text{multilabel\_cross\_entropy}(\text{hidden}\,\text{weight}^\top + \text{bias},\ \text{target}), $$

    computed a chunk of samples at a time. A pool of one sample is known within its chunk; those of several take all
    logits twice. For pools by label it is a chunk of labels at a time, each with all its samples.

    Args:
        hidden: (N, D), floating point: the linear layer's input.
        weight: (L, D) of the same dtype, the layer's matrix. The weight of the labels is `label_weight`.
        target: (N, k) integers, the numbers 0 to L - 1 of each sample's positives, each named once, filled up with -1;
            or (N, L) values in [0, 1], floating point, integer or bool.
        bias: (L,), the layer's, or None.
        inner: as in `multilabel_cross_entropy`.
        pool: which labels share the two logs: "sample", those of each sample; "label", those of one number in all
            samples; "batch", all of the call; or (N,) integer pool ids of samples.
        index_target: as in `multilabel_cross_entropy`.
        scale: factor > 0 on the logits.
        prior: as in `multilabel_cross_entropy`.
        prior_strength: as in `multilabel_cross_entropy`.
        label_weight: (L,) factor >= 0 on each label's terms, `weight` in `multilabel_cross_entropy`.
        pos_weight: as in `multilabel_cross_entropy`.
        sample_weight: (N,) factor >= 0 on a sample's terms; samples of weight 0 take no time.
        reduction: as in `multilabel_cross_entropy`.
        class_mass: as in `multilabel_cross_entropy`.
        process_group: as in `multilabel_cross_entropy`.
        chunk_rows: number of samples >= 1 whose logits are there together, for pool "label" number of labels. None is D
            / 2 samples, but at most 1024 (on a GPU 256 to 4096), and L D / (2 N) labels, but at most L / 8: a chunk's
            logits and their gradient then take no more memory than `weight`.
        validate: look at the values of the arguments too and raise on bad ones. Makes a GPU wait. On the CPU, label
            indices out of range or named twice raise anyway; on a GPU they make their sample NaN.

    Returns:
        Nats, float32 (float64 for float64 `hidden`): a scalar, or for reduction "none" (P,), one value a pool.

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape or range, named with what was expected.

    Limits:
        The gradients are formed with the value, in three products of matrices, as many as logits and their gradients
        take; pools of several samples, and reduction "none", need a fourth. Under autocast the products are made in
        its dtype and added up in float32. `label_weight` and `pos_weight` get no gradient, and for pool "label" neither
        has `sample_weight`. There is no mask of (N, L). With pool "label", or an inner term other than "odds", label
        indices become a table of yes and no a chunk at a time.
        Second derivatives, forward mode and torch.func are not supported; torch.compile leaves this call as it is,
        between two graphs.

    Source:
        As `multilabel_cross_entropy`. Gradients formed with the value, a chunk at a time: Hsu et al. 2024,
        arXiv 2410.10989 (Liger Kernel).

    Example:
        >>> from equilog import multilabel_cross_entropy
        >>> generator = torch.manual_seed(0)
        >>> hidden, weight = torch.randn(64, 8, generator=generator), torch.randn(1000, 8, generator=generator)
        >>> target = torch.randint(500, (64, 2), generator=generator) + torch.tensor([0, 500])
        >>> loss = linear_multilabel_cross_entropy(hidden, weight, target, chunk_rows=16)
        >>> torch.allclose(loss, multilabel_cross_entropy(hidden @ weight.T, target))
        True
    """
    options = LabelOptions(
        where="linear_multilabel_cross_entropy",
        inner=inner,
        pool=pool,
        index_target=index_target,
        scale=scale,
        prior_strength=prior_strength,
        reduction=reduction,
        validate=validate,
    )
    layer = _layer(options, hidden, weight, target, bias, prior, label_weight, pos_weight, sample_weight, chunk_rows)
    return layer.loss(options, class_mass, process_group)


@dataclass(frozen=True)
class _Targets:
    """The positives of N samples among L labels: a value for each label, or their numbers."""

    values: Tensor | None
    """(N, L) in [0, 1], or None."""
    index: Tensor | None
    """(N, k) int64, each positive once and in order, L where there is none; or None."""
    wrong: Tensor | None
    """(N,) bool, as of `IndexedLabels`."""
    labels: int
    """L."""

    @property
    def may_be_soft(self) -> bool:
        """Whether a target may lie between 0 and 1."""
        return self.values is not None and self.values.is_floating_point()

    def only(self, samples: Tensor) -> "_Targets":
        """Return the targets of these samples."""
        values, index, wrong = (
            part if part is None else part[samples] for part in (self.values, self.index, self.wrong)
        )
        return _Targets(values, index, wrong, self.labels)

    def of_samples(self, z: Tensor, samples: Tensor, label_weight: Tensor | None) -> Labels | IndexedLabels:
        """Return the labels of logits (k, L), or of one for all, of these samples."""
        weight = None if label_weight is None else label_weight.expand_as(z)
        if self.values is not None:
            return _row_by_row(z, self.values[samples], weight)
        assert self.index is not None
        return IndexedLabels(z, self.index[samples], weight, None, None, z.shape)

    def of_labels(self, z: Tensor, labels: Tensor, sample_weight: Tensor | None) -> Labels:
        """Return the labels of logits (k, N) of these labels, which follow each other."""
        weight = None if sample_weight is None else sample_weight.expand_as(z)
        if self.values is not None:
            return _row_by_row(z, self.values[:, labels].mT, weight)
        assert self.index is not None
        place = self.index - labels[:1]
        place = torch.where((place >= 0) & (place < len(labels)), place, len(labels))  # a row for all others
        table = torch.zeros(len(labels) + 1, len(self.index), dtype=torch.bool, device=z.device)
        return _row_by_row(z, table.scatter(0, place.mT, True)[:-1], weight)

    def positives_by_sample(self, label_weight: Tensor | None) -> Tensor:
        """Return the weighted number of each sample's positives (N,)."""
        if self.values is not None:
            return (self.values if label_weight is None else self.values * label_weight).sum(1)
        assert self.index is not None
        there = self.index < self.labels
        return (there if label_weight is None else there * label_weight[self.index.clamp(max=self.labels - 1)]).sum(1)

    def positives_by_label(self, sample_weight: Tensor) -> Tensor:
        """Return the weighted number of each label's positives (L,)."""
        if self.values is not None:
            return (self.values * sample_weight[:, None]).sum(0)
        assert self.index is not None
        each = sample_weight[:, None].expand(self.index.shape).reshape(-1)
        return each.new_zeros(self.labels + 1).index_add(0, self.index.reshape(-1), each)[:-1]


def _row_by_row(z: Tensor, target: Tensor, weight: Tensor | None) -> Labels:
    return Labels(z.reshape(-1), target.reshape(-1), None if weight is None else weight.reshape(-1), None, z.shape)


def _read(options: LabelOptions, target: Tensor, logits: Tensor, kept: Tensor | None) -> _Targets:
    """Return the targets of logits (N, L), of which only the shape is there; ValueError for others."""
    samples, labels = logits.shape
    if looks_indexed(logits, target) if options.index_target is None else options.index_target:
        if target.is_floating_point() or target.dtype == torch.bool or target.dim() != 2 or len(target) != samples:
            raise ValueError(
                f"{options.where}: a target of label indices must be ({samples}, k) integers; got "
                f"{tuple(target.shape)} {target.dtype}."
            )
        index, wrong = label_index(options, target, labels)
        return _Targets(None, index, wrong, labels)
    if target.shape != logits.shape:
        raise ValueError(
            f"{options.where}: target must be {tuple(logits.shape)}, one value in [0, 1] a label, or label indices "
            f"({samples}, k); got {tuple(target.shape)} {target.dtype}."
        )
    inside = ((target >= 0) & (target <= 1)).all(1)
    inside = inside if kept is None else inside | ~kept
    if (options.validate or not target.is_floating_point()) and known(inside.all(), options.validate) is False:
        raise ValueError(f"{options.where}: target must lie in [0, 1], one value a label; got other values.")
    return _Targets(target, None, None, labels)


@dataclass(frozen=True)
class _Call:
    """The arguments of a call, checked."""

    options: LabelOptions
    hidden: Tensor
    """(N, D)"""
    weight: Tensor
    """(L, D)"""
    shift: Tensor | None
    """(L,) the bias, and the log odds of the prior."""
    targets: _Targets
    log_weight: Tensor
    """(N,) of the samples, NaN where the targets of one are wrong."""
    kept: Tensor | None
    """(N,) bool, the samples of a weight above 0; None where it is all."""
    label_weight: Tensor | None
    """(L,)"""
    sample_weight: Tensor | None
    """(N,)"""
    chunk_rows: int | None


@dataclass(frozen=True)
class _Rows:
    """The rows of a layer, each with two log terms of its own: samples, or labels."""

    inputs: tuple[Tensor, Tensor, Tensor | None, Tensor]
    """As of a `Layer`, with one log weight a row."""
    shifts_rows: bool
    """Whether the shift has a value for each row; else one for each column."""
    read: Callable[[Tensor, Tensor], Labels | IndexedLabels]
    """(scaled logits (k, M), row numbers (k,)) -> the labels of these rows, with the weights of the columns."""
    positives: Tensor
    """(n,) weighted number of positives."""
    total: Tensor
    """0-d, weighted number of labels in a row."""
    samples: Samples
    """The pools of the rows, and what their units are made of."""
    chunks: tuple[Tensor, ...]
    """The numbers of the rows that take part."""


def _samples_as_rows(call: _Call) -> _Rows:
    """Return samples with L labels each, which meet in any pools."""
    options, label_weight = call.options, call.label_weight
    labels, features = call.weight.shape
    kept = all_true(call.log_weight) if call.kept is None else call.kept
    there = labels if label_weight is None else int((label_weight != 0).sum())
    pools, gentle = as_pools(options, call.log_weight.shape, kept.device), inner_of(options).gentle and labels == 1
    used = kept.nonzero().squeeze(1)
    size = rows_of_a_chunk(options.where, call.chunk_rows, features, kept.device)
    return _Rows(
        inputs=(call.hidden, call.weight, call.shift, call.log_weight),
        shifts_rows=False,
        read=lambda z, rows: call.targets.of_samples(z, rows, label_weight),
        positives=call.targets.positives_by_sample(label_weight),
        total=call.log_weight.new_tensor(labels) if label_weight is None else label_weight.sum(),
        samples=Samples(pools, kept * there, call.sample_weight, None, gentle=gentle),
        chunks=torch.split(used, size) if len(used) else (),
    )


def _labels_as_rows(call: _Call) -> _Rows:
    """Return labels with N samples each, all of a label in a pool of their own."""
    hidden, targets, log_weight, label_weight = call.hidden, call.targets, call.log_weight, call.label_weight
    if call.kept is not None:
        used = call.kept.nonzero().squeeze(1)
        hidden, targets, log_weight = hidden[used], targets.only(used), log_weight[used]
    sample_weight = log_weight.detach().exp()
    labels, features = call.weight.shape
    of_label = sample_weight.new_ones(labels) if label_weight is None else label_weight
    # A label stands for all its samples, of which some are kept, with the weight of all.
    pools = Pools(labels, labels, 1, hidden.device, size=1)
    samples = Samples(
        pools,
        (of_label != 0) * len(hidden),
        sample_weight.nan_to_num(nan=1.0).sum().expand(labels),
        None,
        gentle=inner_of(call.options).gentle,
    )
    # Logits and their gradient take no more memory than the matrix, and a few large chunks are as good as many.
    most = max(min(labels * features // max(2 * len(hidden), 1), -(-labels // 8)), 1)
    size = (
        most
        if call.chunk_rows is None
        else rows_of_a_chunk(call.options.where, call.chunk_rows, features, hidden.device)
    )
    weighted = call.sample_weight is not None or targets.wrong is not None
    return _Rows(
        inputs=(call.weight, hidden, call.shift, of_label.log()),
        shifts_rows=True,
        read=lambda z, rows: targets.of_labels(z, rows, sample_weight if weighted else None),
        positives=targets.positives_by_label(sample_weight),
        total=sample_weight.sum(),
        samples=samples,
        chunks=torch.split(torch.arange(labels, device=hidden.device), size),
    )


def _layer(
    options: LabelOptions,
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    prior: Any,
    label_weight: Any,
    pos_weight: float | Tensor | None,
    sample_weight: Tensor | None,
    chunk_rows: int | None,
) -> Layer:
    """Return a layer whose rows, samples or labels, have two log terms each, which meet in two logs a pool."""
    where, validate = options.where, options.validate
    shape = check_layer(where, hidden, weight, target, bias, per_output="label_weight", validate=validate)
    if len(shape) != 1:
        raise ValueError(f"{where}: hidden must be (N, D), one row a sample; got {tuple(hidden.shape)}.")
    if isinstance(options.pool, int):
        raise ValueError(f'{where}: pool must be "sample", "label", "batch" or (N,) pool ids; got {options.pool!r}.')
    inner, labels = inner_of(options), len(weight)
    like = as_compute_dtype(hidden.new_empty(0, labels))  # logits of no samples
    if label_weight is not None:
        label_weight = class_vector(
            where, "label_weight", label_weight, like, positive=False, validate=validate, unit="label"
        ).detach()
    log_weight, kept = log_set_weight(options, sample_weight, None, shape, hidden.device, like.dtype)
    log_weight = like.new_zeros(len(hidden)) if log_weight is None else log_weight
    targets = _read(options, target, hidden.new_empty(len(hidden), 1).expand(-1, labels), kept)
    if targets.wrong is not None:
        log_weight = torch.where(targets.wrong, torch.nan, log_weight)
    shift = None if bias is None else bias.to(like)
    if prior is not None:
        shift = log_odds_of_prior(options, prior, labels, like) + (0.0 if shift is None else shift)
    call = _Call(options, hidden, weight, shift, targets, log_weight, kept, label_weight, sample_weight, chunk_rows)
    rows = _labels_as_rows(call) if options.by_label else _samples_as_rows(call)
    row_inputs, columns, shift, log_weight = rows.inputs
    factors, factor = weight_of_logs(where, pos_weight, like), log_weight.detach().exp()
    pools = rows.samples.pools
    sides = torch.stack((rows.positives, rows.total - rows.positives), 1)
    holds = rows.total.expand_as(sides) if inner.separate else sides

    soft = targets.may_be_soft and inner.name != "odds" and not inner.separate

    def log_terms(z: Tensor, numbers: Tensor) -> Tensor:
        labels = rows.read(z, numbers)
        labels = labels if inner.name == "odds" else labels.by_value()
        return sums_of_labels(labels, pools_of_labels(_APART, labels), 1.0, inner, compensated=False).log_sums

    return with_known_units(
        Layer(
            inputs=(row_inputs, columns, shift, log_weight[:, None].expand(-1, 2)),
            head=as_head(row_inputs, columns, shift, options.scale, log_terms, shifts_rows=rows.shifts_rows),
            chunks=Chunks(rows.chunks, () if pools.consecutive and pools.size == 1 else rows.chunks),
            slot=None,
            slots=2,
            empty=PoolSums(
                make_sums=lambda: GroupSums(like.new_empty(0, 2)),
                samples=rows.samples,
                class_count=lambda: (factor[:, None] * sides).sum(0).double(),
                shape=torch.Size((len(row_inputs),)),
                layout=layout_of_labels(options, torch.Size((len(hidden), labels))),
                compensation="weight",
                group_weight=None if factors is None else factors.detach(),
            ),
            of_logits="multilabel_cross_entropy",
            residual=_residual(rows, inner, factor) if soft else None,
        ),
        torch.where(holds * factor[:, None] > 0, 0.0, -torch.inf).to(like.dtype),
    )


def _residual(rows: _Rows, inner: Inner, factor: Tensor) -> Tensor:
    """Return R of each pool (P, 2), the terms summed at the best scores, from the weights of the rows (n,)."""
    of_rows = factor.new_zeros(len(factor), 2)
    for numbers in rows.chunks:
        labels = rows.read(factor.new_zeros(len(numbers), len(rows.inputs[1])), numbers).by_value()
        of_rows[numbers] = residual_of_labels(labels, pools_of_labels(_APART, labels), inner)
    pools = rows.samples.pools
    return factor.new_zeros(pools.count, 2).index_add(0, pools.ids, factor[:, None] * of_rows)


_APART = LabelOptions(where="linear_multilabel_cross_entropy", pool="sample")
"""The pools that keep the rows of a layer apart."""
