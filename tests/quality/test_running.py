"""Running the study: nothing finished is done twice, nothing written is lost."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.quality import execute as executing
from benchmarks.quality.execute import execute
from benchmarks.quality.plan import Plan
from benchmarks.quality.store import Key, Store
from rich.console import Console
from tests.quality.toys import SOFT, TOY

from equilog.compare.errors import DataError

ROOT = Path(__file__).parent.parent.parent
QUIET = Console(quiet=True)
TRAININGS = 3 * (2 + 1 + 2)
"""Three settings: two learning rates, one more weight decay, two more seeds."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


def go(path: Path, plan: Plan) -> Store:
    execute(plan, Store(path), jobs=1, console=QUIET)
    return Store(path)


def contents(store: Store) -> dict[Key, dict]:
    return {key: {name: value for name, value in record.items() if name != "seconds"} for key, record in
            store.records.items()}  # fmt: skip


def test_every_training_is_a_line_and_is_done_once(path, monkeypatch):
    plan = Plan([TOY], seeds=3)
    store = go(path, plan)
    assert len(path.read_text().splitlines()) == len(store.records) == TRAININGS
    monkeypatch.setattr(executing, "run", lambda *_: pytest.fail("a finished training was run again"))
    go(path, plan)


@pytest.mark.slow
def test_stopped_half_way_it_goes_on_to_the_same_results(path, tmp_path, monkeypatch):
    plan = Plan([TOY], seeds=3)
    whole = contents(go(tmp_path / "whole.jsonl", plan))
    train, calls = executing.run, iter(range(TRAININGS))

    def stopped(*arguments):
        if next(calls) == 7:
            raise KeyboardInterrupt
        return train(*arguments)

    monkeypatch.setattr(executing, "run", stopped)
    with pytest.raises(KeyboardInterrupt):
        go(path, plan)
    assert 5 <= len(Store(path).records) <= 7  # one or two may be under way
    monkeypatch.setattr(executing, "run", train)
    assert contents(go(path, plan)) == whole


def test_line_that_was_being_written_is_run_again_and_its_rest_harms_nothing(path):
    plan = Plan([TOY], seeds=2)
    whole = contents(go(path, plan))
    path.write_bytes(path.read_bytes()[:-40])
    assert len(Store(path).records) == len(whole) - 1
    assert contents(go(path, plan)) == whole


def test_other_version_of_a_task_is_run_anew(path):
    go(path, Plan([TOY], seeds=1))
    newer = replace(TOY, version=2)
    store = go(path, Plan([newer], seeds=1))
    assert len(store.records) == 2 * 9
    assert {key.version for key in store.records} == {1, 2}
    assert all(record["version"] == 2 for by in store.of(newer).values() for runs in by.values() for record in runs)


def test_what_fails_is_left_out_and_the_rest_goes_on(path, monkeypatch):
    train = executing.run
    monkeypatch.setattr(
        executing, "run", lambda task, split, setting, *rest: 1 / 0 if setting == "balanced-softmax" else
        train(task, split, setting, *rest)
    )  # fmt: skip
    store = go(path, Plan([TOY], seeds=2))
    assert {key.setting for key in store.records} == {"cross-entropy", "class-16-auto"}


def test_task_without_its_data_is_skipped_and_told_once(path):
    def missing(_: int) -> None:
        raise DataError("toy needs the package sandpit")

    console = Console(record=True, width=200, file=io.StringIO())
    execute(Plan([replace(TOY, name="sandpit toy", load=missing), SOFT], seeds=1), Store(path), jobs=1, console=console)
    assert {key.task for key in Store(path).records} == {"soft toy"}
    assert console.export_text().count("skipped sandpit toy: toy needs the package sandpit") == 1


@pytest.mark.parametrize(("task", "sign"), [(TOY, 1), (SOFT, -1)], ids=["larger is better", "smaller is better"])
def test_learning_rate_is_the_best_on_validation_then_the_decay(path, task, sign):
    store, plan = Store(path), Plan([task], seeds=1)

    def finished(rate: float, decay: float, valid: float) -> None:
        store.add(Key(task.name, 1, "cross-entropy", 0, rate, decay), {"valid": sign * valid})

    finished(1e-2, 0.0, 0.5)
    finished(1e-1, 0.0, 0.7)
    _, decays = (next(stages) for stages in [plan.stages(store)] for _ in range(2))
    assert [(key.learning_rate, key.weight_decay) for _, key in decays if key.setting == "cross-entropy"] == [
        (1e-1, 0.0), (1e-1, 0.1)
    ]  # fmt: skip
    finished(1e-1, 0.1, 0.6)
    assert plan.best(store, task, "cross-entropy") == (1e-1, 0.0)
    finished(1e-2, 0.1, 0.9)
    assert plan.best(store, task, "cross-entropy") == (1e-2, 0.1)


def test_what_is_best_on_the_mean_of_several_seeds_is_chosen(path):
    store, plan = Store(path), Plan([replace(TOY, tuned_on=2, weight_decays=(0.0,))], seeds=3)
    (task,) = plan.tasks
    rates, *_ = plan.stages(store)
    assert {key.seed for _, key in rates} == {0, 1}
    for seed, rate, valid in ((0, 1e-2, 0.5), (0, 1e-1, 0.6), (1, 1e-2, 0.7), (1, 1e-1, 0.5)):
        store.add(Key(task.name, 1, "cross-entropy", seed, rate, 0.0), {"valid": valid})
    store.add(Key(task.name, 1, "cross-entropy", 2, 1e-1, 0.0), {"valid": 0.99})  # of a seed that is not tuned on
    assert plan.best(store, task, "cross-entropy") == (1e-2, 0.0)


def test_tasks_take_turns(path):
    plan = Plan([TOY, SOFT], seeds=3)
    stages = []
    store = Store(path)
    for stage in plan.stages(store):
        stages.append({task.name for task, _ in stage})
        for _, key in stage:
            store.add(key, {"valid": 0.5})
    assert stages == [{"toy", "soft toy"}] * 5


def test_quick_tunes_nothing(path):
    store = go(path, Plan([TOY], seeds=2, quick=True))
    assert {(key.learning_rate, key.weight_decay) for key in store.records} == {(1e-1, 0.0)}
    assert len(store.records) == 3 * 2


@pytest.mark.slow
def test_results_survive_a_kill(path):
    code = (
        "from benchmarks.quality.execute import execute\n"
        "from benchmarks.quality.plan import Plan\n"
        "from benchmarks.quality.store import Store\n"
        "from rich.console import Console\n"
        "from pathlib import Path\n"
        "from tests.quality.toys import TOY\n"
        f"execute(Plan([TOY], seeds=400), Store(Path({str(path)!r})), jobs=1, console=Console(quiet=True))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": _paths()})
    try:
        until = time.monotonic() + 120
        while not (path.exists() and path.read_bytes().count(b"\n") >= 12):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = Store(path).records
    assert len(before) >= 12
    for line in path.read_text().splitlines()[:-1]:
        json.loads(line)
    after = go(path, Plan([TOY], seeds=3))
    assert before.items() <= after.records.items()
    assert len(Plan([TOY], seeds=3).finished(after, TOY)["class-16-auto"]) == 3


def _paths() -> str:
    return os.pathsep.join([str(ROOT / "src"), str(ROOT)])
