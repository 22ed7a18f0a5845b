"""The numbers behind the charts of the report: averages over the runs of each loss, in a few lists."""

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from equilog.compare.judge.chosen_metric import metric_named
from equilog.compare.judge.metrics import bin_of
from equilog.compare.judge.ranking import is_ours, ranked, shown_metrics
from equilog.compare.judge.records import ClassRecord, Curve, Results, RunRecord

CONFUSION_SHOWN = 40
"""Confusion matrices show so many classes at most: those with the most mistakes."""

RECALL_SHOWN = 100
"""With more classes than this the recall chart shows groups of classes of similar frequency."""

LOSSES_SHOWN = 3
"""So many of ours and so many of the others start out visible in the charts, beside the baseline."""

Chart = dict[str, Any]


def charts(results: Results, runs: Sequence[RunRecord]) -> Chart:
    """Return what the report's charts draw, as JSON without NaN; losses in the order of the leaderboard."""
    order = ranked(results["losses"], results["main_metric"])
    by_loss = {loss: [run for run in runs if run["loss"] == loss] for loss in order}
    metric = metric_named(results["main_metric"])
    return {
        "metric": {"title": metric.title, "larger": metric.larger_is_better},
        "task": results["task"],
        "losses": _losses(results, order),
        "metrics": [_metric(results, order, name) for name in _common(results)],
        "targets": [_target(at, by_loss) for at in range(len(runs[0]["classes"]))],
        "reliability": [_reliability(of_loss) for of_loss in by_loss.values()],
        "curves": [_curves([run["curve"] for run in of_loss]) for of_loss in by_loss.values()],
    }


def _losses(results: Results, order: Iterable[str]) -> list[Chart]:
    count = {True: 0, False: 0}
    losses = []
    for loss in order:
        interval, ours = results["losses"][loss][results["main_metric"]], is_ours(loss)
        baseline = loss == results["baseline"]
        losses.append(
            {
                "name": loss,
                "ours": ours,
                "baseline": baseline,
                "shown": baseline or count[ours] < LOSSES_SHOWN,
                "mean": _short(interval["mean"]),
                "ci95": interval["ci95"] and [_short(end) for end in interval["ci95"]],
            }
        )
        count[ours] += not baseline
    return losses


def _common(results: Results) -> list[str]:
    """Return the names of the metrics that any contender has, those that tables show first."""
    reached = {name: None for metrics in results["losses"].values() for name in metrics}
    return list(dict.fromkeys([*(metric.name for metric in shown_metrics(results)), *reached]))


def _metric(results: Results, order: Iterable[str], name: str) -> Chart:
    """Return what each contender reached in a metric, None where it has none."""
    metric, reached = metric_named(name), [results["losses"][loss].get(name) for loss in order]
    return {
        "title": metric.title,
        "larger": metric.larger_is_better,
        "mean": [interval and _short(interval["mean"]) for interval in reached],
        "ci95": [interval and interval["ci95"] and [_short(end) for end in interval["ci95"]] for interval in reached],
    }


def _target(at: int, by_loss: dict[str, list[RunRecord]]) -> Chart:
    records = {loss: [run["classes"][at] for run in runs] for loss, runs in by_loss.items()}
    every = [record for of_loss in records.values() for record in of_loss]
    count = np.mean([record["train_count"] for record in every], axis=0)
    recall = [_mean_columns([record["recall"] for record in of_loss]) for of_loss in records.values()]
    return {
        "name": every[0]["target"],
        "classes": every[0]["names"],
        "count": [_short(rows) for rows in count],
        "recall": recall,
        "groups": _groups(count, recall) if len(count) > RECALL_SHOWN else None,
        "confusion": _confusion(records),
    }


def _groups(count: NDArray[np.float64], recall: list[list[float | None]]) -> Chart:
    """Return mean frequency and recall of groups of classes that are next to each other in frequency."""
    groups = np.array_split(np.argsort(count), RECALL_SHOWN)
    return {
        "size": [len(group) for group in groups],
        "count": [_short(count[group].mean()) for group in groups],
        "recall": [[_mean([of_loss[code] for code in group]) for group in groups] for of_loss in recall],
    }


def _confusion(records: dict[str, list[ClassRecord]]) -> Chart | None:
    """Return test rows a run, true class by predicted class, for each loss; None where the records hold none."""
    matrices = []
    for of_loss in records.values():
        kept = [record["confusion"] for record in of_loss if record["confusion"] is not None]
        if len(kept) < len(of_loss):
            return None
        matrices.append(np.mean(kept, axis=0))
    mistakes = sum(matrix * (1 - np.eye(len(matrix))) for matrix in matrices)
    worst = np.argsort(-(mistakes.sum(axis=0) + mistakes.sum(axis=1)), kind="stable")[:CONFUSION_SHOWN]
    shown = np.sort(worst)
    return {
        "classes": shown.tolist(),
        "rows": [_short_lists(matrix[np.ix_(shown, shown)]) for matrix in matrices],
        "totals": [[_short(total) for total in matrix.sum(axis=1)[shown]] for matrix in matrices],
    }


def _reliability(runs: Iterable[RunRecord]) -> Chart:
    """Return the bins of all runs put together."""
    bins = [run["reliability"] for run in runs]
    confidence, accuracy, count = (
        np.concatenate([np.asarray(part[key], dtype=np.float64) for part in bins])
        for key in ("confidence", "accuracy", "count")
    )
    number = bin_of(confidence)
    total = np.bincount(number, count)
    filled = total > 0
    return {
        "confidence": [_short(x) for x in np.bincount(number, confidence * count)[filled] / total[filled]],
        "accuracy": [_short(x) for x in np.bincount(number, accuracy * count)[filled] / total[filled]],
        "share": [_short(x) for x in total[filled] / total.sum()],
    }


def _curves(curves: Sequence[Curve]) -> Chart:
    """Return the mean at each epoch over the runs that went so far, while these are half of them or more.

    The last runs to stop are not like the others: a mean over them alone would seem to leap.
    """
    epochs = sorted((len(curve["train_loss"]) for curve in curves), reverse=True)[(len(curves) - 1) // 2]
    return {
        name: _mean_columns([cast(dict[str, list[float | None]], curve)[name][:epochs] for curve in curves])
        for name in Curve.__annotations__
    }


def _mean_columns(rows: Iterable[Iterable[float | None]]) -> list[float | None]:
    return [_mean(column) for column in zip_longest(*rows)]


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the numbers among the values, None where there are none."""
    known = [value for value in values if value is not None and np.isfinite(value)]
    return _short(np.mean(known)) if known else None


def _short(value: float | np.floating[Any]) -> float:
    """Return a number in as many digits as a chart can show, which keeps the file small."""
    return float(f"{value:.5g}")


def _short_lists(matrix: NDArray[np.float64]) -> list[list[float]]:
    return [[_short(value) for value in row] for row in matrix]
