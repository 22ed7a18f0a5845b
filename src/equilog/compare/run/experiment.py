"""The whole comparison: every contender on every split, stored as it goes, summed up, and the best one saved."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from equilog.compare.data.cautions import cautions
from equilog.compare.data.dataset import Dataset
from equilog.compare.data.features import make_preprocessor, read_once
from equilog.compare.data.preprocessor import Preprocessor
from equilog.compare.data.splits import Rows, Splits, splits_of
from equilog.compare.errors import DataError
from equilog.compare.judge.chosen_metric import default_metric
from equilog.compare.judge.records import Provenance, Results, RunRecord
from equilog.compare.judge.statistics import summarise
from equilog.compare.run import bundle
from equilog.compare.run.answers import TargetNames, frequencies
from equilog.compare.run.contenders import BASELINE, Contender, named
from equilog.compare.run.imported import is_import_path
from equilog.compare.run.models import Features
from equilog.compare.run.one_run import Failure, RunSettings, attempted, decide, fit, in_this_process, inputs
from equilog.compare.run.plan import Plan, check, settings_of, unstorable_of
from equilog.compare.run.storage import NotStorableError
from equilog.compare.run.store import Store
from equilog.compare.run.trainings import outcomes
from equilog.compare.show.report import write_report
from equilog.compare.show.tables import FOLDER as TABLES
from equilog.compare.show.tables import write_tables
from equilog.sklearn.threads import one_thread


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
    check(plan, jobs)
    unstorable = unstorable_of(plan)
    splits = splits_of(dataset, plan.seeds, plan.test_fraction, plan.folds)
    settings = settings_of(plan, dataset)
    preprocessor, notes = make_preprocessor(dataset.features, dataset.columns)
    notes += (*plan.notes, *cautions(dataset))
    store = Store.start(folder, settings, resume=resume)
    once = replace(dataset, features=read_once(preprocessor, dataset.features))
    experiment = _Experiment(plan, once, preprocessor, splits, settings, notes, store, folder, unstorable)
    wanted, done = experiment.wanted()
    if started is not None:
        started(len(wanted) + done + 1, done, [*dataset.notes, *notes])

    def ended(failure: Failure | None) -> None:
        if failure is not None:
            experiment.failures.append(failure)
        if advanced is not None:
            advanced(failure)

    model: Path | None = None
    interrupted = False
    try:
        experiment.train(wanted, jobs, ended, finished)
    except KeyboardInterrupt:
        interrupted = True
    results = experiment.summed_up(interrupted=interrupted)
    if not interrupted:
        # The others have ended, so that a large network may take the processors that they took.
        with one_thread() if jobs == 1 else nullcontext():
            results, saved = experiment.saved(results)
        model = None if isinstance(saved, Failure) else saved
        ended(saved if isinstance(saved, Failure) else None)
    return Comparison(results, tuple(experiment.failures), interrupted, folder, model)


@dataclass
class _Experiment:
    """A comparison under way."""

    plan: Plan
    dataset: Dataset
    preprocessor: Preprocessor
    splits: Splits
    settings: Mapping[str, object]
    notes: tuple[str, ...]
    store: Store
    folder: Path
    unstorable: dict[str, str]
    """The contenders that are known not to be storable, and why."""
    failures: list[Failure] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.metric = self.plan.metric or default_metric(self.dataset.task)
        self.run_settings = RunSettings(self.metric, self.plan.model, self.plan.tune)
        self.names = TargetNames(self.dataset.task, self.dataset.target_names, self.dataset.class_names)

    def wanted(self) -> tuple[list[tuple[Contender, int]], int]:
        """Return the contenders and splits that are yet to be run, and how many are done."""
        done = {(run["loss"], run["seed"]) for run in self.store.runs()}
        every = [(contender, seed) for seed in range(len(self.splits)) for contender in self.plan.contenders]
        return [(contender, seed) for contender, seed in every if (contender.name, seed) not in done], len(done)

    def train(
        self,
        wanted: Sequence[tuple[Contender, int]],
        jobs: int,
        ended: Callable[[Failure | None], object],
        finished: Callable[[RunRecord], object] | None,
    ) -> None:
        """Train what is wanted, and store what came of it as it ends."""
        arguments = self.dataset, self.preprocessor, self.names, self.splits, self.run_settings
        for several in outcomes(*arguments, wanted, jobs, self._get_ready_to_save):
            for outcome in several:
                if isinstance(outcome, Failure):
                    ended(outcome)
                    continue
                self.store.add(outcome)
                if finished is not None:
                    finished(outcome)
                ended(None)

    def contenders(self) -> dict[str, Contender]:
        """Return the contenders of the plan by name, and those that an earlier one has finished."""
        planned = {one.name: one for one in self.plan.contenders}
        earlier = {run["loss"] for run in self.store.runs()} - planned.keys()
        return planned | {name: named(name, self.dataset.task) for name in sorted(earlier) if not is_import_path(name)}

    def summed_up(self, *, interrupted: bool = False) -> Results:
        """Return the results of what is stored, and write them with their tables and report."""
        records = self.store.runs()
        if not records:
            self.store.discard()
            if interrupted:
                raise KeyboardInterrupt
            raise DataError(f"Every run failed. {self.failures[0].reason}")
        known, save = self.contenders(), self.plan.save
        unnamed = {run["loss"] for run in records} - known.keys()
        results = summarise(
            self.dataset,
            records,
            BASELINE[self.dataset.task],
            test_fraction=self.splits.test_fraction,
            metric=self.metric,
            complexity={name: one.complexity for name, one in known.items()},
            unstorable=dict.fromkeys(unnamed, "this command does not name it") | self.unstorable,
        )
        if save is not None and save in results["losses"]:
            but = f", but it cannot be saved: {self.unstorable[save]}" if save in self.unstorable else ""
            results["saved"] |= {"name": save, "reason": f"as asked by --save{but}"}
        results["splits"] = self.splits.summary
        results["data"]["notes"] += self.notes
        results["provenance"] = _provenance(self.plan, self.settings, records)
        self.store.finish(results)
        write_tables(self.folder / TABLES, results, records)
        write_report(self.folder / "report.html", results, records)
        return results

    def saved(self, results: Results) -> tuple[Results, Path | Failure]:
        """Train the model to save on all rows, and store it; where it proves not to be storable, the next best.

        What a user's own model is made of is known only once it is trained. Then the results say so.
        """
        while True:
            contenders = self.contenders()
            best = contenders[results["saved"]["name"]]
            try:
                return results, attempted(best.name, "all rows", partial(self._fitted_and_stored, best))
            except NotStorableError as error:
                alike = [one for one in contenders.values() if (one.kind, one.trained) == (best.kind, best.trained)]
                self.unstorable |= {one.name: str(error) for one in alike}
                results = self.summed_up()
                if results["saved"]["name"] == best.name:
                    return results, Failure(best.name, f"{best.name} cannot be saved: {error}")

    def _get_ready_to_save(self) -> None:
        """Do what is to be done whichever model it will be."""
        # Imported where it is needed elsewhere, it takes two seconds.
        import skops.io  # noqa: F401

        _ = self._features_of_all

    @cached_property
    def _all_rows(self) -> Rows:
        """The rows that the model to save is trained on: all, thinned where the data set asks for it."""
        return self.dataset.training_rows(np.arange(len(self.dataset.features)), 0)

    @cached_property
    def _features_of_all(self) -> Features:
        """Their inputs, the preprocessing fitted to them."""
        with in_this_process():
            fitted = self.preprocessor.fit(self.dataset.features, rows=self._all_rows)
            return inputs(fitted, self.dataset, self._all_rows)

    def _fitted_and_stored(self, contender: Contender) -> Path:
        """Train a contender on all rows, and store it with the preprocessing."""
        target = self.dataset.target[self._all_rows]
        arguments = self._features_of_all, target, self.names, contender, self.run_settings, 0
        model = bundle.Bundle(
            self.preprocessor,
            decide(fit(*arguments), *arguments),
            self.names,
            tuple(name for name, column in (self.dataset.columns or {}).items() if column.kind == "identifier"),
            tuple(tuple(share.tolist()) for share in frequencies(target, self.names)),
            contender.name,
        )
        return bundle.save(model, self.folder / "model")


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
