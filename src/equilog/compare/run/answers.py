"""What a trained contender says of rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equilog.baselines.registry import Task

Array = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class TargetNames:
    """What the columns of the targets are called."""

    task: Task
    targets: tuple[str, ...]
    classes: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Answers:
    """Probabilities and decisions, an array for each target column; one for all the labels where multi-label."""

    task: Task
    posterior: list[Array]
    """(n, C) probabilities of the data as drawn; (n, L) of yes where multi-label."""
    balanced: list[Array]
    """(n, C) or (n, L) probabilities by which it decides."""
    ruled: list[Codes] | None = None
    """(n,) or (n, L) what a rule decides, where it need not be the largest balanced probability."""

    @property
    def decided(self) -> list[Codes]:
        """(n,) the class of each row, or (n, L) of 0 and 1."""
        if self.ruled is not None:
            return self.ruled
        if self.task == "multilabel":
            return [(self.balanced[0] > 0.5).astype(np.int64)]
        return [probability.argmax(axis=1) for probability in self.balanced]

    def judged(self) -> tuple[Codes, Any]:
        """Return predicted codes and posteriors in the shapes that `metrics.evaluate` takes."""
        if self.task == "multiclass":
            return np.stack(self.decided, axis=1), self.posterior
        return self.decided[0], self.posterior[0]


def spread(probability: Array, known: Sequence[int] | Codes, classes: int) -> Array:
    """Return (n, C) with a column of zeros for each class that the model does not know of."""
    whole = np.zeros((len(probability), classes))
    whole[:, known] = probability
    return whole


def as_columns(target: NDArray[Any], task: Task) -> list[NDArray[Any]]:
    """Return the target of each column: codes (n,), or all labels (n, L) or probabilities (n, C)."""
    return list(target.T) if task == "multiclass" else [target]


def frequencies(target: NDArray[Any], names: TargetNames) -> list[Array]:
    """Return for each target the share (C,) of each class among the rows, or (L,) of yes."""
    if names.task != "multiclass":
        return [target.mean(axis=0)]
    return [
        np.bincount(codes, minlength=len(classes)) / len(target)
        for codes, classes in zip(target.T, names.classes, strict=True)
    ]
