"""The whole comparison: the same results however it is spread over processes, cut short or taken up again."""

import json
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from joblib._parallel_backends import ThreadingBackend
from joblib.externals.loky import reusable_executor
from torch import Tensor

from equilog.baselines.registry import LOSSES, LossEntry, Task, losses_for
from equilog.compare.data.dataset import Dataset
from equilog.compare.errors import DataError
from equilog.compare.judge.ranking import ranked
from equilog.compare.judge.records import Results, RunRecord
from equilog.compare.judge.statistics import summarise
from equilog.compare.run import bundle
from equilog.compare.run.contenders import BASELINE, Contender, chosen
from equilog.compare.run.experiment import Comparison, compare
from equilog.compare.run.models import ModelSettings
from equilog.compare.run.one_run import Failure
from equilog.compare.run.plan import Plan
from equilog.losses.criterion import Criterion

KINDS = ("multiclass", "columns", "multilabel", "soft")
QUICK = ModelSettings(hidden_units=(8,), max_epochs=3, batch_size=64)


def of_losses(*losses: str) -> tuple[Contender, ...]:
    return tuple(Contender("loss", loss) for loss in losses)


PLAN = Plan(of_losses("cross-entropy", "log-balanced", "balanced-softmax"), seeds=2, model=QUICK)


def same(results: Results) -> dict[str, Any]:
    """Return results without what is never the same twice."""
    return {name: value for name, value in results.items() if name != "provenance"}


def runs_of(folder: Path) -> list[RunRecord]:
    """Return the runs by seed and loss, without what is never the same twice."""
    runs = [json.loads(line) | {"seconds": 0} for line in (folder / "runs.jsonl").read_text().splitlines()]
    return sorted(runs, key=lambda run: (run["seed"], run["loss"]))


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


TABLES = [f"tables/{name}.csv" for name in ("confusion", "curves", "differences", "metrics", "recall", "reliability")]
WHOLE = [
    "model/model.json",
    "model/preprocessor.skops",
    "model/weights.safetensors",
    "report.html",
    "results.json",
    "runs.jsonl",
    "settings.json",
    *TABLES,
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_comparison_writes_results_report_and_model(kinds, kind, tmp_path):
    dataset = kinds[kind]
    contenders, _ = chosen(dataset.task, losses=losses_for(dataset.task)[:2], sizes=[10], decides=True)
    losses = [contender.name for contender in contenders]
    started: list[tuple[int, int]] = []
    ended: list[Failure | None] = []
    comparison = compare(
        dataset,
        Plan(contenders, seeds=2, model=QUICK),
        tmp_path,
        jobs=1,
        started=lambda total, done, _: started.append((total, done)),
        advanced=ended.append,
    )
    assert files_of(tmp_path) == WHOLE
    # Every loss on every split, and the model.
    assert started == [(2 * len(losses) + 1, 0)]
    assert ended == [None] * (2 * len(losses) + 1)
    assert comparison == Comparison(comparison.results, (), False, tmp_path, tmp_path / "model")
    assert json.loads((tmp_path / "results.json").read_text()) == comparison.results
    assert {(run["loss"], run["seed"]) for run in runs_of(tmp_path)} == {(loss, s) for loss in losses for s in (0, 1)}
    baseline = BASELINE[dataset.task]
    again = summarise(dataset, runs_of(tmp_path), baseline, test_fraction=0.25)
    assert again["losses"] == comparison.results["losses"]
    model = bundle.load(tmp_path / "model")
    # Two short trainings show no difference, so that the baseline is saved.
    assert model.contender == comparison.results["saved"]["name"] == baseline
    assert len(model.predictions(dataset.features, "rows")) == len(dataset.features)


@pytest.mark.slow
def test_processes_and_threads_give_the_records_that_one_process_gives(kinds, tmp_path):
    dataset = kinds["multiclass"]
    compare(dataset, PLAN, tmp_path / "one", jobs=1)
    compare(dataset, PLAN, tmp_path / "two", jobs=2)
    before = torch.get_rng_state()
    with joblib.parallel_config(backend="threading"):
        compare(dataset, PLAN, tmp_path / "threads", jobs=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert runs_of(tmp_path / "one") == runs_of(tmp_path / "two") == runs_of(tmp_path / "threads")
    one, two, threads = (
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two", "threads")
    )
    assert same(one) == same(two) == same(threads)


def test_a_backend_such_as_a_clusters_is_given_the_trainings_alone(kinds, tmp_path):
    """A cluster's backend ignores n_jobs, and hangs where work that it waits for asks for a share of it."""
    calls = []

    class Cluster(ThreadingBackend):  # type: ignore[misc]
        def effective_n_jobs(self, n_jobs: int) -> int:
            del n_jobs
            return 2

        def start_call(self) -> None:
            calls.append(1)
            super().start_call()

    joblib.register_parallel_backend("cluster", Cluster)
    with joblib.parallel_config("cluster"):
        compare(kinds["multiclass"], PLAN, tmp_path / "cluster")
    assert len(calls) == 1
    compare(kinds["multiclass"], PLAN, tmp_path / "one", jobs=1)
    assert runs_of(tmp_path / "cluster") == runs_of(tmp_path / "one")


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_interrupted_comparison_sums_up_and_goes_on_to_the_same_end(kinds, tmp_path, jobs):
    dataset = kinds["multiclass"]
    ended: list[Failure | None] = []

    def interrupt(failure: Failure | None) -> None:
        ended.append(failure)
        if len(ended) == 2:
            raise KeyboardInterrupt

    cut_short = compare(dataset, PLAN, tmp_path / "cut", jobs=jobs, advanced=interrupt)
    assert cut_short.interrupted
    assert cut_short.model is None
    assert files_of(tmp_path / "cut") == ["report.html", "results.json", "runs.jsonl", "settings.json", *TABLES]
    assert len(runs_of(tmp_path / "cut")) == 2
    assert "cross-entropy" in cut_short.results["losses"]

    started: list[tuple[int, int]] = []
    whole = compare(
        dataset,
        PLAN,
        tmp_path / "cut",
        jobs=jobs,
        resume=True,
        started=lambda total, done, _: started.append((total, done)),
    )
    assert started == [(7, 2)]
    assert not whole.interrupted
    assert files_of(tmp_path / "cut") == WHOLE
    at_once = compare(dataset, PLAN, tmp_path / "at once", jobs=1)
    assert runs_of(tmp_path / "cut") == runs_of(tmp_path / "at once")
    assert same(whole.results) == same(at_once.results)


def test_interrupted_before_the_first_run_it_leaves_nothing(kinds, tmp_path):
    def interrupt(total: int, done: int, notes: Sequence[str]) -> None:
        del total, done, notes
        signal.setitimer(signal.ITIMER_REAL, 1e-3)

    earlier = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            compare(
                kinds["multiclass"], replace(PLAN, model=ModelSettings()), tmp_path / "x", jobs=1, started=interrupt
            )
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
    assert list(tmp_path.iterdir()) == []


def test_seeds_and_losses_may_be_added(kinds, tmp_path):
    dataset = kinds["multiclass"]
    compare(
        dataset,
        replace(PLAN, contenders=of_losses("cross-entropy", "log-balanced"), seeds=1),
        tmp_path / "grown",
        jobs=1,
    )
    grown = compare(dataset, PLAN, tmp_path / "grown", jobs=1, resume=True)
    at_once = compare(dataset, PLAN, tmp_path / "at once", jobs=1)
    assert same(grown.results) == same(at_once.results)
    saved = [bundle.load(tmp_path / name / "model").contender for name in ("grown", "at once")]
    assert saved[0] == saved[1]


def test_going_on_with_other_data_or_another_model_is_refused(kinds, tmp_path):
    compare(kinds["multiclass"], replace(PLAN, seeds=1), tmp_path, jobs=1)
    before = {name: (tmp_path / name).read_bytes() for name in files_of(tmp_path)}
    fewer = replace(kinds["multiclass"], features=kinds["multiclass"].features.drop(columns="pixel 20"))
    with pytest.raises(DataError, match="the data are not the same"):
        compare(fewer, PLAN, tmp_path, jobs=1, resume=True)
    with pytest.raises(DataError, match="max_epochs was 3 and is now 4"):
        compare(kinds["multiclass"], replace(PLAN, model=replace(QUICK, max_epochs=4)), tmp_path, resume=True)
    assert {name: (tmp_path / name).read_bytes() for name in files_of(tmp_path)} == before


class Overflowing(Criterion):
    """A loss that is infinite."""

    def forward(self, logits: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> Tensor:
        del target, sample_weight
        return logits.sum() * torch.inf


@pytest.fixture
def overflowing(monkeypatch) -> str:
    """Register a loss that no training survives."""
    tasks: frozenset[Task] = frozenset({"multiclass"})
    entry = LossEntry("overflowing", "infinite", tasks, lambda _: Overflowing(), "this test")
    monkeypatch.setitem(LOSSES, "overflowing", entry)
    return "overflowing"


def test_a_loss_that_breaks_does_not_take_the_others_with_it(kinds, tmp_path, overflowing):
    ended: list[Failure | None] = []
    plan = replace(PLAN, contenders=of_losses("cross-entropy", overflowing), seeds=2)
    comparison = compare(kinds["multiclass"], plan, tmp_path, jobs=1, advanced=ended.append)
    assert [failure.reason for failure in comparison.failures] == [
        reason for failure in ended if failure is not None for reason in [failure.reason]
    ]
    assert [failure.loss for failure in comparison.failures] == [overflowing] * 2
    assert comparison.failures[1].reason.startswith("overflowing, split 1: ")
    assert list(comparison.results["losses"]) == ["cross-entropy"]
    assert len(ended) == 2 * 2 + 1
    assert files_of(tmp_path) == WHOLE


def test_where_every_run_fails_the_first_reason_is_told_and_nothing_left(kinds, tmp_path):
    plan = replace(PLAN, model=replace(QUICK, learning_rate=1e30))
    with pytest.raises(DataError, match=r"Every run failed\. cross-entropy, split 0: .*overflowed"):
        compare(kinds["multiclass"], plan, tmp_path / "x", jobs=1)
    assert list(tmp_path.iterdir()) == []


def summed_up_again(dataset: Dataset, plan: Plan, folder: Path, values: dict[str, list[float]]) -> Comparison:
    """Go on with a finished comparison, the balanced accuracies of its runs being these."""
    lines = [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]
    for run in lines:
        run["metrics"]["balanced_accuracy"] = values[run["loss"]][run["seed"]]
    (folder / "runs.jsonl").write_text("".join(json.dumps(run) + "\n" for run in lines))
    return compare(dataset, plan, folder, jobs=1, resume=True)


LOW, HIGH = [0.50, 0.51, 0.505, 0.5, 0.51], [0.7, 0.712, 0.706, 0.7, 0.712]


def test_the_model_is_the_simplest_of_the_best_that_finished_every_split(kinds, tmp_path):
    dataset = kinds["multiclass"]
    plan = replace(PLAN, contenders=of_losses("cross-entropy", "log-balanced", "focal"), seeds=5)
    compare(dataset, plan, tmp_path, jobs=1)

    def redo(values: dict[str, list[float]], **more: Any) -> Comparison:
        return summed_up_again(dataset, replace(plan, **more), tmp_path, values)

    low, high = LOW, HIGH
    wide = [0.99, 0.42, 0.99, 0.45, 0.75]
    # All better than nothing seen: the baseline.
    assert redo({"cross-entropy": low, "log-balanced": wide, "focal": wide}).results["saved"]["name"] == "cross-entropy"
    # One is seen to be better; the other is higher, by chance as far as can be seen.
    comparison = redo({"cross-entropy": low, "log-balanced": high, "focal": wide})
    assert ranked(comparison.results["losses"], "balanced_accuracy")[0] == "focal"
    assert bundle.load(tmp_path / "model").contender == comparison.results["saved"]["name"] == "log-balanced"
    asked = redo({"cross-entropy": low, "log-balanced": high, "focal": wide}, save="focal")
    assert asked.results["saved"] == {"name": "focal", "best": "log-balanced", "reason": "as asked by --save"}
    assert bundle.load(tmp_path / "model").contender == "focal"
    # One lucky split does not make a contender the best.
    with (tmp_path / "runs.jsonl").open() as file:
        kept = [line for line in file if json.loads(line)["loss"] != "focal" or json.loads(line)["seed"] == 0]
    (tmp_path / "runs.jsonl").write_text("".join(kept))
    without = replace(plan, contenders=of_losses("cross-entropy", "log-balanced"))
    assert compare(dataset, without, tmp_path, jobs=1, resume=True).results["saved"]["name"] == "log-balanced"


def test_where_the_best_turns_out_to_run_code_the_next_best_is_saved(kinds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("my_neighbours.py").write_text(
        "from sklearn.neighbors import KNeighborsClassifier\nnear = KNeighborsClassifier(algorithm='kd_tree')\n"
        "from sklearn.naive_bayes import GaussianNB\nclass Bayes(GaussianNB): pass\n"
    )
    near, bayes, logistic = "my_neighbours:near", "my_neighbours:Bayes", "logistic"
    contenders, _ = chosen("multiclass", losses=["cross-entropy"], models=[near, bayes, logistic])
    plan = replace(PLAN, contenders=contenders, seeds=5, model=replace(QUICK, max_epochs=1))
    compare(kinds["multiclass"], plan, Path("out"), jobs=1)
    values = {
        "cross-entropy": LOW,
        near: [value + 0.01 for value in HIGH],
        bayes: HIGH,
        logistic: [v + 0.01 for v in LOW],
    }
    comparison = summed_up_again(kinds["multiclass"], plan, Path("out"), values)
    saved = comparison.results["saved"]
    assert (saved["best"], saved["name"]) == (near, logistic)
    assert saved["reason"].endswith("KDTree, and to load that runs its code")
    assert json.loads(Path("out/results.json").read_text())["saved"] == saved
    assert bundle.load(Path("out/model")).contender == logistic
    assert comparison.failures == ()
    # Asked for, it is an error: before any training where that is known by then.
    asked = compare(kinds["multiclass"], replace(plan, save=near), Path("out"), jobs=1, resume=True)
    assert asked.model is None
    assert [failure.loss for failure in asked.failures] == [near]
    assert asked.results["saved"]["reason"].startswith("as asked by --save, but it cannot be saved: it is made of")
    with pytest.raises(DataError, match=rf"--save: {bayes} cannot be saved: it is made of my_neighbours\.Bayes"):
        compare(kinds["multiclass"], replace(plan, save=bayes), Path("new"), jobs=1)
    assert not Path("new").exists()


@pytest.mark.slow
def test_a_killed_process_is_told_and_what_had_finished_goes_on(kinds, tmp_path):
    dataset = kinds["multiclass"]

    def kill(failure: Failure | None) -> None:
        del failure
        for pid in list(reusable_executor._executor._processes):
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(DataError, match=r"A process was killed.*--resume"):
        compare(dataset, PLAN, tmp_path / "killed", jobs=2, advanced=kill)
    kept = runs_of(tmp_path / "killed")
    assert 0 < len(kept) < 6
    compare(dataset, PLAN, tmp_path / "killed", jobs=1, resume=True)
    compare(dataset, PLAN, tmp_path / "at once", jobs=1)
    assert runs_of(tmp_path / "killed") == runs_of(tmp_path / "at once")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"save": "focl"}, '--save: no contender is called "focl"'),
        ({"test_fraction": 0.0}, "--test-fraction must lie between 0 and 1; got 0"),
        ({"test_fraction": float("nan")}, "got nan"),
        ({"model": replace(QUICK, learning_rate=float("nan"))}, "learning_rate must be a number above 0; got nan"),
        ({"model": replace(QUICK, learning_rate=0.0)}, "learning_rate must be a number above 0"),
        ({"model": replace(QUICK, hidden_units=(0,))}, "hidden_units must be"),
    ],
)
def test_a_plan_that_cannot_be_trained_is_refused_before_anything_is_written(kinds, tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        compare(kinds["multiclass"], replace(PLAN, **change), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_no_processes_are_too_few(kinds, tmp_path):
    with pytest.raises(DataError, match="--jobs must be"):
        compare(kinds["multiclass"], PLAN, tmp_path / "x", jobs=0)


def test_notes_on_the_columns_are_told_and_kept(kinds, tmp_path):
    dataset = replace(kinds["multiclass"], notes=("A note of the file.",))
    dataset = replace(dataset, features=dataset.features[["pixel 20", "pixel 21"]].assign(station="here"))
    started: list[str] = []
    comparison = compare(
        dataset,
        replace(PLAN, seeds=1),
        tmp_path,
        jobs=1,
        started=lambda _total, _done, notes: started.extend(notes),
    )
    assert started[0] == "A note of the file."
    assert any("station" in note for note in started)
    assert comparison.results["data"]["notes"] == started
    assert "station" in (tmp_path / "report.html").read_text()


def test_rows_that_thinning_leaves_out_are_not_trained_on(tmp_path, kinds):
    dataset = replace(kinds["multiclass"], imbalance=30.0)
    compare(dataset, replace(PLAN, contenders=of_losses("cross-entropy"), seeds=1), tmp_path, jobs=1)
    [run] = runs_of(tmp_path)
    thinned = np.array(run["classes"][0]["train_count"])
    state = json.loads((tmp_path / "model" / "model.json").read_text())["classifier"]
    whole = np.bincount(dataset.target[:, 0])
    assert (thinned <= np.ceil(0.75 * whole)).all()
    assert thinned.sum() < 0.7 * whole.sum()
    assert state["counts"][0]["rows"] < 0.9 * whole.sum()
