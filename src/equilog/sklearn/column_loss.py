"""One loss for all target columns, and the score of the validation rows."""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from equilog.baselines.registry import Task
from equilog.losses.criterion import Criterion
from equilog.sklearn.calibration import divergence


class ColumnLoss(nn.Module):
    """Mean of the losses of the target columns, each on its own slice of the logits."""

    def __init__(self, task: Task, criteria: Sequence[Criterion], widths: Sequence[int]) -> None:
        super().__init__()
        self.task = task
        # A module list is a sequence of what it was made of, but its type forgets what that was.
        self.criteria = cast("Sequence[Criterion]", nn.ModuleList(criteria))
        self.widths = list(widths)

    def columns(self, logits: Tensor, target: Tensor) -> Iterator[tuple[Criterion, Tensor, Tensor]]:
        """Yield each column's criterion, logits (N, C) and target: codes (N,), or labels or probabilities (N, C)."""
        targets = target.unbind(1) if self.task == "multiclass" else (target,)
        yield from zip(self.criteria, torch.split(logits, self.widths, 1), targets, strict=True)

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Return the mean over columns of the loss of `logits` (N, C_1 + ... + C_k)."""
        losses = [c(slice_, t, sample_weight=weight) for c, slice_, t in self.columns(logits, target)]
        return torch.stack(losses).mean()

    def score(self, logits: Tensor, target: Tensor) -> float:
        """Return the mean over columns of `column_score`."""
        scores = [column_score(self.task, *column) for column in self.columns(logits, target)]
        return float(torch.stack(scores).mean())


def column_score(task: Task, criterion: Criterion, logits: Tensor, target: Tensor) -> Tensor:
    """Return balanced accuracy (multiclass), macro-F1 (multi-label) or minus the mean KL divergence (soft)."""
    if task == "soft":
        return -divergence(criterion.calibrate(logits, target), logits, target).mean()
    predicted = criterion.predict(logits)
    if task == "multilabel":
        positives = target.sum(0) + predicted.sum(0)
        return (2 * (target * predicted).sum(0) / positives.clamp(min=1)).mean()
    classes = logits.shape[1]
    rows = torch.bincount(target, minlength=classes)
    hits = torch.bincount(target[predicted == target], minlength=classes)
    return (hits / rows)[rows > 0].mean()
