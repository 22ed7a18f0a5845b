"""The trainings of a comparison, spread over processes, or over a cluster."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from itertools import chain, groupby

from joblib import Parallel, delayed, effective_n_jobs
from joblib.externals.loky import get_reusable_executor

from equilog.compare.data.dataset import Dataset
from equilog.compare.data.preprocessor import Preprocessor
from equilog.compare.data.splits import Splits
from equilog.compare.errors import DataError
from equilog.compare.judge.records import RunRecord
from equilog.compare.run.answers import TargetNames
from equilog.compare.run.contenders import Contender
from equilog.compare.run.in_worker import attempt_for
from equilog.compare.run.one_run import Failure, RunSettings, Split, prepare


def outcomes(
    dataset: Dataset,
    preprocessor: Preprocessor,
    names: TargetNames,
    splits: Splits,
    settings: RunSettings,
    wanted: Sequence[tuple[Contender, int]],
    jobs: int,
    meanwhile: Callable[[], object],
) -> Iterator[list[RunRecord | Failure]]:
    """Yield what came of each training, in the order they end.

    meanwhile: what this process does once it has handed out all of them, and has but to wait.
    """
    # A training is much more than handing it out: joblib would make batches of those that end at once.
    parallel = Parallel(n_jobs=jobs, return_as="generator_unordered", mmap_mode="c", batch_size=1)
    tasks = chain(
        # Nothing to train: a process imports what it needs while the first split is prepared.
        [(None, [])] * min(effective_n_jobs(jobs), len(wanted)),
        _tasks(dataset, preprocessor, splits, wanted),
        _none_after(meanwhile),
    )
    runs = parallel(
        delayed(attempt_for)(os.getpid(), split, names, contenders, settings) for split, contenders in tasks
    )
    try:
        for outcome in runs:  # noqa: UP028 - `yield from` would close them before `finally` does
            yield outcome
    except BrokenExecutor as error:
        raise DataError(
            "A process was killed, most often for want of memory. What had finished is kept: go on by --resume with "
            "fewer --jobs."
        ) from error
    finally:
        # Left off half-way, joblib warns that it cancels the other runs, which is what is wanted.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            runs.close()
        # They would keep their memory, which training the model on all rows may need.
        get_reusable_executor().shutdown()


def _tasks(
    dataset: Dataset, preprocessor: Preprocessor, splits: Splits, wanted: Sequence[tuple[Contender, int]]
) -> Iterator[tuple[Split, list[Contender]]]:
    """Yield each training's split and the contenders that share it, preparing a split when its first is handed out."""
    for seed, pairs in groupby(wanted, key=lambda pair: pair[1]):
        split = prepare(dataset, preprocessor, splits.rows[seed], seed)
        shared: dict[tuple[str, str], list[Contender]] = {}
        for contender, _ in pairs:
            shared.setdefault((contender.kind, contender.trained), []).append(contender)
        for contenders in shared.values():
            yield split, contenders


def _none_after(work: Callable[[], object]) -> Iterator[tuple[Split, list[Contender]]]:
    work()
    yield from ()
