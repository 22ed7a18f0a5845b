"""Doing what a plan asks for: in processes of one thread each, every finished training written down at once."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from itertools import chain, count, islice
from multiprocessing import get_context
from typing import Any

import torch
from benchmarks.quality.plan import Plan
from benchmarks.quality.score import run
from benchmarks.quality.store import Key, Record, Store
from benchmarks.quality.task import Split, Task
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from equilog.compare.errors import DataError

SPLITS_KEPT = 4


def execute(plan: Plan, store: Store, *, jobs: int, console: Console) -> None:
    """Do what is missing of the plan, the results written as they come; what fails is told and left out.

    A task whose data is not installed is told once and skipped.
    """
    skipped: set[str] = set()
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with _executor(jobs) as executor, Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        names = chain(["learning rates", "weight decays"], (f"seed {seed}" for seed in count(0)))
        for name, stage in zip(names, plan.stages(store), strict=False):
            missing = [(task, key) for task, key in stage if key not in store.records]
            bar = progress.add_task(name, total=len(missing))
            installed = ((task, key) for task, key in missing if task.name not in skipped)
            for key, outcome in _ended(executor, installed, jobs):
                error = outcome.exception()
                if error is None:
                    store.add(key, outcome.result())
                elif isinstance(error, DataError):
                    if key.task not in skipped:
                        progress.print(f"[yellow]skipped[/] {key.task}: {error}")
                    skipped.add(key.task)
                else:
                    progress.print(f"[red]failed[/] {key}: {error!r}")
                progress.advance(bar)


def _ended(
    executor: Executor, trainings: Iterable[tuple[Task, Key]], jobs: int
) -> Iterator[tuple[Key, Future[Record]]]:
    """Yield trainings as they end. Few are under way at a time, so that little is lost when the run is stopped."""
    running: dict[Future[Record], Key] = {}
    waiting = iter(trainings)
    while True:
        for task, key in islice(waiting, jobs + 1 - len(running)):
            running[executor.submit(train_once, task, key)] = key
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            yield running.pop(future), future


def train_once(task: Task, key: Key) -> Record:
    """Run one training on one thread, keeping the rows of the last few splits for the next."""
    torch.set_num_threads(1)
    wanted = (task.name, task.version, key.seed)
    if wanted not in _splits:
        while len(_splits) >= SPLITS_KEPT:
            del _splits[next(iter(_splits))]
        _splits[wanted] = task.load(key.seed)
    return run(task, _splits[wanted], key.setting, key.seed, key.learning_rate, key.weight_decay)


_splits: dict[tuple[str, int, int], Split] = {}


class Here(Executor):
    """An executor that is this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call the function at once."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def _executor(jobs: int) -> Executor:
    # Threads do not survive a fork.
    return Here() if jobs == 1 else ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))
