"""From the `loss` parameter to one criterion a target column."""

import copy
import difflib
from collections.abc import Callable, Sequence

from equilog.criterion import Criterion
from equilog.peers import CrossEntropy
from equilog.registry import LOSSES, RECOMMENDED, LossEntry, TargetCounts, Task, losses_for


def loss_entry(name: str, task: Task) -> LossEntry:
    """Return the entry of a name in which "-" and "_" are the same; "auto" is the one recommended for the task.

    Raises:
        ValueError: there is no such loss, or it does not fit the task.
    """
    fitting = losses_for(task)
    if name == "auto":
        return LOSSES[RECOMMENDED[task]]
    entry = LOSSES.get(name.replace("_", "-"))
    if entry is None:
        nearest = difflib.get_close_matches(name.replace("_", "-"), LOSSES, n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(
            f"LogBalancedClassifier: no loss is called {name!r}.{hint} For task {task!r} there are "
            f"{', '.join(fitting)}."
        )
    if task not in entry.tasks:
        raise ValueError(
            f"LogBalancedClassifier: loss {entry.name!r} is for {' and '.join(sorted(entry.tasks))} targets and y is "
            f"{task}; losses that fit are {', '.join(fitting)}."
        )
    return entry


def criteria_for(loss: str | Criterion, task: Task, counts: Sequence[TargetCounts]) -> tuple[str, list[Criterion]]:
    """Return the name of the loss and a criterion of its own for each column of these counts."""
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
        entry = loss_entry(loss, task)
        name, build = entry.name, entry.build
    else:
        raise ValueError(
            f"LogBalancedClassifier: loss must be the name of a loss or a Criterion; got {type(loss).__name__}."
        )
    # A column with one class has nothing to learn, and the cross-entropy of one class is 0.
    return name, [
        CrossEntropy() if task == "multiclass" and len(count.class_count) == 1 else build(count) for count in counts
    ]
