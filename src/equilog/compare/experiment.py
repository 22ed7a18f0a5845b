"""The whole comparison: every loss on every split, spread over processes, stored as it goes, summed up at the end."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from sklearn.compose import ColumnTransformer

from equilog._version import __version__
from equilog.compare import bundle
from equilog.compare.dataset import Dataset
from equilog.compare.errors import DataError
from equilog.compare.features import make_preprocessor
from equilog.compare.ranking import ranked, unfinished
from equilog.compare.ranks import Ranks
from equilog.compare.records import Results, RunRecord
from equilog.compare.report import write_report
from equilog.compare.run import (
    Failure,
    ModelSettings,
    Split,
    TargetNames,
    as_given,
    attempt,
    attempted,
    here,
    one_thread,
    prepare,
)
from equilog.compare.splits import require_splittable
from equilog.compare.statistics import summarise
from equilog.compare.store import Store, fingerprint
from equilog.registry import Task, loss_named, losses_for
from equilog.sklearn import LogBalancedClassifier
from equilog.sklearn.parameters import check_parameters

BASELINE: dict[Task, str] = {
    "multiclass": "cross-entropy",
    "multilabel": "binary-cross-entropy",
    "soft": "cross-entropy",
}
"""The loss the others are compared with: what people use."""


@dataclass(frozen=True)
class Plan:
    """What to compare."""

    losses: tuple[str, ...]
    seeds: int = 5
    test_fraction: float = 0.25
    model: ModelSettings = field(default_factory=ModelSettings)


@dataclass(frozen=True)
class Comparison:
    """What came out, and where it was written."""

    results: Results
    failures: tuple[Failure, ...]
    interrupted: bool
    folder: Path
    model: Path | None
    """Where the best model was saved; None where interrupted, or where training it on all rows failed."""


def chosen_losses(task: Task, names: Sequence[str]) -> tuple[str, ...]:
    """Return the losses of these names, or all that fit the task, after the task's baseline.

    The baseline comes first, so that a comparison cut short has something to compare with.

    Raises:
        DataError: a name that is not known, or does not fit the task.
    """
    try:
        asked = [loss_named(name, task).name for name in names]
    except ValueError as error:
        raise DataError(str(error)) from None
    return tuple(dict.fromkeys([BASELINE[task], *(asked or losses_for(task))]))


def compare(
    dataset: Dataset,
    plan: Plan,
    folder: Path,
    *,
    jobs: int = -1,
    resume: bool = False,
    started: Callable[[int, int, Sequence[str]], object] | None = None,
    advanced: Callable[[Failure | None], object] | None = None,
) -> Comparison:
    """Train and test every loss on every split, and write results.json, report.html and model/ to `folder`.

    The runs are spread by joblib, so a backend chosen with `joblib.parallel_config` (Dask, Ray) carries them over a
    cluster. Ctrl-C gives up the runs in hand and sums up what is finished.

    Where torch.distributed is initialised, its ranks train each model together, one run after the other, to what one
    process would have trained up to rounding. Every rank must call this with the same arguments; the first one writes.

    Args:
        dataset: what to compare on.
        plan: losses, splits and model.
        folder: where to write; must not hold another comparison.
        jobs: processes; -1 is one a processor. Ranks that train together take one run at a time, whatever is given.
        resume: go on with the comparison that `folder` holds, under the same plan; seeds and losses may be added.
        started: told once how many trainings there are in all, how many are done, and notes on the columns.
        advanced: told at the end of each training why it failed, or None. The last one is that of the model.

    Raises:
        DataError: the data cannot be split, the plan cannot be trained, the folder cannot be used, every run failed,
            a process of a run was killed, or ranks were asked different things.
        KeyboardInterrupt: Ctrl-C before the first run had finished, or on a rank other than the first.
    """
    ranks = Ranks.present()
    _check(plan, jobs)
    settings = {
        "equilog": __version__,
        "data": dataset.name,
        "fingerprint": fingerprint(dataset),
        "test_fraction": plan.test_fraction,
        **asdict(plan.model),
    }
    # Before anything that only some of them could refuse.
    ranks.require_same({**settings, "losses": plan.losses, "seeds": plan.seeds})
    require_splittable(dataset)
    preprocessor, notes = make_preprocessor(dataset.features)
    store = Store(folder)

    def begin() -> set[tuple[str, int]]:
        return {(run["loss"], run["seed"]) for run in Store.start(folder, settings, resume=resume).runs()}

    done = ranks.told(begin)
    wanted = [(loss, seed) for seed in range(plan.seeds) for loss in plan.losses if (loss, seed) not in done]
    if started is not None:
        started(len(wanted) + len(done) + 1, len(done), [*dataset.notes, *notes])

    names = TargetNames(dataset.task, dataset.target_names, dataset.class_names)
    failures: list[Failure] = []
    interrupted = False
    saved = None

    def ended(failure: Failure | None = None) -> None:
        if failure is not None:
            failures.append(failure)
        if advanced is not None:
            advanced(failure)

    def summed_up() -> Results:
        finished = store.runs()
        if not finished:
            store.discard()
            if interrupted:
                raise KeyboardInterrupt
            raise DataError(f"Every run failed. {failures[0].reason}")
        results = summarise(dataset, finished, BASELINE[dataset.task], test_fraction=plan.test_fraction)
        results["data"]["notes"] += notes
        store.finish(results)
        write_report(folder / "report.html", results, finished)
        return results

    with one_thread():
        try:
            for outcome in _outcomes(dataset, preprocessor, names, plan, wanted, jobs if ranks.world == 1 else 1):
                if isinstance(outcome, Failure):
                    ended(outcome)
                    continue
                if ranks.first:
                    store.add(outcome)
                ended()
        except KeyboardInterrupt:
            if not ranks.first:
                raise
            interrupted = True
            # The others have gone.
            ranks = Ranks()
        results = ranks.told(summed_up)
        if not interrupted:
            best = _best(results)
            model = attempted(best, "all rows", lambda: _fit(dataset, preprocessor, names, best, plan.model))
            if isinstance(model, Failure):
                ended(model)
            else:
                saved = bundle.save(model, folder / "model") if ranks.first else folder / "model"
                ended()
    return Comparison(results, tuple(failures), interrupted, folder, saved)


def _check(plan: Plan, jobs: int) -> None:
    if jobs == 0:
        raise DataError("--jobs must be a number of processes, or -1 for one a processor; got 0.")
    if not 0 < plan.test_fraction < 1:
        raise DataError(f"--test-fraction must lie between 0 and 1; got {plan.test_fraction:g}.")
    try:
        check_parameters(LogBalancedClassifier(**asdict(plan.model)).get_params())
    except ValueError as error:
        raise DataError(str(error)) from error
    try:
        torch.empty(0, device=plan.model.device)
    except (RuntimeError, AssertionError) as error:
        # torch goes on about how the device could be debugged.
        raise DataError(f"--device {plan.model.device} cannot be used: {str(error).splitlines()[0]}") from error


def _outcomes(
    dataset: Dataset,
    preprocessor: ColumnTransformer,
    names: TargetNames,
    plan: Plan,
    wanted: Sequence[tuple[str, int]],
    jobs: int,
) -> Iterator[RunRecord | Failure]:
    """Yield what came of each run, in the order they end."""
    parallel = Parallel(n_jobs=jobs, return_as="generator_unordered")
    runs = parallel(
        delayed(attempt)(split, names, loss, plan.model)
        for split, loss in _tasks(dataset, preprocessor, plan.test_fraction, wanted)
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


def _tasks(
    dataset: Dataset, preprocessor: ColumnTransformer, test_fraction: float, wanted: Sequence[tuple[str, int]]
) -> Iterator[tuple[Split, str]]:
    """Yield each run's split and loss, preparing each split once, when its first run is handed out."""
    split: Split | None = None
    for loss, seed in wanted:
        if split is None or split.seed != seed:
            split = prepare(dataset, preprocessor, test_fraction, seed)
        yield split, loss


def _best(results: Results) -> str:
    """Return the best loss of those that have finished every split."""
    cut_short = unfinished(results)
    whole = {loss: reached for loss, reached in results["losses"].items() if loss not in cut_short}
    return ranked(whole, results["main_metric"])[0]


def _fit(
    dataset: Dataset, preprocessor: ColumnTransformer, names: TargetNames, loss: str, settings: ModelSettings
) -> bundle.Bundle:
    """Fit the preprocessing and the model with this loss on all rows, thinned where the data set asks for it."""
    rows = dataset.training_rows(np.arange(len(dataset.features)), 0)
    with here():
        features = preprocessor.fit_transform(dataset.features.iloc[rows])
    model = settings.classifier(loss, names.task, 0).fit(features, as_given(dataset.target[rows], names.task))
    return bundle.Bundle(preprocessor, model, names)
