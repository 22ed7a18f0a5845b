"""From the `loss` parameter to one criterion a target column."""

import copy
from collections.abc import Callable, Sequence

from torch import Tensor

from equilog.baselines import CrossEntropy
from equilog.baselines.registry import TargetCounts, Task, loss_named
from equilog.losses.criterion import Criterion
from equilog.sklearn.class_weight import ClassWeighted


def criteria_for(
    loss: str | Criterion, task: Task, counts: Sequence[TargetCounts], class_weights: Sequence[Tensor] | None
) -> tuple[str, list[Criterion]]:
    """Return the name of the loss and a criterion of its own for each column of these counts and class weights."""
    build: Callable[[TargetCounts], Criterion]
    if isinstance(loss, Criterion):
        if loss.multilabel != (task == "multilabel"):
            meant = "multi-label" if loss.multilabel else "one choice among classes"
            raise ValueError(
                f"LogBalancedClassifier: loss {type(loss).__name__} is for {meant} and y is {task}; give a loss for "
                "this task, or task= if y was taken for the wrong one."
            )
        name, build = type(loss).__name__, lambda _: copy.deepcopy(loss)
    elif isinstance(loss, str):
        try:
            entry = loss_named(loss, task)
        except ValueError as error:
            raise ValueError(f"LogBalancedClassifier: {error}") from None
        name, build = entry.name, entry.build
    else:
        raise ValueError(
            f"LogBalancedClassifier: loss must be the name of a loss or a Criterion; got {type(loss).__name__}."
        )
    # A column with one class has nothing to learn, and the cross-entropy of one class is 0.
    criteria = [
        CrossEntropy() if task == "multiclass" and len(count.class_count) == 1 else build(count) for count in counts
    ]
    if class_weights is not None:
        criteria = [ClassWeighted(*column) for column in zip(criteria, class_weights, strict=True)]
    return name, criteria
