"""What a process that trains runs; it imports what training needs, and neither the report nor the store."""

from collections.abc import Sequence

from equilog.compare.judge.records import RunRecord
from equilog.compare.run.answers import TargetNames
from equilog.compare.run.contenders import Contender
from equilog.compare.run.lifeline import end_with
from equilog.compare.run.one_run import Failure, RunSettings, Split, attempt, in_this_process
from equilog.compare.run.shared import give_back


def attempt_for(
    parent: int, split: Split | None, names: TargetNames, contenders: Sequence[Contender], settings: RunSettings
) -> list[RunRecord | Failure]:
    """Return the record of each contender that shares a training, or why it failed; the process ends with its parent.

    Without a split it has then imported all that the next one needs.

    What a model would spread over processes by itself stays in this one: on a cluster it would wait for the workers of
    which it holds one.
    """
    end_with(parent)
    if split is None:
        return []
    try:
        with in_this_process():
            return attempt(split, names, contenders, settings)
    finally:
        give_back()
