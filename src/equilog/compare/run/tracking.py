"""Finished runs as runs of an experiment tracker."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

from equilog.compare.errors import DataError
from equilog.compare.judge.records import RunRecord

Tracker = Literal["mlflow"]

Log = Callable[[RunRecord], object]


def log_to(tracker: Tracker | None, experiment: str, folder: Path, settings: Mapping[str, Any]) -> Log | None:
    """Return what writes a finished run to a tracker, None for no tracker.

    MLflow gets a run for each training, in the experiment of the data's name, where MLFLOW_TRACKING_URI says or MLflow
    would write by itself: the loss, the split and the model's settings as parameters, the metrics, and the losses of
    the epochs as metrics by step.

    Args:
        tracker: which one.
        experiment: the name that the runs stand under.
        folder: where the comparison is written.
        settings: what all runs have in common.

    Raises:
        DataError: the tracker is not installed, or cannot be written to.
    """
    if tracker is None:
        return None
    try:
        import mlflow
    except ModuleNotFoundError as error:
        raise DataError(
            f"--log mlflow needs {error.name}, which is not installed: pip install 'equilog[mlflow]'."
        ) from error
    client = mlflow.MlflowClient()
    try:
        found = client.get_experiment_by_name(experiment)
        number = client.create_experiment(experiment) if found is None else found.experiment_id
    except (mlflow.MlflowException, OSError) as error:
        raise DataError(f"--log mlflow: {mlflow.get_tracking_uri()} cannot be written to: {error}") from error

    def log(record: RunRecord) -> None:
        from mlflow.entities import Metric, Param

        name = f"{record['loss']}, split {record['seed']}"
        run = client.create_run(number, run_name=name, tags={"equilog.folder": str(folder.resolve())}).info
        end = run.start_time
        parameters = {"loss": record["loss"], "split": record["seed"], **settings}
        values = {**record["metrics"], "seconds": record["seconds"]}
        metrics = [Metric(key, value, end, 0) for key, value in values.items()]
        curves = cast("dict[str, list[float]]", record["curve"])
        metrics += [
            Metric(key, value, end, epoch) for key, curve in curves.items() for epoch, value in enumerate(curve)
        ]
        for at in range(0, len(metrics), 1000):  # MLflow takes no more at once.
            client.log_batch(
                run.run_id,
                metrics=metrics[at : at + 1000],
                params=[Param(key, str(value)) for key, value in parameters.items()] if at == 0 else [],
            )
        client.set_terminated(run.run_id)

    return log
