"""Every loss the estimator and the comparison know, by name. Adding a loss is one entry here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from equilog.criterion import Criterion
from equilog.peers import CrossEntropy

Task = Literal["multiclass", "multilabel", "soft"]
"""One choice among C classes per set, separate yes/no labels, or a distribution over C classes per row."""


@dataclass(frozen=True)
class TargetCounts:
    """What a loss may know of the training targets before training."""

    class_count: Tensor
    """(C,) float64: rows of each class, positives of each label, or the summed probability of each class."""
    rows: int
    """Number of training rows."""


@dataclass(frozen=True)
class LossEntry:
    """One loss under one name."""

    name: str
    summary: str
    tasks: frozenset[Task]
    build: Callable[[TargetCounts], Criterion]
    source: str
    ours: bool = False


LOSSES: dict[str, LossEntry] = {
    entry.name: entry
    for entry in (
        LossEntry(
            "cross-entropy",
            "torch's cross-entropy",
            frozenset({"multiclass", "soft"}),
            lambda _: CrossEntropy(),
            "torch.nn.functional.cross_entropy",
        ),
    )
}


def losses_for(task: Task) -> list[str]:
    """Return the names of the losses that fit a task, in the order of the registry."""
    return [entry.name for entry in LOSSES.values() if task in entry.tasks]
