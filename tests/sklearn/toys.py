"""What the estimator's tests share: kinds of targets, a small model, a loss that keeps what it is given."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from equilog.baselines import CrossEntropy
from equilog.baselines.registry import Task
from equilog.calibration import Calibration
from equilog.sklearn import LogBalancedClassifier

Data = tuple[NDArray[np.float64], Any]


KINDS = ("multiclass", "columns", "multilabel", "soft")


def task_of(kind: str) -> Task:
    return "multiclass" if kind == "columns" else kind  # type: ignore[return-value]


def quick(loss: Any = "auto", **parameters: Any) -> LogBalancedClassifier:
    return LogBalancedClassifier(loss, **{"max_epochs": 5, "hidden_units": (16,), "random_state": 0} | parameters)


def flat(probability: Any) -> list[NDArray[np.float64]]:
    return probability if isinstance(probability, list) else [probability]


class Recorder(CrossEntropy):
    """Cross-entropy times a factor that keeps what it is given."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor
        self.targets: list[Tensor] = []
        self.observed: list[tuple[Tensor, Tensor, Tensor, bool]] = []

    def forward(self, logits: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> Tensor:
        self.targets.append(target)
        return self.factor * super().forward(logits, target, sample_weight=sample_weight)

    def calibrate(self, logits: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> Calibration:
        assert sample_weight is not None
        self.observed.append((logits, target, sample_weight, self.training))
        return super().calibrate(logits, target, sample_weight=sample_weight)
