"""What `class_weight` means: classes that count more, on top of what the loss balances by itself."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equilog.baselines.class_counts import along_classes
from equilog.baselines.registry import TargetCounts, Task
from equilog.calibration import Calibration
from equilog.calibration.base import Kind
from equilog.error_text import listed
from equilog.losses.criterion import Criterion
from equilog.losses.multiclass import LogBalancedCrossEntropyLoss
from equilog.ops import as_compute_dtype

ClassWeight = Literal["balanced"] | Mapping[Any, float] | Sequence[Mapping[Any, float]] | None
"""As in scikit-learn: "balanced", a weight for each class, or a list of the latter, one for each target column."""


class ClassWeighted(Criterion):
    """A loss with weights w of the classes: it decides by w_j p_j, where p is what it would decide by without.

    Other authors' losses are trained so, each row weighted by its class, as scikit-learn's estimators are: at the
    minimum p_j is proportional to w_j p(j|x). Ours would count the weights as frequency and take them off again, so
    it is trained as without, and the weights come in where it decides. The posterior is without them either way.
    """

    weight: Tensor

    def __init__(self, criterion: Criterion, weight: Tensor) -> None:
        super().__init__()
        self.criterion = criterion
        self.weighs_rows = not isinstance(criterion, LogBalancedCrossEntropyLoss)
        self.register_buffer("weight", weight)

    def forward(self, logits: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> Tensor:
        """Return the loss of logits (N, C) against class indices (N,)."""
        if self.weighs_rows:
            weight = self.weight[target]
            sample_weight = weight if sample_weight is None else sample_weight * weight
        loss: Tensor = self.criterion(logits, target, sample_weight=sample_weight)
        return loss

    def calibrate(self, logits: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> Calibration:
        """Return what the loss makes of the trained logits, with the weights to decide by."""
        return Weighted(self.criterion.calibrate(logits, target, sample_weight=sample_weight), self)

    def uncalibrated(self) -> Calibration:
        """Return what the loss knows by itself, with the weights to decide by."""
        return Weighted(self.criterion.uncalibrated(), self)

    def calibration_from(self, state: dict[str, Tensor]) -> Calibration:
        """Return the calibration of this loss that has this state."""
        inner = {name.removeprefix("calibration."): value for name, value in state.items() if "calibration." in name}
        calibration = Weighted(self.criterion.calibration_from(inner), self)
        calibration.load_state_dict(state)
        return calibration


class Weighted(Calibration):
    """A calibration whose decisions are by w_j p_j, and whose posterior is without the weights w."""

    log_weight: Tensor

    def __init__(self, calibration: Calibration, loss: ClassWeighted) -> None:
        super().__init__(multilabel=False)
        self.calibration = calibration
        self.weighs_rows = loss.weighs_rows
        smallest = torch.finfo(loss.weight.dtype).tiny
        self.register_buffer("log_weight", loss.weight.clamp(min=smallest).log())

    def raw_scores(self, logits: Tensor, kind: Kind) -> Tensor:
        """Return the scores at temperature 1."""
        scores = self.calibration.raw_scores(logits, kind)
        if self.weighs_rows == (kind == "balanced"):
            return scores
        scores = as_compute_dtype(scores)
        log_weight = self.log_weight if kind == "balanced" else -self.log_weight
        return scores + along_classes("class_weight", log_weight, scores)


def weights_of_classes(
    class_weight: ClassWeight, task: Task, classes: Sequence[NDArray[Any]], counts: Sequence[TargetCounts]
) -> list[Tensor] | None:
    """Return the weights (C,) of each column's classes, 1 in the mean over the rows; None where none are asked for.

    Raises:
        ValueError: y has no classes to weigh, or `class_weight` does not fit them.
    """
    if class_weight is None:
        return None
    if task != "multiclass":
        remedy = "loss=MultiLabelCrossEntropyLoss(pos_weight=...)" if task == "multilabel" else "sample_weight"
        raise ValueError(
            f"LogBalancedClassifier: class_weight is for classes and y is {task}, where a row has no one class; use "
            f"{remedy}."
        )
    by_column: list[Any]
    if class_weight == "balanced":
        by_column = ["balanced"] * len(classes)
    else:
        by_column = list(class_weight) if isinstance(class_weight, (list, tuple)) else [class_weight]
    if len(by_column) != len(classes) or not all(
        asked == "balanced" or isinstance(asked, Mapping) for asked in by_column
    ):
        raise ValueError(
            'LogBalancedClassifier: class_weight must be "balanced", a dict from class to weight, or a list of such '
            f"dicts, one for each of several columns; y has {len(classes)} column(s), got {class_weight!r}."
        )
    return [_of_column(*column) for column in zip(by_column, classes, counts, strict=True)]


def _of_column(class_weight: Any, classes: NDArray[Any], counts: TargetCounts) -> Tensor:
    # A class that is yet to come, in partial_fit, counts as seen once.
    count = counts.class_count.clamp(min=1.0)
    if class_weight == "balanced":
        weight = 1.0 / count
    else:
        names = classes.tolist()
        unknown = [repr(name) for name in class_weight if name not in names]
        unweighted = [repr(name) for name in names if name not in class_weight]
        # A class that y merely lacks, as a fold may, is no mistake; one that is called otherwise is.
        if unknown and unweighted:
            raise ValueError(
                f"LogBalancedClassifier: class_weight names {listed(unknown)}, which y does not hold, and leaves out "
                f"{listed(unweighted)}, which it does; name the classes as y has them."
            )
        weight = torch.tensor([float(class_weight.get(name, 1.0)) for name in names], dtype=torch.float64)
        if not bool(((weight >= 0) & weight.isfinite()).all()) or not bool(weight.any()):
            raise ValueError(
                "LogBalancedClassifier: class_weight must hold finite weights of at least 0, not all 0; got "
                f"{class_weight!r}."
            )
    return (weight * count.sum() / (weight @ count)).float()


def to_json(class_weight: ClassWeight) -> Any:
    """Return what JSON can hold of it: pairs, since its objects have strings as keys alone."""
    if class_weight is None or isinstance(class_weight, str):
        return class_weight
    if isinstance(class_weight, Mapping):
        return [[_plain(name), float(weight)] for name, weight in class_weight.items()]
    return {"columns": [to_json(column) for column in class_weight]}


def from_json(stored: Any) -> ClassWeight:
    """Return what `to_json` was given."""
    if stored is None or stored == "balanced":
        return stored  # type: ignore[no-any-return]
    if isinstance(stored, dict):
        return [from_json(column) for column in stored["columns"]]  # type: ignore[misc]
    return dict(stored)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
