"""The written rule: which setting to use, from what is known before any training."""

from benchmarks.quality.task import Task

SMALL_POOLS = ("class-4-auto", "class-16-auto", "class-144-auto")
"""One log per class over a few sets with the running prior; where a row is nine sets of different classes, 16 rows."""

GENTLE = "class-16-auto-nll"
"""The same of the cross-entropy in place of the odds, for targets that are soft where they need not be."""


OF_A_SAMPLE = ("class-sample-none", "class-144-none", "class-16-none")
"""One log per class over the positions of a sample, or over 16 rows; no prior."""


def recommended(task: Task) -> str:
    """Return the name of the setting to use.

    Where the distribution itself is wanted, cross-entropy. Where decisions are wanted that count every class the same:
    for yes/no labels two logs over the batch, for one choice of several small pools with the running prior. Written
    down before the study was run, but for four lines, added when the results were in that they rest on: where macro F1
    is wanted, to which a false alarm is as bad as a miss, pools of a sample without a prior; for grids pools of eight
    cells from the bias at the frequencies; for the order of the rows of each label a pool a label; and for smoothed and
    mixed labels a gentler inner term.
    """
    if task.metric == "kl":
        return "cross-entropy"
    if task.metric == "micro_f1":
        return "labels-8-at-prior"
    if task.kind == "soft":
        return GENTLE
    if task.metric == "map":
        return "labels-label"
    if task.kind == "multilabel":
        return "labels-batch"
    if task.metric == "macro_f1":
        return next((name for name in OF_A_SAMPLE if name in task.settings), OF_A_SAMPLE[0])
    return next((name for name in SMALL_POOLS if name in task.settings), SMALL_POOLS[0])
