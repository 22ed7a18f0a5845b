"""The whole comparison: every loss on every split, spread over processes, stored as it goes, summed up at the end."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer

from equilog._version import __version__
from equilog.baselines.registry import Task, loss_named, losses_for
from equilog.compare.data.cautions import cautions
from equilog.compare.data.dataset import Dataset
from equilog.compare.data.features import make_preprocessor
from equilog.compare.data.splits import TEST_FRACTION, Splits, splits_of
from equilog.compare.errors import DataError
from equilog.compare.judge.ranking import ranked, unfinished
from equilog.compare.judge.records import Results, RunRecord
from equilog.compare.judge.statistics import summarise
from equilog.compare.run import bundle
from equilog.compare.run.in_worker import attempt_for
from equilog.compare.run.one_run import (
    Failure,
    ModelSettings,
    Split,
    TargetNames,
    as_fitted,
    attempted,
    in_this_process,
    prepare,
)
from equilog.compare.run.store import Store, fingerprint
from equilog.compare.show.report import write_report
from equilog.sklearn import LogBalancedClassifier
from equilog.sklearn.parameters import check_parameters
from equilog.sklearn.threads import one_thread

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
    """Splits drawn at random, rounds of folds, or windows of time, as `splits_of` makes them."""
    test_fraction: float | None = None
    folds: int | None = None
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
    finished: Callable[[RunRecord], object] | None = None,
) -> Comparison:
    """Train and test every loss on every split, and write results.json, report.html and model/ to `folder`.

    The runs are spread by joblib, so a backend chosen with `joblib.parallel_config` (Dask, Ray) carries them over a
    cluster. Ctrl-C gives up the runs in hand and sums up what is finished.

    Args:
        dataset: what to compare on.
        plan: losses, splits and model.
        folder: where to write; must not hold another comparison.
        jobs: processes; -1 is one a processor.
        resume: go on with the comparison that `folder` holds, under the same plan; seeds and losses may be added.
        started: called once with how many trainings there are in all, how many are done, and notes on the columns.
        advanced: called at the end of each training with why it failed, or None. The last one is that of the model.
        finished: called with the record of each training that ends well, once it is stored.

    Raises:
        DataError: the data cannot be split, the plan cannot be trained, the folder cannot be used, every run failed,
            or a process of a run was killed.
        KeyboardInterrupt: Ctrl-C before the first run had finished.
    """
    _check(plan, jobs)
    splits = splits_of(dataset, plan.seeds, plan.test_fraction, plan.folds)
    settings = {
        "equilog": __version__,
        "data": dataset.name,
        "fingerprint": fingerprint(dataset),
        **_settings_of_splits(dataset, plan),
        **asdict(plan.model),
    }
    preprocessor, notes = make_preprocessor(dataset.features, dataset.columns)
    notes += cautions(dataset)
    store = Store.start(folder, settings, resume=resume)
    done = {(run["loss"], run["seed"]) for run in store.runs()}
    wanted = [(loss, seed) for seed in range(len(splits)) for loss in plan.losses if (loss, seed) not in done]
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
        records = store.runs()
        if not records:
            store.discard()
            if interrupted:
                raise KeyboardInterrupt
            raise DataError(f"Every run failed. {failures[0].reason}")
        results = summarise(dataset, records, BASELINE[dataset.task], test_fraction=splits.test_fraction)
        results["splits"] = splits.summary
        results["data"]["notes"] += notes
        store.finish(results)
        write_report(folder / "report.html", results, records)
        return results

    with one_thread():
        try:
            for outcome in _outcomes(dataset, preprocessor, names, splits, plan.model, wanted, jobs):
                if isinstance(outcome, Failure):
                    ended(outcome)
                    continue
                store.add(outcome)
                if finished is not None:
                    finished(outcome)
                ended()
        except KeyboardInterrupt:
            interrupted = True
        results = summed_up()
        if not interrupted:
            best = _best(results)
            model = attempted(best, "all rows", lambda: _fit(dataset, preprocessor, names, best, plan.model))
            if isinstance(model, Failure):
                ended(model)
            else:
                saved = bundle.save(model, folder / "model")
                ended()
    return Comparison(results, tuple(failures), interrupted, folder, saved)


def _settings_of_splits(dataset: Dataset, plan: Plan) -> dict[str, object]:
    """Return what makes a split of some number what it is, however many there are."""
    by = dataset.split_column
    return {
        "test_fraction": plan.test_fraction or TEST_FRACTION,
        "folds": plan.folds,
        "split by": by and by.by,
        "split column": by and by.name,
        # How many windows there are decides where each begins.
        "windows": plan.seeds if by is not None and by.by == "time" else None,
    }


def _check(plan: Plan, jobs: int) -> None:
    if jobs == 0:
        raise DataError("--jobs must be a number of processes, or -1 for one a processor; got 0.")
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
    splits: Splits,
    settings: ModelSettings,
    wanted: Sequence[tuple[str, int]],
    jobs: int,
) -> Iterator[RunRecord | Failure]:
    """Yield what came of each run, in the order they end."""
    parallel = Parallel(n_jobs=jobs, return_as="generator_unordered")
    runs = parallel(
        delayed(attempt_for)(os.getpid(), split, names, loss, settings)
        for split, loss in _tasks(dataset, preprocessor, splits, wanted)
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
    dataset: Dataset, preprocessor: ColumnTransformer, splits: Splits, wanted: Sequence[tuple[str, int]]
) -> Iterator[tuple[Split, str]]:
    """Yield each run's split and loss, preparing each split once, when its first run is handed out."""
    split: Split | None = None
    for loss, seed in wanted:
        if split is None or split.seed != seed:
            split = prepare(dataset, preprocessor, splits.rows[seed], seed)
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
    with in_this_process():
        features = preprocessor.fit_transform(dataset.features.iloc[rows])
    model = settings.classifier(loss, names.task, 0).fit(features, as_fitted(dataset.target[rows], names.task))
    identifiers = [name for name, column in (dataset.columns or {}).items() if column.kind == "identifier"]
    return bundle.Bundle(preprocessor, model, names, tuple(identifiers), _shares(dataset, rows))


def _shares(dataset: Dataset, rows: NDArray[np.int64]) -> tuple[tuple[float, ...], ...]:
    """Return the frequency of each class among the rows, for each target."""
    target = dataset.target[rows]
    if dataset.task == "multiclass":
        counts = [
            np.bincount(codes, minlength=len(names)) for codes, names in zip(target.T, dataset.class_names, strict=True)
        ]
    else:
        counts = [target.sum(axis=0)]
    return tuple(tuple((count / len(rows)).tolist()) for count in counts)
