"""The written rule: which setting to use, from what is known before any training."""

from benchmarks.quality.task import Task

RULE = {
    "multiclass": "class-16-auto",
    "multilabel": "labels-batch",
    "soft": "cross-entropy",
}
"""By the kind of the targets."""


def recommended(task: Task) -> str:
    """Return the name of the setting to use. Neither test rows nor results are looked at."""
    return RULE[task.kind]
