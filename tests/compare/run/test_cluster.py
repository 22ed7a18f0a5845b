"""A real Dask cluster of two worker processes: the same records as on one machine, and nothing left behind on it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.compare.run.test_experiment import of_losses, runs_of

from equilog.compare.errors import DataError
from equilog.compare.run import cluster
from equilog.compare.run.cluster import on_cluster
from equilog.compare.run.experiment import compare
from equilog.compare.run.models import ModelSettings
from equilog.compare.run.plan import Plan

distributed = pytest.importorskip("distributed", reason="pip install 'equilog[cluster]'")

PLAN = Plan(
    of_losses("cross-entropy", "log-balanced"), seeds=1, folds=3, model=ModelSettings((8,), max_epochs=2, batch_size=64)
)

pytestmark = [
    pytest.mark.slow,
    # Dask and its event loop, when they end.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as started,
        distributed.Client(started, set_as_default=False) as client,
    ):
        yield client


def has_trained(_: object = None) -> bool:
    return "equilog.sklearn" in sys.modules


def test_a_cluster_gives_the_records_that_one_process_gives(kinds, tmp_path, client):
    finished: list[int] = []
    with on_cluster(client.scheduler.address):
        compare(kinds["multiclass"], PLAN, tmp_path / "cluster", finished=lambda run: finished.append(run["seed"]))
    compare(kinds["multiclass"], PLAN, tmp_path / "one", jobs=1)
    assert runs_of(tmp_path / "cluster") == runs_of(tmp_path / "one")
    assert sorted(finished) == [0, 0, 1, 1, 2, 2]
    assert any(client.run(has_trained).values())


def test_a_command_that_is_killed_leaves_no_training_on_the_cluster(tmp_path, client):
    command = [sys.executable, "-m", "equilog", "compare", "digits-lt", "--losses", "log-balanced", "--seeds", "30"]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "cut"), "--cluster", client.scheduler.address],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    runs = tmp_path / "cut" / "runs.jsonl"
    patience = time.monotonic() + 120
    while not runs.exists():
        assert process.poll() is None
        assert time.monotonic() < patience
        time.sleep(0.1)
    assert tasks_on(client) > 0
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while tasks_on(client):
        assert time.monotonic() < patience
        time.sleep(0.1)


def tasks_on(client: Any) -> int:
    return int(client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)))


def test_a_cluster_that_is_not_there_or_has_no_worker_is_told(monkeypatch):
    monkeypatch.setattr(cluster, "SECONDS", 3)
    with pytest.raises(DataError, match="no Dask scheduler answers there"), on_cluster("tcp://127.0.0.1:9"):
        pass
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0") as empty,
        pytest.raises(DataError, match=r"has no worker\. Start some: dask worker"),
        on_cluster(empty.scheduler_address),
    ):
        pass


def test_without_dask_the_command_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(DataError, match=r"pip install 'equilog\[cluster\]'"), on_cluster("tcp://127.0.0.1:9"):
        pass
