"""Multi-label logits, targets and weights of any accepted shape -> yes/no labels in one of two forms, checked once.

A target is a value for each label, or the numbers of a sample's positives, for so many labels that a table of values is
too much. Both are held as the caller gave them: at this size a copy costs as much as the loss.
"""

from collections import Counter
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from equilog.inputs.options import LabelOptions
from equilog.inputs.values import check_is_tensor, check_tensors, known, reads_values, value_per_set
from equilog.ops import (
    PADDING,
    as_compute_dtype,
    compute_dtype,
    in_order,
    reads_in_place,
    sorted_positives,
)


@dataclass(frozen=True)
class Labels:
    """n labels with a value each."""

    logits: Tensor
    """(n,) of any floating type; what a label left out holds may be anything."""
    target: Tensor
    """(n,) in [0, 1], of any type."""
    weight: Tensor | None
    """(n,) in the type to compute in, 0 where the label is left out; None where all weights are 1."""
    sample_weight: Tensor | None
    """(N,) the weight of each sample, or None where there is none or where the labels of a sample have their own."""
    shape: torch.Size
    """The shape of the caller's labels: (N, L) or longer, or (L,) for one sample."""
    shift: Tensor | None = None
    """(L,) what is still to be added to the logits of each label; None for 0."""
    turned: bool = False
    """Whether the labels are to be taken by their number, and in each by sample, though they are held by sample."""
    by_number: bool = False
    """Whether they are taken so, held or not."""

    labels_per_set = 1
    """How many labels one of the pools' sets is."""

    @property
    def may_be_soft(self) -> bool:
        """Whether a target may lie between 0 and 1."""
        return self.target.is_floating_point()

    @property
    def kept(self) -> Tensor | None:
        """(n,) bool: the label is not left out; None where none is."""
        if self.weight is None:
            return None
        kept = self.weight != 0
        return _by_number(kept, self.shape) if self.turned else kept

    @property
    def columns(self) -> int:
        """How many pools of labels of one number lie side by side, 0 where the labels are held as they are taken."""
        return label_count(self.shape) if self.turned else 0

    @property
    def span(self) -> int:
        """How many labels of one number are taken in a row."""
        samples = self.shape[0] if self.by_number and len(self.shape) > 1 else 1
        return samples * self.shape[2:].numel()

    def visible(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, targets and weights (n,) in the type to compute in, 0 where a label is left out."""
        x = as_compute_dtype(self.logits)
        target = self.target.to(x.dtype)
        if self.weight is None:
            return x, target, torch.ones_like(x)
        hidden = self.weight == 0
        return torch.where(hidden, 0.0, x), torch.where(hidden, 0.0, target), self.weight

    def by_value(self) -> "Labels":
        """Return these labels: they have a value each."""
        return self

    def shifted(self, shift: Tensor) -> "Labels":
        """Return the labels with a number for each of the L added to its logits, where they are read if that can be."""
        if reads_in_place(self.logits, shift):
            return replace(self, shift=shift)
        return replace(self, logits=as_compute_dtype(self.logits) + along_labels(shift, self.shape).reshape(-1))

    def by_label(self) -> "Labels":
        """Return the same labels with those of one number in a row, sample by sample: L times N instead of N times L.

        Their samples are L times as many, so that each stands for a label of one.
        """
        weight = None if self.sample_weight is None else self.sample_weight.repeat(label_count(self.shape))
        labels = replace(self, sample_weight=weight, by_number=True)
        if len(self.shape) == 2 and reads_in_place(self.logits):
            return replace(labels, turned=True)
        return replace(
            labels,
            logits=_by_number(self.logits, self.shape),
            target=_by_number(self.target, self.shape),
            weight=None if self.weight is None else _by_number(self.weight, self.shape),
        )

    def in_order(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return logits, targets and weights (n,) as they are taken, with what is added to the logits."""
        return in_order(self.logits, self.target, self.weight, self.shift, self.span, self.columns)


@dataclass(frozen=True)
class IndexedLabels:
    """N samples of L labels, of which the positives are named."""

    logits: Tensor
    """(N, L) of any floating type."""
    index: Tensor
    """(N, k) int64, each positive once and in order; L where there is none."""
    weight: Tensor | None
    """(N, L) in the type to compute in, 0 where a label is left out; None where all weights are 1."""
    sample_weight: Tensor | None
    """As of `Labels`."""
    wrong: Tensor | None
    """(N,) bool: the sample names a label twice, or one that is not there; None where that is known not to be."""
    shape: torch.Size
    """The shape of the caller's labels: (N, L), or (L,) for one sample."""
    shift: Tensor | None = None
    """As of `Labels`."""

    may_be_soft = False
    """As of `Labels`."""

    @property
    def labels_per_set(self) -> int:
        """How many labels one of the pools' sets is: the pools are of samples."""
        return self.logits.shape[1]

    @property
    def kept(self) -> Tensor | None:
        """(N,) how many labels of each sample are not left out; None where none is."""
        if self.weight is not None:
            return self.weight.count_nonzero(1)
        return None if self.logits.shape[1] else torch.zeros_like(self.index[:, :1].sum(1))

    def by_value(self) -> Labels:
        """Return the same labels with a value each."""
        table = torch.zeros(len(self.index), self.logits.shape[1] + 1, dtype=torch.bool, device=self.index.device)
        target = table.scatter(1, self.index, True)[:, :-1].reshape(-1)
        weight = self.weight
        if self.wrong is not None:
            weight = as_compute_dtype(self.logits).new_ones(self.logits.shape) if weight is None else weight
            weight = torch.where(self.wrong[:, None], torch.nan, weight)
        weight = None if weight is None else weight.reshape(-1)
        return Labels(self.logits.reshape(-1), target, weight, self.sample_weight, self.shape, self.shift)

    def shifted(self, shift: Tensor) -> "IndexedLabels":
        """As of `Labels`."""
        if reads_in_place(self.logits, shift):
            return replace(self, shift=shift)
        return replace(self, logits=as_compute_dtype(self.logits) + shift)


def label_count(shape: torch.Size) -> int:
    """Return L of labels (N, L, d1, ...), or (L,)."""
    return shape[_label_dim(shape)]


def along_labels(values: Tensor, shape: torch.Size) -> Tensor:
    """Return a number for each of L labels as one for every label of this shape, (N, L, d1, ...) or (L,)."""
    return values.reshape(-1, *[1] * (len(shape) - 1 - _label_dim(shape))).expand(shape)


def _by_number(values: Tensor, shape: torch.Size) -> Tensor:
    """Return values of labels of this shape with those of one number in a row, sample by sample (n,)."""
    return values.reshape(shape).movedim(_label_dim(shape), 0).reshape(-1)


def _label_dim(shape: torch.Size) -> int:
    return min(len(shape) - 1, 1)


def read_labels(
    options: LabelOptions,
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    mask: Tensor | None,
) -> Labels | IndexedLabels:
    """Return the labels of logits (N, L) and indices (N, k) of positives, or of logits and target of one shape.

    Raises TypeError or ValueError.
    """
    where = options.where
    check_tensors(where, logits, target)
    _check_mask(where, mask)
    by_index = looks_indexed(logits, target) if options.index_target is None else options.index_target
    read = _indexed if by_index else _valued
    return read(options, logits, target, weight, sample_weight, mask)


def looks_indexed(logits: Tensor, target: Tensor) -> bool:
    """Tell label indices from a value a label, by the shape; of one shape they are values."""
    return (
        not target.is_floating_point()
        and target.dtype != torch.bool
        and logits.dim() in (1, 2)
        and logits.dim() == target.dim()
        and logits.shape[:-1] == target.shape[:-1]
        and logits.shape[-1] != target.shape[-1]
    )


def label_index(options: LabelOptions, target: Tensor, labels: int) -> tuple[Tensor, Tensor | None]:
    """Return positives (N, k) in order, `labels` in place of the padding, and which samples (N,) are wrong.

    None are known to be where that is None. Where nobody waits for the check, what is out of range is taken for
    padding, and its sample is wrong.
    """
    where, target = options.where, target.long()
    index, wrong = sorted_positives(target, labels)
    any_wrong = known(wrong.any(), options.validate)
    if not any_wrong:
        return index, wrong if any_wrong is None else None
    sample = int(wrong.nonzero()[0])
    named = target[sample][target[sample] != PADDING]
    outside = named[(named < 0) | (named >= labels)]
    if len(outside):
        raise ValueError(
            f"{where}: target names label {int(outside[0])} in sample {sample}, but logits have {labels} labels, 0 to "
            f"{labels - 1}. Fill rows up with {PADDING}."
        )
    label = next(label for label, times in Counter(named.tolist()).items() if times > 1)
    raise ValueError(
        f"{where}: target names label {label} twice in sample {sample}; name each positive once, and fill rows up "
        f"with {PADDING}."
    )


def _valued(
    options: LabelOptions,
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    mask: Tensor | None,
) -> Labels:
    where, shape = options.where, logits.shape
    if logits.dim() == 0 or target.shape != shape:
        raise ValueError(
            f"{where}: target must have the shape of logits, {tuple(shape)}, one value in [0, 1] a label; "
            f"got {tuple(target.shape)}."
        )
    factors = [
        _broadcast(where, name, values, shape)
        for name, values in (("weight", weight), ("mask", mask))
        if values is not None
    ]
    if sample_weight is not None:
        factors.append(value_per_set(where, "sample_weight", sample_weight, shape))
    product = _product(factors, compute_dtype(logits)) if factors else None
    labels = Labels(logits.reshape(-1), target.reshape(-1), product, _per_sample(sample_weight, shape), shape)
    if options.validate:
        _check_values(where, labels)
    elif not target.is_floating_point() and target.dtype != torch.bool and target.numel() and reads_values(target):
        _check_integers(where, labels)
    return labels


def _indexed(
    options: LabelOptions,
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    mask: Tensor | None,
) -> IndexedLabels:
    where, shape, pool = options.where, logits.shape, options.pool
    if isinstance(pool, int) and not isinstance(pool, bool):
        raise ValueError(
            f'{where}: pool must be "sample", "batch", "label" or (N,) pool ids where the target is label indices; got '
            f"{pool!r}, a number of labels. Give pool ids, torch.arange(N) // samples."
        )
    if target.is_floating_point() or target.dtype == torch.bool:
        raise TypeError(
            f"{where}: a target of label indices must hold integers, not {target.dtype}. Give a value a label with "
            f"index_target=False."
        )
    if logits.dim() not in (1, 2) or target.dim() != logits.dim() or target.shape[:-1] != shape[:-1]:
        raise ValueError(
            f"{where}: a target of label indices must be (N, k) to match logits (N, L), or (k,) to match (L,); got "
            f"{tuple(target.shape)} and {tuple(shape)}."
        )
    rows = logits if logits.dim() == 2 else logits[None]
    index, wrong = label_index(options, target if target.dim() == 2 else target[None], rows.shape[1])
    factors = [
        _over_labels(where, name, values, shape)
        for name, values in (("weight", weight), ("sample_weight", sample_weight), ("mask", mask))
        if values is not None
    ]
    product = _product(factors, compute_dtype(logits)).expand(rows.shape) if factors else None
    labels = IndexedLabels(rows, index, product, _per_sample(sample_weight, shape), wrong, shape)
    if options.validate:
        _check_indexed_values(where, labels)
    return labels


def _per_sample(sample_weight: Tensor | None, shape: torch.Size) -> Tensor | None:
    return sample_weight if sample_weight is not None and len(shape) > 1 and sample_weight.dim() == 1 else None


def _check_mask(where: str, mask: Tensor | None) -> None:
    if mask is not None and (not isinstance(mask, Tensor) or mask.dtype != torch.bool):
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"{where}: mask must be a bool tensor, True for the labels that take part; got {kind}.")


def _product(factors: list[Tensor], dtype: torch.dtype) -> Tensor:
    """Return the product of factors: 0 wherever one is 0, with gradient 0, and NaN where one is negative."""
    if len(factors) == 1 and factors[0].dtype == torch.bool:
        return factors[0].to(dtype)
    kept, product = factors[0] != 0, _not_negative(factors[0], dtype)
    for factor in factors[1:]:
        kept, product = kept & (factor != 0), product * _not_negative(factor, dtype)
    return torch.where(kept, product, 0.0)


def _not_negative(factor: Tensor, dtype: torch.dtype) -> Tensor:
    return factor.to(dtype) if factor.dtype == torch.bool else torch.where(factor < 0, torch.nan, factor.to(dtype))


def _broadcast(where: str, name: str, values: Tensor, shape: torch.Size) -> Tensor:
    check_is_tensor(where, name, values)
    try:
        return values.expand(shape).reshape(-1)
    except RuntimeError:
        raise ValueError(
            f"{where}: {name} must broadcast to the logits' shape {tuple(shape)}; got {tuple(values.shape)}."
        ) from None


def _over_labels(where: str, name: str, values: Tensor, shape: torch.Size) -> Tensor:
    """Return values that broadcast to (N, L), not broadcast yet, so that nothing larger than they are is made."""
    check_is_tensor(where, name, values)
    per_sample = name == "sample_weight"
    if per_sample and len(shape) == 2 and values.shape == shape[:1]:
        return values[:, None]
    try:
        values.expand(shape)
    except RuntimeError:
        fits = False
    else:
        fits = not per_sample or values.shape == shape
    if not fits:
        expected = f"{tuple(shape[:1])} or {tuple(shape)}" if per_sample else f"broadcastable to {tuple(shape)}"
        raise ValueError(f"{where}: {name} must be {expected}; got {tuple(values.shape)}.")
    return values.reshape((1,) * (2 - values.dim()) + values.shape)


def _check_integers(where: str, labels: Labels) -> None:
    """Integer targets that are class indices by mistake would pass as impossible probabilities."""
    least, most = torch.aminmax(labels.target if labels.weight is None else labels.visible()[1])
    if known((least < 0) | (most > 1)):
        raise ValueError(f"{where}: integer targets must be 0 or 1, one for each label; got other values.")


def _check_values(where: str, labels: Labels) -> None:
    x, target, weight = labels.visible()
    if known(((target >= 0) & (target <= 1)).all(), True) is False:
        raise ValueError(f"{where}: target must lie in [0, 1] and not be NaN.")
    if known(weight.isnan().any(), True):
        raise ValueError(f"{where}: weight and sample_weight must not be negative or NaN.")
    if known(x.isnan().any(), True):
        raise ValueError(f"{where}: logits hold NaN.")


def _check_indexed_values(where: str, labels: IndexedLabels) -> None:
    if labels.weight is not None and known(labels.weight.isnan().any(), True):
        raise ValueError(f"{where}: weight and sample_weight must not be negative or NaN.")
    nan = labels.logits.isnan()
    if known((nan if labels.weight is None else nan & (labels.weight != 0)).any(), True):
        raise ValueError(f"{where}: logits hold NaN.")
