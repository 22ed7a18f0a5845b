"""What a process that trains runs; it imports what training needs, and neither the report nor the store."""

from equilog.compare.judge.records import RunRecord
from equilog.compare.run.lifeline import end_with
from equilog.compare.run.one_run import Failure, ModelSettings, Split, TargetNames, attempt, in_this_process


def attempt_for(
    parent: int, split: Split, names: TargetNames, loss: str, settings: ModelSettings
) -> RunRecord | Failure:
    """Return a run's record, or why it failed; the process ends with its parent.

    What a model would spread over processes by itself stays in this one: on a cluster it would wait for the workers of
    which it holds one.
    """
    end_with(parent)
    with in_this_process():
        return attempt(split, names, loss, settings)
