"""The whole comparison: every contender on every split, spread over processes, stored as it goes, summed up at last."""

import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import partial
from itertools import chain, groupby
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed, effective_n_jobs
from joblib.externals.loky import get_reusable_executor

from equilog._version import __version__
from equilog.compare.data.cautions import cautions
from equilog.compare.data.dataset import Dataset
from equilog.compare.data.features import make_preprocessor, read_once
from equilog.compare.data.preprocessor import Preprocessor
from equilog.compare.data.splits import TEST_FRACTION, Splits, splits_of
from equilog.compare.errors import DataError
from equilog.compare.judge.chosen_metric import MetricChoice, default_metric
from equilog.compare.judge.records import Provenance, Results, RunRecord
from equilog.compare.judge.statistics import summarise
from equilog.compare.run import bundle
from equilog.compare.run.answers import TargetNames, frequencies
from equilog.compare.run.contenders import BASELINE, Contender, named
from equilog.compare.run.estimators import estimator_from
from equilog.compare.run.imported import is_import_path
from equilog.compare.run.in_worker import attempt_for
from equilog.compare.run.models import ModelSettings
from equilog.compare.run.one_run import (
    Failure,
    RunSettings,
    Split,
    attempted,
    decide,
    fit,
    in_this_process,
    inputs,
    prepare,
)
from equilog.compare.run.storage import NotStorableError, why_not
from equilog.compare.run.store import Store, fingerprint
from equilog.compare.show.report import write_report
from equilog.compare.show.tables import FOLDER as TABLES
from equilog.compare.show.tables import write_tables
from equilog.error_text import did_you_mean
from equilog.sklearn import LogBalancedClassifier
from equilog.sklearn.parameters import check_parameters
from equilog.sklearn.threads import one_thread


@dataclass(frozen=True)
class Plan:
    """What to compare."""

    contenders: tuple[Contender, ...]
    seeds: int = 5
    """Splits drawn at random, rounds of folds, or windows of time, as `splits_of` makes them."""
    test_fraction: float | None = None
    folds: int | None = None
    model: ModelSettings = field(default_factory=ModelSettings)
    metric: MetricChoice | None = None
    """What decides; the metric of the task if None."""
    tune: bool = False
    """Whether the learning rate of each loss is chosen on validation rows."""
    save: str | None = None
    """The contender to save; chosen by the results if None."""
    command: str = ""
    """As the results are to quote it."""
    notes: tuple[str, ...] = ()
    """What a user should know of the choice of contenders, a sentence each."""


@dataclass(frozen=True)
class Comparison:
    """What came out, and where it was written."""

    results: Results
    failures: tuple[Failure, ...]
    interrupted: bool
    folder: Path
    model: Path | None
    """Where the chosen model was saved; None where interrupted, or where training it on all rows failed."""


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
    """Train and test every contender on every split, and write results.json, report.html, tables/ and model/.

    The runs are spread by joblib, so a backend chosen with `joblib.parallel_config` (Dask, Ray) carries them over a
    cluster. Ctrl-C gives up the runs in hand and sums up what is finished.

    Args:
        dataset: what to compare on.
        plan: contenders, splits and model.
        folder: where to write; must not hold another comparison.
        jobs: processes; -1 is one a processor.
        resume: go on with the comparison that `folder` holds, under the same plan; seeds and contenders may be added.
        started: called once with how many trainings there are in all, how many are done, and notes on the columns.
        advanced: called at the end of each training with why it failed, or None. The last one is that of the model.
        finished: called with the record of each training that ends well, once it is stored.

    Raises:
        DataError: the data cannot be split, the plan cannot be trained, the folder cannot be used, every run failed,
            or a process of a run was killed.
        KeyboardInterrupt: Ctrl-C before the first run had finished.
    """
    _check(plan, jobs)
    unstorable = _unstorable(plan)
    metric = plan.metric or default_metric(dataset.task)
    splits = splits_of(dataset, plan.seeds, plan.test_fraction, plan.folds)
    settings = {
        "equilog": __version__,
        "data": dataset.name,
        "fingerprint": fingerprint(dataset),
        **_settings_of_splits(dataset, plan),
        **asdict(plan.model),
        "metric": metric.name,
        "costs": metric.costs,
        "tune": plan.tune,
    }
    run_settings = RunSettings(metric, plan.model, plan.tune)
    preprocessor, notes = make_preprocessor(dataset.features, dataset.columns)
    notes += (*plan.notes, *cautions(dataset))
    store = Store.start(folder, settings, resume=resume)
    done = {(run["loss"], run["seed"]) for run in store.runs()}
    wanted = [
        (contender, seed)
        for seed in range(len(splits))
        for contender in plan.contenders
        if (contender.name, seed) not in done
    ]
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

    def by_name() -> dict[str, Contender]:
        """Return the contenders of the plan, and those that an earlier one has finished."""
        planned = {one.name: one for one in plan.contenders}
        earlier = {run["loss"] for run in store.runs()} - planned.keys()
        return planned | {name: named(name, dataset.task) for name in sorted(earlier) if not is_import_path(name)}

    def summed_up() -> Results:
        records = store.runs()
        if not records:
            store.discard()
            if interrupted:
                raise KeyboardInterrupt
            raise DataError(f"Every run failed. {failures[0].reason}")
        known = by_name()
        results = summarise(
            dataset,
            records,
            BASELINE[dataset.task],
            test_fraction=splits.test_fraction,
            metric=metric,
            complexity={name: one.complexity for name, one in known.items()},
            unstorable={run["loss"]: "this command does not name it" for run in records if run["loss"] not in known}
            | unstorable,
        )
        if plan.save is not None and plan.save in results["losses"]:
            but = f", but it cannot be saved: {unstorable[plan.save]}" if plan.save in unstorable else ""
            results["saved"] |= {"name": plan.save, "reason": f"as asked by --save{but}"}
        results["splits"] = splits.summary
        results["data"]["notes"] += notes
        results["provenance"] = _provenance(plan, settings, records)
        store.finish(results)
        write_tables(folder / TABLES, results, records)
        write_report(folder / "report.html", results, records)
        return results

    def fitted_and_saved(contender: Contender) -> Path:
        return bundle.save(_fit(dataset, preprocessor, names, contender, run_settings), folder / "model")

    dataset = replace(dataset, features=read_once(preprocessor, dataset.features))
    with one_thread():
        try:
            for outcomes in _outcomes(dataset, preprocessor, names, splits, run_settings, wanted, jobs):
                for outcome in outcomes:
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
        model: Path | Failure | None = None
        while not interrupted and model is None:
            best = by_name()[results["saved"]["name"]]
            try:
                model = attempted(best.name, "all rows", partial(fitted_and_saved, best))
            except NotStorableError as error:
                # What a user's own model is made of is known only once it is trained.
                alike = [one for one in by_name().values() if (one.kind, one.trained) == (best.kind, best.trained)]
                unstorable |= {one.name: str(error) for one in alike}
                results = summed_up()
                if results["saved"]["name"] == best.name:
                    model = Failure(best.name, f"{best.name} cannot be saved: {error}")
        if isinstance(model, Failure):
            ended(model)
        elif model is not None:
            saved = model
            ended()
    return Comparison(results, tuple(failures), interrupted, folder, saved)


def _unstorable(plan: Plan) -> dict[str, str]:
    """Return which of the user's own models cannot be saved, as far as is known before they are trained, and why.

    Raises:
        DataError: one of them is to be saved.
    """
    estimators = {one.base: estimator_from(one.base) for one in plan.contenders if one.kind == "model" and one.foreign}
    reasons = {base: reason for base, estimator in estimators.items() if (reason := why_not([estimator]))}
    unstorable = {one.name: reasons[one.base] for one in plan.contenders if one.base in reasons}
    if plan.save in unstorable:
        raise DataError(f"--save: {plan.save} cannot be saved: {unstorable[plan.save]}. Save another.")
    return unstorable


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
    names = [contender.name for contender in plan.contenders]
    if plan.save is not None and plan.save not in names:
        raise DataError(f'--save: no contender is called "{plan.save}". {did_you_mean(plan.save, names)}')
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
    preprocessor: Preprocessor,
    names: TargetNames,
    splits: Splits,
    settings: RunSettings,
    wanted: Sequence[tuple[Contender, int]],
    jobs: int,
) -> Iterator[list[RunRecord | Failure]]:
    """Yield what came of each training, in the order they end."""
    # A training is much more than handing it out: joblib would make batches of those that end at once.
    parallel = Parallel(n_jobs=jobs, return_as="generator_unordered", mmap_mode="c", batch_size=1)
    tasks = chain(
        # Nothing to train: a process imports what it needs while the first split is prepared.
        [(None, [])] * min(effective_n_jobs(jobs), len(wanted)),
        _tasks(dataset, preprocessor, splits, wanted),
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


def _provenance(plan: Plan, settings: Mapping[str, object], runs: Sequence[RunRecord]) -> Provenance:
    """Return where the results come from."""
    seconds: dict[str, list[float]] = {}
    found: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        seconds.setdefault(run["loss"], []).append(run["seconds"])
        for name, value in run.get("chosen", {}).items():
            found.setdefault(run["loss"], {}).setdefault(name, []).append(value)
    return {
        "command": plan.command,
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "settings": json.loads(json.dumps(settings)),
        "seconds": {name: float(np.mean(values)) for name, values in seconds.items()},
        "chosen": found,
    }


def _fit(
    dataset: Dataset,
    preprocessor: Preprocessor,
    names: TargetNames,
    contender: Contender,
    settings: RunSettings,
) -> bundle.Bundle:
    """Fit the preprocessing and the contender on all rows, thinned where the data set asks for it."""
    rows = dataset.training_rows(np.arange(len(dataset.features)), 0)
    with in_this_process():
        features = inputs(preprocessor.fit(dataset.features, rows=rows), dataset, rows)
    target = dataset.target[rows]
    arguments = features, target, names, contender, settings, 0
    fitted = decide(fit(*arguments), *arguments)
    identifiers = [name for name, column in (dataset.columns or {}).items() if column.kind == "identifier"]
    shares = tuple(tuple(share.tolist()) for share in frequencies(target, names))
    return bundle.Bundle(preprocessor, fitted, names, tuple(identifiers), shares, contender.name)
