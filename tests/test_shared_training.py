"""Ranks that train one model together end with the model that one process would have trained."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file
from sklearn.datasets import load_iris
from typer.testing import CliRunner

from equilog.cli import app
from equilog.compare.dataset import Dataset
from equilog.compare.errors import DataError
from equilog.compare.experiment import Plan, compare
from equilog.compare.features import make_preprocessor
from equilog.compare.ranks import Ranks
from equilog.compare.run import ModelSettings, TargetNames, attempt, prepare
from equilog.criterion import Criterion
from equilog.registry import LOSSES, LossEntry, Task, losses_for
from equilog.sklearn import LogBalancedClassifier
from ranks import run_ranks

pytestmark = pytest.mark.slow

TASKS: tuple[Task, ...] = ("multiclass", "multilabel", "soft")
FITTED = {"hidden_units": (16,), "max_epochs": 4, "batch_size": 30, "random_state": 0}


def targets(task: Task) -> tuple[Any, Any]:
    """Thirds of irises of unequal classes: 91 rows, so that a last batch of 1 leaves one rank without rows."""
    X, y = load_iris(return_X_y=True)
    rows = np.concatenate([np.arange(50), np.arange(50, 80), np.arange(100, 111)])
    X, y = X[rows] - X.mean(0), y[rows]
    if task == "multilabel":
        return X, np.column_stack([y == 0, y > 0, X[:, 0] > 0]).astype(int)
    if task == "soft":
        return X, np.eye(3)[y] * 0.7 + 0.1
    return X, np.column_stack([y, X[:, 1] > 0])


def fitted(process_group: Any) -> dict[str, Any]:
    """Every loss's posteriors, history and temperature."""
    found = {}
    for task in TASKS:
        X, y = targets(task)
        for loss in losses_for(task):
            model = LogBalancedClassifier(
                loss, task=task, early_stopping=False, process_group=process_group, **FITTED
            ).fit(X, y)
            posterior = model.predict_proba(X, "posterior")
            found[f"{task}, {loss}"] = [
                *(posterior if isinstance(posterior, list) else [posterior]),
                model.history_["train_loss"],
            ]
    stopped = LogBalancedClassifier(process_group=process_group, patience=1, **FITTED | {"max_epochs": 60}).fit(X, y)
    found["early stopping"] = [stopped.predict_proba(X), [stopped.n_iter_, stopped.temperature_]]
    return found


def irises() -> Dataset:
    X, y = targets("multiclass")
    return Dataset("irises", "multiclass", pd.DataFrame(X).add_prefix("x"), y[:, :1], ("kind",), (("a", "b", "c"),))


PLAN = Plan(
    ("cross-entropy", "log-balanced"), seeds=2, model=ModelSettings(hidden_units=(8,), max_epochs=3, batch_size=16)
)


class Overflowing(Criterion):
    def forward(self, logits: Any, target: Any, *, sample_weight: Any = None) -> Any:
        del target, sample_weight
        return logits.sum() * 1e38 * 1e38


def refusal(work: Any) -> str:
    try:
        work()
    except (DataError, ValueError) as error:
        return str(error)
    return "no error"


def on_ranks(rank: int, folder: Path) -> dict[str, Any]:
    LOSSES["overflowing"] = LossEntry("overflowing", "", frozenset({"multiclass"}), lambda _: Overflowing(), "")
    told: list[Any] = []
    comparison = compare(
        irises(),
        replace(PLAN, losses=(*PLAN.losses, "overflowing")),
        folder / "two",
        advanced=told.append,
    )
    del LOSSES["overflowing"]
    found = {
        "fitted": fitted("world"),
        "comparison": comparison,
        "told": len(told),
        "other seeds": refusal(lambda: compare(irises(), replace(PLAN, seeds=1 + rank), folder / "other")),
        "other data": refusal(
            lambda: compare(replace(irises(), target=irises().target * (1 - rank)), PLAN, folder / "other")
        ),
        "again": refusal(lambda: compare(irises(), PLAN, folder / "two")),
        "random": refusal(lambda: LogBalancedClassifier(process_group="world").fit(*load_iris(return_X_y=True))),
    }
    if rank == 0:  # the other one leaves
        dataset = irises()
        preprocessor, _ = make_preprocessor(dataset.features)
        names = TargetNames(dataset.task, dataset.target_names, dataset.class_names)
        split = prepare(dataset, preprocessor, 0.25, 0)
        found["left"] = refusal(lambda: attempt(split, names, "cross-entropy", PLAN.model))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("comparisons")


@pytest.fixture(scope="module")
def of_ranks(folder) -> list[dict[str, Any]]:
    return run_ranks(2, on_ranks, folder)


def same(mine: Any, theirs: Any) -> None:
    """Same numbers, to what float32 leaves of sums of other numbers of rows after some steps of AdamW."""
    np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_every_loss_trains_the_model_of_one_process(of_ranks):
    alone = fitted(None)
    for rank in of_ranks:
        assert rank["fitted"].keys() == alone.keys()
        for loss, numbers in alone.items():
            for mine, theirs in zip(rank["fitted"][loss], numbers, strict=True):
                try:
                    same(mine, theirs)
                except AssertionError as error:
                    raise AssertionError(f"{loss}: {error}") from error


def test_ranks_end_with_the_very_same_model(of_ranks):
    """To the last digit: what differs between ranks would drift apart."""
    first, second = (rank["fitted"] for rank in of_ranks)
    for loss, numbers in first.items():
        for mine, theirs in zip(numbers, second[loss], strict=True):
            np.testing.assert_array_equal(mine, theirs, err_msg=loss)


def numbers_of(run: dict[str, Any]) -> list[float]:
    return [*run["metrics"].values(), *(number for values in run["curve"].values() for number in values)]


def test_the_comparison_is_that_of_one_process_and_written_once(of_ranks, folder):
    alone = compare(irises(), PLAN, folder / "one", jobs=1)
    ours = folder / "two"
    one, two = (
        {(run["loss"], run["seed"]): run for run in map(json.loads, (where / "runs.jsonl").read_text().splitlines())}
        for where in (alone.folder, ours)
    )
    assert len((ours / "runs.jsonl").read_text().splitlines()) == 4
    assert one.keys() == two.keys()
    for key, run in one.items():
        assert run["classes"] == two[key]["classes"]
        same(numbers_of(two[key]), numbers_of(run))
    one, two = (load_file(where / "model/weights.safetensors") for where in (alone.folder, ours))
    for name, weights in one.items():
        same(two[name], weights)
    assert sorted(os.listdir(ours)) == sorted(os.listdir(alone.folder))
    assert [rank["comparison"].results["losses"] for rank in of_ranks] == 2 * [
        of_ranks[0]["comparison"].results["losses"]
    ]


def test_a_loss_that_overflows_on_all_ranks_alike_stops_no_other(of_ranks):
    for rank in of_ranks:
        assert rank["told"] == 2 * 3 + 1
        assert [failure.loss for failure in rank["comparison"].failures] == 2 * ["overflowing"]


def test_ranks_asked_different_things_are_all_told_so(of_ranks, folder):
    for rank in of_ranks:
        assert "rank 1 was asked another thing than that of rank 0: other seeds 2, not 1." in rank["other seeds"]
        assert "other data." in rank["other data"]
        assert "holds a comparison already" in rank["again"]
        assert "random_state must be an integer" in rank["random"]
    assert not (folder / "other").exists()


def test_a_rank_that_is_gone_is_told_and_not_taken_for_a_failure_of_the_loss(of_ranks):
    assert "The processes that train together have lost each other: RuntimeError" in of_ranks[0]["left"]
    assert "go on by --resume" in of_ranks[0]["left"]


def test_one_process_alone_is_the_first_of_one():
    assert Ranks.present() == Ranks(0, 1)


def test_ctrl_c_under_a_launcher_sums_up_and_one_process_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    irises().features.assign(kind=irises().target[:, 0]).to_csv("irises.csv", index=False)
    asked = ("compare", "irises.csv", "--target", "kind", "--losses", "log-balanced", "--seeds", "2", "--epochs", "60",
             "--batch-size", "8", "--out", "out")  # fmt: skip
    process = subprocess.Popen(
        [Path(sys.executable).with_name("torchrun"), "--standalone", "--nproc-per-node", "2", "-m", "equilog", *asked],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    runs, patience = Path("out/runs.jsonl"), time.monotonic() + 120
    while not runs.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < patience
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)  # the launcher hands it on, as on Ctrl-C
    said = process.communicate(timeout=60)[0]
    assert "2 processes train each model together." in said
    assert said.count("interrupted; the same command with --resume goes on from here") == 1
    assert sorted(os.listdir("out")) == ["report.html", "results.json", "runs.jsonl", "settings.json"]
    assert 1 <= len(runs.read_text().splitlines()) < 4
    result = CliRunner().invoke(app, [*asked, "--resume", "--jobs", "1"], catch_exceptions=False)
    assert result.exit_code == 0
    assert len(runs.read_text().splitlines()) == 4
