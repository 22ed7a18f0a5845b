"""What y means: which task it is, and labels to tensors and back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.preprocessing import LabelEncoder
from sklearn.utils.multiclass import check_classification_targets
from torch import Tensor

from equilog.baselines.registry import TargetCounts, Task

SUM_TOLERANCE = 1e-3
"""How far a row of class probabilities may be from summing to 1, so that probabilities rounded to three digits pass."""


def columns_of(y: Any) -> list[NDArray[Any]]:
    """Return the columns of a one- or two-dimensional y, those of pandas each with its own type."""
    if hasattr(y, "iloc"):
        columns = [y] if y.ndim == 1 else [y.iloc[:, k] for k in range(y.shape[1])]
        for column in columns:
            _require_no_gaps(column)
        # Integers and booleans that could be missing would otherwise come as objects.
        return [column.to_numpy(dtype=getattr(column.dtype, "numpy_dtype", None)) for column in columns]
    array = y.toarray() if issparse(y) else np.asarray(y)
    return [array] if array.ndim == 1 else list(array.T)


def _require_no_gaps(column: Any) -> None:
    """Raise a ValueError if a pandas column has missing values, of whatever type: NaN, NaT, None or NA."""
    missing = np.flatnonzero(column.isna())
    if len(missing):
        name = "" if column.name is None else f" in column {column.name!r}"
        raise ValueError(
            f"LogBalancedClassifier: y contains NaN{name}, in {len(missing)} of {len(column)} rows, the first of them "
            f"row {missing[0]}; leave these rows out, or give the missing a class of their own."
        )


def _numbers(columns: Sequence[NDArray[Any]]) -> NDArray[np.float64] | None:
    """Return the columns side by side (n, k), or None if some hold anything but numbers."""
    if not all(column.dtype.kind in "biuf" for column in columns):
        return None
    return np.column_stack(columns).astype(np.float64)


def _are_distributions(values: NDArray[np.float64]) -> bool:
    return bool((values >= 0).all() and (abs(values.sum(1) - 1) <= SUM_TOLERANCE).all())


def detect_task(columns: Sequence[NDArray[Any]]) -> Task:
    """Tell the task from the columns of y.

    One column is multiclass. Several are multi-label if they hold 0 and 1 alone, soft if they hold fractions and
    each row is a distribution, and otherwise multiclass, each column with its own classes.

    Raises:
        ValueError: a column holds continuous numbers and the rows are no distributions.
    """
    values = _numbers(columns) if len(columns) > 1 else None
    if values is not None:
        if np.isin(values, (0, 1)).all():
            return "multilabel"
        if (values != np.round(values)).any():
            if _are_distributions(values):
                return "soft"
            raise ValueError(
                "LogBalancedClassifier: Unknown label type: y holds fractions, so its rows should be class "
                f"probabilities, at least 0 and summing to 1; their sums range from {values.sum(1).min():.4g} to "
                f"{values.sum(1).max():.4g}. Divide each row by its sum, or give class labels."
            )
    for column in columns:
        check_classification_targets(column)
    return "multiclass"


@dataclass(frozen=True)
class Targets:
    """The target columns of a fitted classifier and their classes."""

    task: Task
    classes: tuple[NDArray[Any], ...]
    """The classes of each column; one array for all the labels (multi-label) or classes (soft)."""
    single: bool
    """Whether predictions are one label a row, not a row of labels."""

    @classmethod
    def of(
        cls, columns: Sequence[NDArray[Any]], task: Task | Literal["auto"] = "auto", classes: Any = None
    ) -> "Targets":
        """Take the classes from the columns of y, or from `classes` where y may not show all of them yet.

        `classes` is an array for one target column and a list of arrays for several.
        """
        for number, column in enumerate(columns):
            if column.dtype == object and len({isinstance(value, str) for value in column}) > 1:
                raise ValueError(
                    f"LogBalancedClassifier: column {number} of y mixes strings with other values, such as "
                    f"{column[:3].tolist()!r}; make them all strings or all numbers."
                )
        task = detect_task(columns) if task == "auto" else task
        if task == "multilabel":
            return cls(task, (np.arange(len(columns)),), single=False)
        if task == "soft":
            if len(columns) < 2:
                raise ValueError("LogBalancedClassifier: y must be (n, C) class probabilities for task 'soft'.")
            return cls(task, (np.arange(len(columns)),), single=True)
        single = len(columns) == 1
        if classes is not None:
            columns = [np.asarray(given) for given in ([classes] if single else classes)]
        found = tuple(LabelEncoder().fit(column).classes_ for column in columns)
        if all(len(of_column) < 2 for of_column in found):
            raise ValueError(
                f"LogBalancedClassifier: needs at least two classes to tell apart; y has one class, "
                f"{found[0].tolist()[0]!r}."
            )
        return cls(task, found, single)

    def to_config(self) -> dict[str, Any]:
        """Return what JSON can hold of it."""
        classes = [{"dtype": classes.dtype.str, "values": classes.tolist()} for classes in self.classes]
        for column in classes:
            if not all(isinstance(value, (str, int, float)) for value in column["values"]):
                raise ValueError(
                    "LogBalancedClassifier: classes must be strings, numbers or booleans to be written as JSON; got "
                    f"{column['values'][:3]!r}."
                )
        return {"task": self.task, "classes": classes, "single": self.single}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Targets":
        """Return the targets that `to_config` described."""
        classes = (np.array(column["values"], dtype=np.dtype(column["dtype"])) for column in config["classes"])
        return cls(config["task"], tuple(classes), config["single"])

    @property
    def widths(self) -> list[int]:
        """The number of logits of each column."""
        return [len(classes) for classes in self.classes]

    def encode(self, columns: Sequence[NDArray[Any]]) -> Tensor:
        """Return class codes (n, k) int64, or 0/1 labels or class probabilities (n, C) float32."""
        expected = len(self.classes) if self.task == "multiclass" else self.widths[0]
        if len(columns) != expected:
            raise ValueError(f"LogBalancedClassifier: y must have {expected} column(s); got {len(columns)}.")
        if self.task == "multiclass":
            pairs = zip(self.classes, columns, strict=True)
            return torch.as_tensor(np.column_stack([_codes(classes, column) for classes, column in pairs]))
        values = _numbers(columns)
        if values is None:
            raise ValueError(f"LogBalancedClassifier: y must hold numbers alone for task {self.task!r}.")
        if self.task == "multilabel" and not np.isin(values, (0, 1)).all():
            raise ValueError("LogBalancedClassifier: y must hold 0 and 1 alone for task 'multilabel'.")
        if self.task == "soft":
            if not _are_distributions(values):
                raise ValueError(
                    "LogBalancedClassifier: y must be class probabilities for task 'soft': at least 0, each row "
                    f"summing to 1; the sums range from {values.sum(1).min():.4g} to {values.sum(1).max():.4g}."
                )
            values = values / values.sum(1, keepdims=True)
        return torch.as_tensor(values, dtype=torch.float32)

    def masses(self, target: Tensor) -> list[Tensor]:
        """Return per column how much of each class each row holds, (n, C): one-hot, 0/1 or probabilities."""
        if self.task != "multiclass":
            return [target]
        pairs = zip(self.widths, target.unbind(1), strict=True)
        return [torch.nn.functional.one_hot(codes, width) for width, codes in pairs]

    def counts(self, target: Tensor, weight: Tensor) -> list[TargetCounts]:
        """Return what a loss may know of each column; weights count by their ratio to their mean."""
        rows = len(target)
        ratio = (weight * (rows / weight.sum())).double()
        return [TargetCounts(ratio @ mass.double(), rows) for mass in self.masses(target)]

    def decode(self, predicted: Sequence[Tensor]) -> NDArray[Any]:
        """Return the labels of the predicted codes of each column: (n,), or (n, k) for several columns."""
        if self.task == "multilabel":
            return np.asarray(predicted[0])
        columns = [classes[codes.numpy()] for classes, codes in zip(self.classes, predicted, strict=True)]
        if len({column.dtype.kind for column in columns}) > 1:
            columns = [column.astype(object) for column in columns]
        labels = np.column_stack(columns)
        return labels[:, 0] if self.single else labels


def _codes(classes: NDArray[Any], column: NDArray[Any]) -> NDArray[np.int64]:
    encoder = LabelEncoder()
    encoder.classes_ = classes
    codes: NDArray[np.int64] = encoder.transform(column).astype(np.int64)
    return codes
