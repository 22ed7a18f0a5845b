"""Runs in MLflow: what a finished training leaves there."""

import sys

import pytest

from equilog.compare.errors import DataError
from equilog.compare.judge.records import RunRecord
from equilog.compare.run.tracking import log_to

RECORD: RunRecord = {
    "loss": "log-balanced",
    "seed": 3,
    "metrics": {"balanced_accuracy": 0.75, "nll": 0.5},
    "classes": [],
    "reliability": {"confidence": [], "accuracy": [], "count": []},
    "curve": {"train_loss": [1.0, 0.5], "valid_loss": [1.5, 1.25], "valid_score": [0.5, 0.625]},
    "seconds": 1.5,
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of MLflow's own
def test_mlflow_has_the_parameters_metrics_and_curves_of_a_run(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="pip install 'equilog[mlflow]'")
    # The store of files needs nothing but the skinny package; newer MLflow asks to say that it is meant.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    for _ in range(2):  # A second comparison of the same data goes to the same experiment.
        log = log_to("mlflow", "digits-lt", tmp_path / "out", {"learning_rate": 0.003})
        log(RECORD)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("digits-lt")
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.run_name for run in runs] == ["log-balanced, split 3"] * 2
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert runs[0].data.params == {"loss": "log-balanced", "split": "3", "learning_rate": "0.003"}
    assert runs[0].data.metrics["balanced_accuracy"] == 0.75
    history = client.get_metric_history(runs[0].info.run_id, "valid_loss")
    assert [(point.step, point.value) for point in history] == [(0, 1.5), (1, 1.25)]


def test_no_tracker_logs_nothing_and_one_that_is_not_installed_is_told(tmp_path, monkeypatch):
    assert log_to(None, "x", tmp_path, {}) is None
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(DataError, match=r"--log mlflow needs mlflow.*pip install 'equilog\[mlflow\]'"):
        log_to("mlflow", "x", tmp_path, {})
