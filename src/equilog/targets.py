"""Logits, targets and weights of any accepted shape -> n sets of C classes in one form, checked once."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from equilog.vocabulary import beside, in_one_piece, is_spread


@dataclass(frozen=True)
class Sets:
    """n sets, each a choice among C classes: the rows every loss works on.

    The loss sees scores scale * (logits + shift), which are formed where they are read.

    Ignored sets stay in their place with weight 0. What they hold (NaN included) must reach neither the value nor the
    gradient, so whoever reads the logits takes them through `scores`, or calls `blanked` on what it made of them, on
    as few numbers as it can.
    """

    logits: Tensor
    """(n, C) in the caller's type; what an ignored set holds may be anything."""
    labels: Tensor | None
    """(n,) int64 class indices in range, or None where the targets are probabilities."""
    probs: Tensor | None
    """(n, C) target probabilities in the type of the weights, or None where the targets are indices."""
    log_weight: Tensor
    """(n,) log of the sample weight: 0 where none was given, minus infinity where the set is ignored.

    In the type to compute in, float64 where the logits are, else float32."""
    kept: Tensor | None
    """(n,) bool: the set is not ignored; None where none is known to be."""
    usable: Tensor | None
    """(n,) bool: the set is kept and its label in range; None where all of them are known to be."""
    shape: torch.Size
    """The shape of the caller's sets: (N, d1, ...), or () for a single set."""
    shift: Tensor | None = None
    """(C,) in the type to compute in, such as the log of a prior; None where it is 0."""
    scale: float = 1.0
    """Factor > 0."""

    def blanked(self, values: Tensor, blank: float) -> Tensor:
        """Return values (n, ...) with `blank` in the ignored sets, and NaN where a label is out of range.

        Labels out of range get here only where nobody waits for a check of them.
        """
        if self.usable is None:
            return values
        rest = torch.where(self.is_kept, torch.nan, blank).to(values.dtype)
        after = (-1,) + (1,) * (values.dim() - 1)
        return torch.where(self.usable.reshape(after), values, rest.reshape(after))

    def scores(self) -> Tensor:
        """Return the scores (n, C) in the type to compute in, with 0 in the ignored sets."""
        return self.blanked(scores_of(self.logits, self.shift, self.scale), 0.0)

    def in_one_piece(self) -> "Sets":
        """Return the sets with logits that are not spread over ranks."""
        return replace(self, logits=in_one_piece(self.logits))

    @property
    def count(self) -> int:
        """Number of sets, the ignored ones included."""
        return self.logits.shape[0]

    @property
    def is_kept(self) -> Tensor:
        """(n,) bool: the set is not ignored."""
        return all_true(self.log_weight) if self.kept is None else self.kept

    def class_count(self) -> Tensor:
        """Return the weighted number of sets of each class (C,), soft targets adding their share; no gradient."""
        if self.probs is None:
            assert self.labels is not None
            return count_by_class(self.labels, self.log_weight, self.classes)
        # A product of matrices would lose digits in autocast.
        return (self.log_weight.detach().exp()[:, None] * self.probs.detach()).sum(0)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.logits.shape[1]


def as_sets(
    where: str,
    logits: Tensor,
    target: Tensor,
    *,
    sample_weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    validate: bool = False,
) -> Sets:
    """Return the sets of logits (N, C, d1, ...) and target (N, d1, ...) or (N, C, d1, ...).

    `where` is the public function's name, for its error texts. Raises TypeError or ValueError.
    """
    shape = _check_shapes(where, logits, target)
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"{where}: label_smoothing must lie in [0, 1); got {label_smoothing}.")
    if target.is_floating_point() or label_smoothing > 0.0:
        logits = in_one_piece(logits)
    rows, dtype = _rows(logits), compute_dtype(logits)
    classes = rows.shape[1]

    labels = probs = None
    if target.is_floating_point():
        probs = _rows(target).to(dtype)
        kept = in_range = None
    else:
        labels, kept, in_range = class_indices(where, target, classes, ignore_index=ignore_index, validate=validate)
    log_weight, kept = log_set_weight(where, sample_weight, kept, shape, rows.device, dtype, validate=validate)

    usable = kept if in_range is None else in_range if kept is None else kept & in_range
    if probs is not None and kept is not None:
        probs = torch.where(kept[:, None], probs, 0.0)

    if label_smoothing > 0.0:
        probs = _smooth(rows != -torch.inf, labels, probs, label_smoothing, dtype)
        labels = None
    sets = Sets(rows, labels, probs, log_weight, kept, usable, shape)
    if validate:
        _check_values(where, sets)
    return sets


def class_indices(
    where: str, target: Tensor, classes: int, *, ignore_index: int, validate: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return int64 labels, 0 where out of range, and which sets are kept and which are in range, bool; (n,) each.

    None in place of either where it is known to be so of all of them.
    """
    labels = target.reshape(-1).long()
    least, most = least_and_most(labels) or (-1, -1)
    if least >= 0 and most < classes and not least <= ignore_index <= most:
        return labels, None, None
    kept = labels != ignore_index
    in_range = (labels >= 0) & (labels < classes)
    _check_labels(where, labels, kept & ~in_range, classes, validate)
    return torch.where(in_range, labels, 0), unless_all(kept), unless_all(in_range)


def log_set_weight(
    where: str,
    sample_weight: Tensor | None,
    kept: Tensor | None,
    shape: torch.Size,
    device: torch.device,
    dtype: torch.dtype,
    *,
    validate: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return the log of each set's weight (n,), minus infinity where it is left out, and which sets are still kept.

    None in place of these where it is known to be all of them.
    """
    if sample_weight is None:
        log_weight = torch.zeros(shape.numel(), dtype=dtype, device=device)
    else:
        weight = per_set(where, "sample_weight", sample_weight, shape).to(dtype)
        kept = weight != 0 if kept is None else kept & (weight != 0)
        log_weight = torch.where(kept, weight, 1.0).log()
        if validate and known(log_weight.isnan().any(), True):
            raise ValueError(f"{where}: sample_weight must not be negative or NaN.")
        kept = unless_all(kept)
    return log_weight if kept is None else torch.where(kept, log_weight, -torch.inf), kept


def count_by_class(labels: Tensor, log_weight: Tensor, classes: int) -> Tensor:
    """Return the weighted number of sets of each class (C,); no gradient."""
    weight = log_weight.detach().exp()
    return weight.new_zeros(classes).index_add(0, labels, weight)


def per_set(where: str, name: str, values: Tensor, shape: torch.Size) -> Tensor:
    """Return one value a set (n,) from a tensor of the sets' shape, or of one value a sample (N,)."""
    if not isinstance(values, Tensor):
        raise TypeError(f"{where}: {name} must be a tensor; got {type(values).__name__}. Wrap it in torch.as_tensor.")
    if values.shape == shape:
        return values.reshape(-1)
    if shape and values.shape == shape[:1]:
        return values.reshape(-1, *[1] * (len(shape) - 1)).expand(shape).reshape(-1)
    expected = f"{tuple(shape)}" + (f", or {tuple(shape[:1])} for one value a sample" if len(shape) > 1 else "")
    raise ValueError(f"{where}: {name} must be {expected}, one value a set; got {tuple(values.shape)}.")


def class_vector(where: str, name: str, values: Tensor, like: Tensor, *, positive: bool, validate: bool) -> Tensor:
    """Return one value a class (C,) on the device of `like` (n, C), in the type it is computed in, checked for sign."""
    if not isinstance(values, Tensor):
        raise TypeError(f"{where}: {name} must be a tensor of one value a class; got {type(values).__name__}.")
    if values.shape != like.shape[1:]:
        raise ValueError(f"{where}: {name} must be ({like.shape[1]},), one value a class; got {tuple(values.shape)}.")
    vector = values.to(device=like.device, dtype=compute_dtype(like))
    if known((vector > 0 if positive else vector >= 0).all(), validate) is False:
        sign = "positive (give a class never seen a small count)" if positive else "0 or more"
        raise ValueError(f"{where}: {name} must be {sign} for every class; got {values.tolist()}.")
    return vector


def scores_of(logits: Tensor, shift: Tensor | None, scale: float) -> Tensor:
    """Return scale * (logits + shift) in the type to compute in, from logits (..., C) and a shift (C,) or None."""
    z = as_compute_dtype(logits)
    z = z if shift is None else z + beside(shift, z)
    return z if scale == 1.0 else scale * z


def as_compute_dtype(values: Tensor) -> Tensor:
    """Return float64 as it is and every other floating type in float32."""
    return values.to(compute_dtype(values))


def compute_dtype(values: Tensor) -> torch.dtype:
    """Return the dtype that `as_compute_dtype` gives."""
    return torch.float64 if values.dtype == torch.float64 else torch.float32


def reads_values(values: Tensor, validate: bool) -> bool:
    """Tell whether looking at values is free (an eager call on the CPU) or was asked for."""
    if torch.compiler.is_compiling():
        return False
    return validate or values.device.type == "cpu"


def known(condition: Tensor, validate: bool = False) -> bool | None:
    """Return the truth of a 0-d condition, or None where no value can be looked at or looking would cost a wait."""
    if not reads_values(condition, validate):
        return None
    try:
        return bool(condition)
    except RuntimeError:  # inside torch.func.vmap there is no one value
        return None


def least_and_most(ids: Tensor) -> tuple[int, int] | None:
    """Return the bounds of integers, or None where there are none or looking would cost a wait."""
    if not ids.numel() or not reads_values(ids, False):
        return None
    try:
        least, most = torch.aminmax(ids)
        return int(least), int(most)
    except RuntimeError:  # inside torch.func.vmap there is no one value
        return None


def unless_all(condition: Tensor) -> Tensor | None:
    """Return a condition, or None where it is known to hold everywhere."""
    return None if known(condition.all()) else condition


def all_true(like: Tensor) -> Tensor:
    """Return a condition that holds everywhere, of the shape of `like`."""
    return torch.ones_like(like, dtype=torch.bool)


def _check_shapes(where: str, logits: Tensor, target: Tensor) -> torch.Size:
    if not isinstance(logits, Tensor) or not isinstance(target, Tensor):
        found = f"{type(logits).__name__} and {type(target).__name__}"
        raise TypeError(f"{where}: logits and target must be tensors; got {found}. Wrap them in torch.as_tensor.")
    if not logits.is_floating_point():
        raise TypeError(f"{where}: logits must be floating point, not {logits.dtype}; call logits.float().")
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
    if is_spread(last):
        last = last.clone(memory_format=torch.contiguous_format)  # which reshape would do, but not of a DTensor
    return last.reshape(-1, values.shape[1])


def _check_labels(where: str, labels: Tensor, wrong: Tensor, classes: int, validate: bool) -> None:
    if known(wrong.any(), validate):
        first = int(labels[wrong][0])
        raise ValueError(
            f"{where}: target holds class {first}, but there are {classes} classes, 0 to {classes - 1}. "
            f"Mark sets to leave out with ignore_index."
        )


def _smooth(
    present: Tensor, labels: Tensor | None, probs: Tensor | None, smoothing: float, dtype: torch.dtype
) -> Tensor:
    """Mix the target with the uniform distribution over the classes that take part in the set."""
    uniform = present.to(dtype) / present.sum(1, keepdim=True).clamp(min=1)
    if probs is None:
        assert labels is not None
        probs = torch.zeros_like(uniform).scatter(1, labels[:, None], 1.0)
        return (1.0 - smoothing) * probs + smoothing * uniform
    return (1.0 - smoothing) * probs + smoothing * uniform * probs.sum(1, keepdim=True)


def _check_values(where: str, sets: Sets) -> None:
    rows, labels, probs, log_weight = sets.in_one_piece().scores(), sets.labels, sets.probs, sets.log_weight
    if known((rows.isnan() | (rows == torch.inf)).any(), True):
        raise ValueError(f"{where}: logits hold NaN or +inf. Only -inf is allowed; it leaves a class out of a set.")
    if probs is None:
        assert labels is not None
        excluded = rows.gather(1, labels[:, None]) == -torch.inf
    else:
        if known((probs >= 0).all(), True) is False:
            raise ValueError(f"{where}: target probabilities must not be negative or NaN.")
        total = torch.where(log_weight > -torch.inf, probs.sum(1), 1.0)
        if known(((total - 1).abs() > 1e-3).any(), True):
            worst = float(total[(total - 1).abs().argmax()])
            raise ValueError(
                f"{where}: target probabilities must sum to 1 over the classes; one set sums to {worst:.6g}. "
                f"Divide by their sum."
            )
        excluded = (rows == -torch.inf) & (probs > 0)
    if known(excluded.any(), True):
        raise ValueError(f"{where}: a target has probability in a class whose logit is -inf; its loss is infinite.")
