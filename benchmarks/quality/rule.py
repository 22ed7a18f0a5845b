"""The written rule: which setting to use, from what is known before any training."""

from benchmarks.quality.task import Task

POOLS_OF_16 = ("class-16-auto", "class-144-auto")
"""One log per class over 16 sets with the running prior; where a row is nine sets of different classes, 16 rows."""


def recommended(task: Task) -> str:
    """Return the name of the setting to use.

    Where the distribution itself is wanted, cross-entropy. Where decisions are wanted that count every class the same:
    for yes/no labels two logs over the batch, for one choice of several pools of 16 with the running prior. Written
    down before the study was run; no result of it is looked at.
    """
    if task.metric == "kl":
        return "cross-entropy"
    if task.kind == "multilabel":
        return "labels-batch"
    return next((name for name in POOLS_OF_16 if name in task.settings), POOLS_OF_16[0])
