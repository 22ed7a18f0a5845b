"""Logits, targets and weights of any accepted shape -> n sets of C classes in one form, checked once."""

import functools
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from equilog.inputs.options import ClassOptions, Options
from equilog.inputs.values import (
    all_true,
    check_tensors,
    known,
    least_and_most,
    reads_values,
    unless_all,
    value_per_set,
)
from equilog.ops import compute_dtype, gather_shards, is_sharded, is_transformed, precise, scores_of, target_probs

_COUNTED = 2**22
"""Probabilities that are counted at a time: some that a GPU takes at once, and that are little beside its memory."""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The targets and weights of n sets, each a choice among C classes.

    Ignored sets stay in their place with weight 0.
    """

    target: Tensor
    """(n,) int64 class indices in range, or (n, C) probabilities in the caller's type, where an ignored set may hold
    anything; before smoothing."""
    log_weight_if_any: Tensor | None
    """(n,) log of the sample weight, minus infinity where the set is ignored; None where all are 0."""
    dtype: torch.dtype
    """The type to compute in, float64 where the logits are, else float32."""
    sample_weight: Tensor | None
    """(N,) the weight of each sample, or None where there is none or where the sets of a sample have their own."""
    unweighted: bool
    """Whether no weights were given."""
    kept: Tensor | None
    """(n,) bool: the set is not ignored; None where none is known to be."""
    usable: Tensor | None
    """(n,) bool: the set is kept and its index in range; None where all of them are known to be."""
    shape: torch.Size
    """The shape of the caller's sets: (N, d1, ...), or () for a single set."""
    classes: int
    """C."""
    smoothing: float = 0.0
    """Share of a target that is spread evenly over the classes that take part in its set."""

    @property
    def index(self) -> Tensor | None:
        """(n,) int64 class indices in range, or None where the targets are probabilities, as smoothed indices are."""
        return self.target if self.target.dim() == 1 and self.smoothing == 0.0 else None

    @property
    def log_weight(self) -> Tensor:
        """(n,) log of the sample weight in the type to compute in: 0 where there is none."""
        if self.log_weight_if_any is not None:
            return self.log_weight_if_any
        return torch.zeros(self.target.shape[0], dtype=self.dtype, device=self.target.device)

    @property
    def is_kept(self) -> Tensor:
        """(n,) bool: the set is not ignored."""
        return all_true(self.log_weight) if self.kept is None else self.kept

    @property
    def probs(self) -> Tensor:
        """(n, C) target probabilities in the type of the weights, 0 in the ignored sets."""
        return self.probs_of(slice(None))

    def probs_of(self, rows: slice) -> Tensor:
        """Return the target probabilities of some sets (k, C)."""
        return self._where_kept(self.target[rows].to(self.dtype), rows)

    def class_count(self) -> Tensor:
        """Return the weighted number of sets of each class (C,), soft targets adding their share; no gradient.

        In float64, since float32 stops counting at 16 million.
        """
        if self.index is not None and self.unweighted and reads_values(self.index) and not is_transformed(self.index):
            kept = self.index if self.kept is None else self.index[self.kept]
            return torch.bincount(kept, minlength=self.classes).to(precise(self.index.device))
        weight = self.log_weight.detach().exp().to(precise(self.log_weight.device))
        if self.index is not None:
            return weight.new_zeros(self.classes).index_add(0, self.index, weight)
        # A product of matrices would lose digits in autocast. A few rows at a time, so that no table is made of all.
        step = weight.shape[0] if torch.compiler.is_compiling() else _COUNTED // self.classes
        rows = [slice(start, start + step) for start in range(0, max(weight.shape[0], 1), max(step, 1))]
        counts = ((weight[some, None] * self.probs_of(some).detach()).sum(0) for some in rows)
        return functools.reduce(torch.add, counts)

    def of_class(self, values: Tensor) -> Tensor:
        """Return the value of each set's class (n,) from one of each class (C,), the mean for a soft target."""
        if self.index is not None:
            return values[self.index]
        return (self.probs.detach() * values).sum(1)

    def _where_kept(self, probs: Tensor, rows: slice) -> Tensor:
        return probs if self.kept is None else torch.where(self.kept[rows, None], probs, 0.0)

    def blanked(self, values: Tensor, blank: float) -> Tensor:
        """Return values (n, ...) with `blank` in the ignored sets, and NaN where an index is out of range.

        Indices out of range get here only where nobody waits for a check of them.
        """
        if self.usable is None:
            return values
        rest = torch.where(self.is_kept, torch.nan, blank).to(values.dtype)
        after = (-1,) + (1,) * (values.dim() - 1)
        return torch.where(self.usable.reshape(after), values, rest.reshape(after))


@dataclass(frozen=True, kw_only=True)
class Sets(Targets):
    """n sets with their logits: the rows every loss works on.

    The loss sees scores scale * (logits + shift), which are formed where they are read. What ignored sets hold (NaN
    included) must reach neither the value nor the gradient, so whoever reads the logits takes them through `scores`, or
    calls `blanked` on what it made of them, on as few numbers as it can.
    """

    logits: Tensor
    """(n, C) in the caller's type; what an ignored set holds may be anything."""
    shift: Tensor | None = None
    """(C,) in the type to compute in, such as the log of a prior; None where it is 0."""
    scale: float = 1.0
    """Factor > 0."""

    def probs_of(self, rows: slice) -> Tensor:
        """Return the target probabilities of some sets (k, C), smoothed."""
        probs = target_probs(self.target[rows], self.logits[rows], self.smoothing, self.dtype)
        return self._where_kept(probs, rows)

    def class_count(self) -> Tensor:
        """Return the weighted number of sets of each class (C,), of which smoothing spreads a share evenly."""
        looks = self.smoothing > 0.0 and reads_values(self.logits)
        if not looks or not known((self.logits != -torch.inf).all()):
            return super().class_count()
        count = replace(self, smoothing=0.0).class_count()  # every class takes part in every set
        return (1.0 - self.smoothing) * count + self.smoothing / self.classes * count.sum()

    def with_probs(self) -> "Sets":
        """Return the sets with a table of the probabilities where `probs` would make one each time that it is read."""
        return self if self.smoothing == 0.0 else replace(self, target=self.probs, smoothing=0.0)

    def scores(self) -> Tensor:
        """Return the scores (n, C) in the type to compute in, with 0 in the ignored sets."""
        return self.blanked(scores_of(self.logits, self.shift, self.scale), 0.0)

    def gathered(self) -> "Sets":
        """Return the sets with logits that are not spread over ranks."""
        return replace(self, logits=gather_shards(self.logits))


def read_sets(options: ClassOptions, logits: Tensor, target: Tensor, sample_weight: Tensor | None) -> Sets:
    """Return the sets of logits (N, C, d1, ...) and target (N, d1, ...) or (N, C, d1, ...).

    Raises TypeError or ValueError.
    """
    where, smoothing = options.where, options.label_smoothing
    shape = _check_shapes(where, logits, target)
    is_soft = target.is_floating_point()
    if is_soft or smoothing > 0.0:
        logits = gather_shards(logits)
    rows, dtype = _rows(logits), compute_dtype(logits)
    if is_soft:
        targets = _soft_fields(options, _rows(target), dtype, sample_weight, shape)
    else:
        targets = _index_fields(options, target, rows.shape[1], dtype, sample_weight)
    sets = Sets(**targets, logits=rows, scale=options.scale, smoothing=smoothing)
    if options.validate:
        _check_values(where, sets)
    return sets


def index_targets(
    options: ClassOptions, target: Tensor, classes: int, dtype: torch.dtype, sample_weight: Tensor | None
) -> Targets:
    """Return the targets of class indices (N, d1, ...), with weights in the type to compute in."""
    return Targets(**_index_fields(options, target, classes, dtype, sample_weight))


def _index_fields(
    options: ClassOptions, target: Tensor, classes: int, dtype: torch.dtype, sample_weight: Tensor | None
) -> dict[str, Any]:
    index = target.reshape(-1).long()
    least, most = least_and_most(index) or (-1, -1)
    kept = in_range = None
    if least < 0 or most >= classes or least <= options.ignore_index <= most:
        kept = index != options.ignore_index
        in_range = (index >= 0) & (index < classes)
        if reads_values(index, options.validate):
            _check_index(options, index, kept & ~in_range, classes)
        index, kept, in_range = torch.where(in_range, index, 0), unless_all(kept), unless_all(in_range)
    log_weight, kept = log_set_weight(options, sample_weight, kept, target.shape, index.device, dtype)
    usable = kept if in_range is None else in_range if kept is None else kept & in_range
    return {
        "target": index,
        "log_weight_if_any": log_weight,
        "dtype": dtype,
        "sample_weight": _per_sample(sample_weight, target.shape),
        "unweighted": sample_weight is None,
        "kept": kept,
        "usable": usable,
        "shape": target.shape,
        "classes": classes,
    }


def _soft_fields(
    options: ClassOptions, probs: Tensor, dtype: torch.dtype, sample_weight: Tensor | None, shape: torch.Size
) -> dict[str, Any]:
    log_weight, kept = log_set_weight(options, sample_weight, None, shape, probs.device, dtype)
    return {
        "target": probs,
        "log_weight_if_any": log_weight,
        "dtype": dtype,
        "sample_weight": _per_sample(sample_weight, shape),
        "unweighted": sample_weight is None,
        "kept": kept,
        "usable": kept,
        "shape": shape,
        "classes": probs.shape[1],
    }


def log_set_weight(
    options: Options,
    sample_weight: Tensor | None,
    kept: Tensor | None,
    shape: torch.Size,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Tensor | None, Tensor | None]:
    """Return the log of each set's weight (n,), minus infinity where it is left out, and which sets are still kept.

    None in place of the one where all are 0, of the other where it is known to be all of them.
    """
    if sample_weight is None:
        if kept is None:
            return None, None
        log_weight = torch.zeros(shape.numel(), dtype=dtype, device=device)
    else:
        weight = value_per_set(options.where, "sample_weight", sample_weight, shape).to(dtype)
        kept = weight != 0 if kept is None else kept & (weight != 0)
        log_weight = torch.where(kept, weight, 1.0).log()
        if options.validate and known(log_weight.isnan().any(), True):
            raise ValueError(f"{options.where}: sample_weight must not be negative or NaN.")
        kept = unless_all(kept)
    return log_weight if kept is None else torch.where(kept, log_weight, -torch.inf), kept


def classes_last(logits: Tensor) -> Tensor:
    """(N, C, d1, ...) -> (N, d1, ..., C); (C,) as it is."""
    return logits if logits.dim() == 1 else logits.movedim(1, -1)


def classes_second(values: Tensor, like: Tensor) -> Tensor:
    """Undo `classes_last`."""
    return values if like.dim() == 1 else values.movedim(-1, 1)


def _per_sample(sample_weight: Tensor | None, shape: torch.Size) -> Tensor | None:
    return sample_weight if sample_weight is not None and sample_weight.shape == shape[:1] else None


def _check_shapes(where: str, logits: Tensor, target: Tensor) -> torch.Size:
    check_tensors(where, logits, target)
    if logits.dim() == 0:
        raise ValueError(f"{where}: logits must be (N, C, ...) or (C,); got a single number.")
    if logits.shape[min(logits.dim() - 1, 1)] == 0:
        raise ValueError(f"{where}: logits must have at least one class; got {tuple(logits.shape)}.")
    shape = logits.shape[1:] if logits.dim() == 1 else logits.shape[:1] + logits.shape[2:]
    fits = target.shape == (logits.shape if target.is_floating_point() else shape)
    if not fits:
        remedy = ""
        if target.shape == shape:
            remedy = " Indices must be integers: call target.long()."
        elif target.shape == logits.shape:
            remedy = " Probabilities must be floating point: call target.float()."
        raise ValueError(
            f"{where}: target must be {tuple(shape)} indices or {tuple(logits.shape)} probabilities to match "
            f"logits {tuple(logits.shape)}; got {tuple(target.shape)} {target.dtype}.{remedy}"
        )
    return shape


def _rows(values: Tensor) -> Tensor:
    """(N, C, d1, ...) -> (N d1 ..., C); (C,) -> (1, C)."""
    if values.dim() == 1:
        return values[None]
    if values.dim() == 2:
        return values
    last = values.movedim(1, -1)
    if is_sharded(last):
        last = last.clone(memory_format=torch.contiguous_format)  # which reshape would do, but not of a DTensor
    return last.reshape(-1, values.shape[1])


def _check_index(options: ClassOptions, index: Tensor, wrong: Tensor, classes: int) -> None:
    if known(wrong.any(), options.validate):
        first = int(index[wrong][0])
        raise ValueError(
            f"{options.where}: target holds class {first}, but there are {classes} classes, 0 to {classes - 1}. "
            f"Mark sets to leave out with ignore_index."
        )


def _check_values(where: str, sets: Sets) -> None:
    rows, index = sets.gathered().scores(), sets.index
    if known((rows.isnan() | (rows == torch.inf)).any(), True):
        raise ValueError(f"{where}: logits hold NaN or +inf. Only -inf is allowed; it leaves a class out of a set.")
    if index is not None:
        excluded = rows.gather(1, index[:, None]) == -torch.inf
    else:
        probs = sets.probs
        if known((probs >= 0).all(), True) is False:
            raise ValueError(f"{where}: target probabilities must not be negative or NaN.")
        total = torch.where(sets.log_weight > -torch.inf, probs.sum(1), 1.0)
        if known(((total - 1).abs() > 1e-3).any(), True):
            worst = float(total[(total - 1).abs().argmax()])
            raise ValueError(
                f"{where}: target probabilities must sum to 1 over the classes; one set sums to {worst:.6g}. "
                f"Divide by their sum."
            )
        excluded = (rows == -torch.inf) & (probs > 0)
    if known(excluded.any(), True):
        raise ValueError(f"{where}: a target has probability in a class whose logit is -inf; its loss is infinite.")
