"""The whole comparison: every loss on every split, spread over processes, stored as it goes, summed up at the end."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from sklearn.compose import ColumnTransformer

from equilog.compare import bundle
from equilog.compare.dataset import Dataset
from equilog.compare.errors import DataError, did_you_mean
from equilog.compare.features import make_preprocessor
from equilog.compare.metrics import MAIN_METRIC
from equilog.compare.ranking import ranked
from equilog.compare.records import Results, RunRecord
from equilog.compare.report import write_report
from equilog.compare.run import ModelSettings, Split, TargetNames, as_given, prepare, train_and_test
from equilog.compare.splits import require_splittable
from equilog.compare.statistics import summarise
from equilog.compare.store import Store, fingerprint
from equilog.registry import LOSSES, Task, losses_for

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
class Failure:
    """A run that could not be finished."""

    loss: str
    seed: int
    reason: str


@dataclass(frozen=True)
class Comparison:
    """What came out, and where it was written."""

    results: Results
    failures: tuple[Failure, ...]
    interrupted: bool
    folder: Path


def chosen_losses(task: Task, names: Sequence[str]) -> tuple[str, ...]:
    """Return the losses of these names, or all that fit the task, with the task's baseline among them.

    Raises:
        DataError: a name that is not known, or does not fit the task.
    """
    fitting = losses_for(task)
    if not names:
        return tuple(fitting)
    asked = [name.replace("_", "-") for name in names]
    for name in asked:
        if name not in LOSSES:
            raise DataError(f'No loss is called "{name}". {did_you_mean(name, fitting)}')
        if name not in fitting:
            raise DataError(f'"{name}" does not fit {task} targets. {did_you_mean(name, fitting)}')
    return tuple(dict.fromkeys([*asked, BASELINE[task]]))


def compare(
    dataset: Dataset,
    plan: Plan,
    folder: Path,
    *,
    jobs: int = -1,
    resume: bool = False,
    started: Callable[[int, int, Sequence[str]], object] | None = None,
    advanced: Callable[[RunRecord | Failure], object] | None = None,
) -> Comparison:
    """Train and test every loss on every split, and write results.json, report.html and model/ to `folder`.

    The runs are spread by joblib, so a backend chosen with `joblib.parallel_config` (Dask, Ray) carries them over a
    cluster. Ctrl-C stops after the runs in hand and sums up what is finished.

    Args:
        dataset: what to compare on.
        plan: losses, splits and model.
        folder: where to write; must not hold another comparison.
        jobs: processes; -1 is one a processor.
        resume: go on with the comparison that `folder` holds, under the same plan; seeds and losses may be added.
        started: told once how many runs there are in all, how many are done, and notes on the columns.
        advanced: told of every run as it ends.

    Raises:
        DataError: the data cannot be split, the folder cannot be used, or every run failed.
    """
    require_splittable(dataset, plan.test_fraction)
    preprocessor, notes = make_preprocessor(dataset.features)
    settings = {
        "data": dataset.name,
        "fingerprint": fingerprint(dataset),
        "test_fraction": plan.test_fraction,
        "model": asdict(plan.model),
    }
    store = Store.start(folder, settings, resume=resume)
    done = {(run["loss"], run["seed"]) for run in store.runs()}
    wanted = [(loss, seed) for seed in range(plan.seeds) for loss in plan.losses if (loss, seed) not in done]
    if started is not None:
        started(len(wanted) + len(done), len(done), [*dataset.notes, *notes])

    names = TargetNames(dataset.task, dataset.target_names, dataset.class_names)
    failures = []
    interrupted = False
    runs = Parallel(n_jobs=jobs, return_as="generator_unordered", pre_dispatch="all" if jobs == 1 else "2*n_jobs")(
        delayed(_attempt)(split, names, loss, plan.model)
        for split, loss in _tasks(dataset, preprocessor, plan.test_fraction, wanted)
    )
    try:
        for outcome in runs:
            if isinstance(outcome, Failure):
                failures.append(outcome)
            else:
                store.add(outcome)
            if advanced is not None:
                advanced(outcome)
    except KeyboardInterrupt:
        interrupted = True
    finished = store.runs()
    if not finished:
        raise DataError(failures[0].reason if failures else "Interrupted before the first run had finished.")
    results = summarise(dataset, finished, BASELINE[dataset.task], test_fraction=plan.test_fraction)
    results["data"]["notes"] += notes
    store.finish(results)
    write_report(folder / "report.html", results, finished)
    if not interrupted:
        best = ranked(results["losses"], MAIN_METRIC[dataset.task])[0]
        bundle.save(_fit_best(dataset, preprocessor, names, best, plan.model), folder / "model")
    return Comparison(results, tuple(failures), interrupted, folder)


def _tasks(
    dataset: Dataset, preprocessor: ColumnTransformer, test_fraction: float, wanted: Sequence[tuple[str, int]]
) -> Iterator[tuple[Split, str]]:
    """Yield each run's split and loss, preparing each split once, when its first run is handed out."""
    split: Split | None = None
    for loss, seed in wanted:
        if split is None or split.seed != seed:
            split = prepare(dataset, preprocessor, test_fraction, seed)
        yield split, loss


def _attempt(split: Split, names: TargetNames, loss: str, settings: ModelSettings) -> RunRecord | Failure:
    """Return the run's record, or why it failed: one loss that breaks must not take the others with it."""
    try:
        return train_and_test(split, names, loss, settings)
    except (ValueError, RuntimeError, ArithmeticError) as error:
        return Failure(loss, split.seed, f"{loss}, split {split.seed}: {type(error).__name__}: {error}")


def _fit_best(
    dataset: Dataset, preprocessor: ColumnTransformer, names: TargetNames, loss: str, settings: ModelSettings
) -> bundle.Bundle:
    """Fit the preprocessing and the model with this loss on all rows, thinned where the data set asks for it."""
    rows = dataset.training_rows(np.arange(len(dataset.features)), 0)
    features = preprocessor.fit_transform(dataset.features.iloc[rows])
    model = settings.classifier(loss, names.task, 0).fit(features, as_given(dataset.target[rows], names.task))
    return bundle.Bundle(preprocessor, model, names)
