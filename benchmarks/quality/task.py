"""What a task of the study is: rows for each seed, a model, and the question that it is asked."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from equilog.baselines.registry import TargetCounts
from equilog.baselines.registry import Task as Kind
from equilog.compare.judge.metrics import METRICS, Metric

IGNORED = -100
"""Target of a position that is padding."""

GRID = 3
"""Dimensions of the labels of a grid: rows, cells, labels."""


@dataclass(frozen=True)
class Rows:
    """Features and targets, row by row."""

    features: Tensor
    """(N, ...), whatever the model takes."""
    targets: tuple[Tensor, ...]
    """One tensor for each choice that the model makes (each "head"); mostly one. multiclass: int64 (N,) or (N, d1, ...)
    class codes; multilabel: (N, L) of 0 and 1, or (N, cells, L) for a grid of cells a row; soft: (N, C) float
    distributions. Positions and cells to leave out are marked `IGNORED`."""

    def __len__(self) -> int:
        return len(self.features)

    def take(self, index: Tensor) -> "Rows":
        """Return the rows of these indices."""
        return Rows(self.features[index], tuple(target[index] for target in self.targets))


@dataclass(frozen=True)
class Split:
    """The rows of one seed. No row is in two of the parts."""

    train: Rows
    valid: Rows
    """To choose learning rate and weight decay on, and for nothing else."""
    test: Rows
    classes: tuple[int, ...]
    """Number of classes (or labels) of each head."""
    valid_as_drawn: Tensor | None = None
    """Indices of validation rows whose classes are as frequent as in training; None where all are. Where the test
    rows are balanced on purpose, the posterior can only be judged on such a part of them."""
    test_as_drawn: Tensor | None = None
    """The same of the test rows."""

    def counts(self, kind: Kind) -> tuple[TargetCounts, ...]:
        """Return for each head what a loss may know of the training targets."""
        return tuple(
            _counts(kind, target, classes) for target, classes in zip(self.train.targets, self.classes, strict=True)
        )


@dataclass(frozen=True)
class Task:
    """One data set under one question. Frozen: whatever changes its results changes its `version`."""

    name: str
    kind: Kind
    question: str
    """What it is there to answer, in one sentence."""
    # The two functions are those of a module, or partials of them: tasks travel to other processes.
    load: Callable[[int], Split]
    """seed -> rows. Another seed is another split, or another draw; the same seed always the same rows."""
    model: Callable[[Split], nn.Module]
    """Makes the model, untrained, whose `forward` takes features and gives a tuple of logits, one for each head, or
    bare logits where there is one: (N, C), (N, C, d1, ...), or of the shape of the target where multi-label. Its first
    weights are the caller's: the generator is seeded before."""
    settings: tuple[str, ...]
    """Names of the settings that it is asked about, the baseline first."""
    metric: str
    """Name of the main metric in `equilog.compare.judge.metrics.METRICS`; averaged over the heads."""
    epochs: int
    batch_size: int = 128
    learning_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2)
    weight_decays: tuple[float, ...] = (1e-2,)
    seeds: int = 5
    tuned_on: int = 1
    """On the validation rows of how many seeds learning rate and weight decay are chosen."""
    imbalance: float | None = None
    """Training rows of the most frequent class over those of the rarest, where that is what the task is about."""
    correlation: float = 0.25
    """How alike two seeds' results are for sharing rows, for the intervals: the share of the rows tested on where every
    seed splits the same rows anew (Nadeau and Bengio 2003), the share of the rows in common where it draws few of
    many."""
    quick: bool = False
    """Whether `--quick` runs it."""
    version: int = 1
    """To be raised with any change of data, model or training, so that older results no longer count."""

    @property
    def judged_by(self) -> Metric:
        """The main metric."""
        return METRICS[self.metric]


def _counts(kind: Kind, target: Tensor, classes: int) -> TargetCounts:
    if kind == "multiclass":
        kept = target[target != IGNORED]
        return TargetCounts(torch.bincount(kept, minlength=classes).double(), len(kept))
    kept = target if target.is_floating_point() else target[kept_rows(target)]
    return TargetCounts(kept.double().sum(0), len(kept))


def kept_rows(target: Tensor) -> Tensor:
    """Return which rows of labels, or which cells of a grid, are not to be left out, the shape of all but labels."""
    return target[..., 0] != IGNORED
