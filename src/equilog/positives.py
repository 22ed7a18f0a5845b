"""Multi-label targets that name their positives: (N, k) label numbers, for so many labels that a table is too much."""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from equilog.kernels import log_index_sums, sorted_positives
from equilog.labels import Labels, as_labels, check_mask, product_of
from equilog.pooling import Pools, as_pools
from equilog.sides import PADDING
from equilog.targets import compute_dtype, known


@dataclass(frozen=True)
class IndexedLabels:
    """N samples of L labels each, of which the positives are named."""

    given_logits: Tensor
    """(N, L) of any floating type."""
    index: Tensor
    """(N, k) int64, each positive once and in order; L where there is none."""
    weight: Tensor | None
    """(N, L) in the dtype that is computed in, 0 where a label is left out; None where all weights are 1."""
    wrong: Tensor | None
    """(N,) bool: the sample names a label twice, or one that is not there; None where that is known not to be."""
    shape: torch.Size
    """The shape of the caller's labels: (N, L), or (L,) for one sample."""

    @property
    def each(self) -> int:
        """Labels a sample."""
        return self.given_logits.shape[1]

    @property
    def kept(self) -> Tensor | None:
        """(N,) how many labels of each sample are not left out; None where none is."""
        if self.weight is not None:
            return self.weight.count_nonzero(1)
        return None if self.each else torch.zeros_like(self.index[:, :1].sum(1))

    def log_sums(self, pools: Pools, scale: float) -> Tensor:
        """Return the logs of the summed threats to each pool's positives and negatives, (P, 2)."""
        samples = log_index_sums(self.given_logits, self.index, self.weight, scale)
        if self.wrong is not None:
            samples = torch.where(self.wrong[:, None], torch.nan, samples)
        return samples if pools.given is None and pools.size == 1 else pools.log_sums(samples)

    def pools(self, where: str, pool: str | int | Tensor | None) -> Pools:
        """Return the pools a `pool` argument names: of samples, since labels have no order here."""
        if isinstance(pool, int):
            raise ValueError(
                f'{where}: pool must be "sample", "batch" or (N,) pool ids where the target is label indices; got '
                f"{pool!r}, a number of labels. Give pool ids, torch.arange(N) // samples."
            )
        samples = self.given_logits.shape[:1]
        return as_pools(where, pool, samples, self.given_logits.device)

    def side_count(self) -> Tensor:
        """Return the weighted number of positives and of negatives (2,); no gradient."""
        labels = self.given_logits.shape[1]
        there = self.index < labels
        if self.weight is None:
            positives, total = there.sum(), torch.tensor(self.given_logits.numel(), device=self.index.device)
        else:
            weight = self.weight.detach()
            positives = (weight.gather(1, self.index.clamp(max=labels - 1)) * there).sum()
            total = weight.sum()
        return torch.stack((positives, total - positives)).to(compute_dtype(self.given_logits))

    def dense(self) -> Labels:
        """Return the same labels with a target each."""
        table = torch.zeros(len(self.index), self.given_logits.shape[1] + 1, device=self.index.device)
        target = table.scatter(1, self.index, 1.0)[:, :-1].reshape(-1)
        weight = None if self.weight is None else self.weight.reshape(-1)
        return Labels(self.given_logits.reshape(-1), target, weight, self.shape)


def read_labels(
    where: str,
    logits: Tensor,
    target: Tensor,
    *,
    index_target: bool | None,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    mask: Tensor | None,
    validate: bool,
) -> Labels | IndexedLabels:
    """Return the labels of logits (N, L) and indices (N, k) of positives, or of logits and target of one shape.

    Raises TypeError or ValueError.
    """
    if index_target is None:
        index_target = looks_indexed(logits, target)
    if not index_target:
        return as_labels(
            where, logits, target, weight=weight, sample_weight=sample_weight, mask=mask, validate=validate
        )
    _check_shapes(where, logits, target)
    check_mask(where, mask)
    rows = logits if logits.dim() == 2 else logits[None]
    index, wrong = as_index(where, target if target.dim() == 2 else target[None], rows.shape[1], validate=validate)
    factors = [
        _of_each(where, name, values, logits.shape)
        for name, values in (("weight", weight), ("sample_weight", sample_weight), ("mask", mask))
        if values is not None
    ]
    product = product_of(factors, compute_dtype(logits)).expand(rows.shape) if factors else None
    labels = IndexedLabels(rows, index, product, wrong, logits.shape)
    if validate:
        _check_values(where, labels)
    return labels


def as_index(where: str, target: Tensor, labels: int, *, validate: bool) -> tuple[Tensor, Tensor | None]:
    """Return positives (N, k) in order, `labels` in place of the padding, and which samples (N,) are wrong.

    None are known to be where that is None. Where nobody waits for the check, what is out of range is taken for
    padding, and its sample is wrong.
    """
    target = target.long()
    index, wrong = sorted_positives(target, labels)
    found = known(wrong.any(), validate)
    if not found:
        return index, wrong if found is None else None
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


def looks_indexed(logits: object, target: object) -> bool:
    """Tell label indices from a value a label, by the shape; of one shape they are values."""
    return (
        isinstance(logits, Tensor)
        and isinstance(target, Tensor)
        and not target.is_floating_point()
        and target.dtype != torch.bool
        and logits.dim() in (1, 2)
        and logits.dim() == target.dim()
        and logits.shape[:-1] == target.shape[:-1]
        and logits.shape[-1] != target.shape[-1]
    )


def _check_shapes(where: str, logits: Tensor, target: Tensor) -> None:
    if not isinstance(logits, Tensor) or not isinstance(target, Tensor):
        found = f"{type(logits).__name__} and {type(target).__name__}"
        raise TypeError(f"{where}: logits and target must be tensors; got {found}. Wrap them in torch.as_tensor.")
    if not logits.is_floating_point():
        raise TypeError(f"{where}: logits must be floating point, not {logits.dtype}; call logits.float().")
    if target.is_floating_point() or target.dtype == torch.bool:
        raise TypeError(
            f"{where}: a target of label indices must hold integers, not {target.dtype}. Give a value a label with "
            f"index_target=False."
        )
    if logits.dim() not in (1, 2) or target.dim() != logits.dim() or target.shape[:-1] != logits.shape[:-1]:
        raise ValueError(
            f"{where}: a target of label indices must be (N, k) to match logits (N, L), or (k,) to match (L,); got "
            f"{tuple(target.shape)} and {tuple(logits.shape)}."
        )


def _of_each(where: str, name: str, values: Tensor, shape: torch.Size) -> Tensor:
    """Return values that broadcast to (N, L), not broadcast yet, of which nothing larger than given is made."""
    if not isinstance(values, Tensor):
        raise TypeError(f"{where}: {name} must be a tensor; got {type(values).__name__}. Wrap it in torch.as_tensor.")
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


def _check_values(where: str, labels: IndexedLabels) -> None:
    if labels.weight is not None and known(labels.weight.isnan().any(), True):
        raise ValueError(f"{where}: weight and sample_weight must not be negative or NaN.")
    logits = labels.given_logits
    if known((logits.isnan() if labels.weight is None else logits.isnan() & (labels.weight != 0)).any(), True):
        raise ValueError(f"{where}: logits hold NaN.")
