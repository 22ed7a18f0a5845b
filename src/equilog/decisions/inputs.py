"""What callers pass, checked once and made float64 NumPy arrays: probabilities, classes, labels, weights, priors."""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Codes = NDArray[np.int64]
ArrayOrTensor = ArrayLike | torch.Tensor

SUM_TOLERANCE = 1e-2
"""How far a row may be from summing to 1: probabilities in bfloat16, or rounded to three digits, pass."""


def as_numpy(values: Any) -> Any:
    """Return an array, or a tensor of any device, as a NumPy array without its gradient."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return (values.double() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


def as_probabilities(function: str, probabilities: Any, *, multilabel: bool) -> Any:
    """Return probabilities (n, C) whose rows sum to 1, or (n, L) of yes.

    Tensors stay tensors on their device, in float32 at least; all else becomes a float64 array.

    Raises:
        TypeError: they are no numbers.
        ValueError: another shape, no rows, NaN, a value outside [0, 1], or a row of classes that does not sum to 1.
    """
    values = probabilities.detach() if isinstance(probabilities, torch.Tensor) else np.asarray(probabilities)
    numbers = isinstance(values, torch.Tensor) or values.dtype.kind in "fiub"
    if not numbers or (isinstance(values, torch.Tensor) and values.is_complex()):
        raise TypeError(f"{function}: probabilities must be numbers; got an array of {values.dtype}.")
    shape, wanted = tuple(values.shape), "(n, L), a column a label" if multilabel else "(n, C), a column a class"
    if len(shape) != 2 or 0 in shape or (not multilabel and shape[1] < 2):
        raise ValueError(
            f"{function}: probabilities must have shape {wanted}{'' if multilabel else ' and at least two of them'}, "
            f"with at least one row; got {shape}."
        )
    if isinstance(values, torch.Tensor):
        values = values if values.dtype in (torch.float32, torch.float64) else values.float()
    else:
        values = values.astype(np.float64)
    lowest, highest = float(values.min()), float(values.max())
    if np.isnan(lowest) or np.isnan(highest):
        rows: Any = values.isnan().any(1) if isinstance(values, torch.Tensor) else np.isnan(values).any(1)
        raise ValueError(
            f"{function}: probabilities must not be NaN; got NaN in {int(rows.sum())} rows, the first of them row "
            f"{rows.tolist().index(True)}. Leave those rows out, or "
            "find out what the classifier made of them."
        )
    if lowest < -SUM_TOLERANCE or highest > 1 + SUM_TOLERANCE:
        raise ValueError(
            f"{function}: probabilities must lie between 0 and 1; got {lowest:g} to {highest:g}. "
            f"Scores and logits go through {'sigmoid' if multilabel else 'softmax'} first."
        )
    values = values.clip(0.0, 1.0)
    if multilabel:
        return values
    total = values.sum(1)
    row = int(abs(total - 1).argmax())
    if abs(float(total[row]) - 1) > SUM_TOLERANCE:
        raise ValueError(
            f"{function}: each row of probabilities must sum to 1; row {row} sums to {float(total[row]):.4g}. "
            "Where the columns are yes/no labels, each with a probability of its own, say multilabel=True."
        )
    return values / total[:, None]


def as_classes(function: str, y: ArrayOrTensor, rows: int, classes: int) -> Codes:
    """Return class numbers (n,) of 0 to C-1.

    Raises:
        TypeError: they are no whole numbers.
        ValueError: not one for each row, or a class that has no column.
    """
    codes = as_numpy(y)
    if codes.shape != (rows,):
        raise ValueError(
            f"{function}: y must have shape ({rows},), a class number for each row of probabilities; got {codes.shape}."
        )
    if codes.dtype.kind == "f" and (codes == np.round(codes)).all():
        codes = codes.astype(np.int64)
    if codes.dtype.kind not in "iub":
        raise TypeError(
            f"{function}: y must hold class numbers, the columns of probabilities from 0; got {codes.dtype}. "
            "np.unique(y, return_inverse=True) numbers names in their sorted order, as scikit-learn does."
        )
    if codes.min() < 0 or codes.max() >= classes:
        raise ValueError(
            f"{function}: y must hold class numbers from 0 to {classes - 1}, since probabilities have {classes} "
            f"columns; got {codes.min()} to {codes.max()}. Each class needs a column."
        )
    return np.asarray(codes, np.int64)


def as_labels(function: str, y: ArrayOrTensor, rows: int, labels: int) -> Codes:
    """Return yes/no labels (n, L) of 0 and 1.

    Raises:
        ValueError: another shape, or other values.
    """
    values = as_numpy(y)
    if values.shape != (rows, labels):
        raise ValueError(
            f"{function}: y must have the shape of probabilities, ({rows}, {labels}), a column a label; "
            f"got {values.shape}."
        )
    if not np.isin(values, (0, 1)).all():
        raise ValueError(f"{function}: y of shape (n, L) must hold 0 and 1; got {np.unique(values)[:5]}.")
    return np.asarray(values, np.int64)


def as_weights(function: str, sample_weight: ArrayOrTensor | None, rows: int) -> Array:
    """Return weights (n,); all 1 for None.

    Raises:
        ValueError: not one for each row, a negative or non-finite one, or none above 0.
    """
    if sample_weight is None:
        return np.ones(rows)
    weights = np.asarray(as_numpy(sample_weight), np.float64)
    if weights.shape != (rows,):
        raise ValueError(f"{function}: sample_weight must have shape ({rows},); got {weights.shape}.")
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise ValueError(
            f"{function}: sample_weight must hold finite numbers of at least 0, one of them above 0; "
            f"got {weights.min():g} to {weights.max():g}."
        )
    return weights


def as_prior(function: str, name: str, prior: Any, columns: int, *, multilabel: bool, positive: bool = True) -> Array:
    """Return class frequencies (C,) that sum to 1, or the frequency of yes (L,), from an array or an object's `.prior`.

    Raises:
        TypeError: an object whose `.prior` is None.
        ValueError: another shape, NaN, or a frequency out of range: for `positive` it must be above 0 (and below 1, of
            labels), else 0 (and 1) may be.
    """
    values = getattr(prior, "prior", prior)
    if values is None:
        raise TypeError(
            f"{function}: {name} must be class frequencies ({columns},), or an object that has them as .prior; got "
            f"{type(prior).__name__}, which has none."
        )
    array = np.asarray(as_numpy(values), np.float64)
    if array.shape != (columns,):
        raise ValueError(
            f"{function}: {name} must have shape ({columns},), a number for each column of probabilities; "
            f"got {array.shape}."
        )
    above = array > 0 if positive else array >= 0
    below = (array < 1 if positive else array <= 1) if multilabel else np.isfinite(array)
    if not (above & below).all() or (array.sum() == 0 and not multilabel):
        least = "above 0" if positive else "of at least 0"
        most = f" and {'below' if positive else 'at most'} 1" if multilabel else ""
        raise ValueError(f"{function}: {name} must hold numbers {least}{most}; got {array.min():g} to {array.max():g}.")
    return array if multilabel else np.asarray(array / array.sum())
