"""The numbers of every table and chart of the report, as CSV files beside it."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from equilog.compare.files import replacing
from equilog.compare.judge.ranking import is_seen, ranked
from equilog.compare.judge.records import Curve, Results, RunRecord
from equilog.compare.show.charts import Chart, charts

FOLDER = "tables"

Rows = Iterable[Sequence[Any]]


def write_tables(folder: Path, results: Results, runs: Sequence[RunRecord]) -> Path:
    """Write the folder of CSV files whole or not at all, in place of an earlier one, and return it.

    metrics.csv       contender, metric, mean, low, high, runs: every metric, also those that no table shows
    differences.csv   contender, mean, low, high, p_holm, seen: from the baseline in the metric that decides
    recall.csv        target, class, rows in training, contender, recall
    reliability.csv   contender, confidence, came true, share of the predictions
    curves.csv        contender, epoch, train_loss, valid_loss, valid_score
    confusion.csv     target, contender, true class, predicted class, rows a split

    Args:
        folder: where to write.
        results: what `summarise` returned.
        runs: the records it was made of.

    Raises:
        DataError: the folder cannot be written; what was there is still there.
    """
    drawn = charts(results, runs)
    with replacing(folder) as new:
        new.mkdir()
        for name, (header, rows) in _tables(results, drawn).items():
            with (new / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(header)
                writer.writerows([_safe(cell) for cell in row] for row in rows)
    return folder


def _tables(results: Results, drawn: Chart) -> dict[str, tuple[Sequence[str], Rows]]:
    curve = list(Curve.__annotations__)
    return {
        "metrics": (("contender", "metric", "mean", "low", "high", "runs"), _metrics(results)),
        "differences": (("contender", "mean", "low", "high", "p_holm", "seen"), _differences(results)),
        "recall": (("target", "class", "training_rows", "contender", "recall"), _recall(drawn)),
        "reliability": (("contender", "confidence", "came_true", "share"), _reliability(drawn)),
        "curves": (("contender", "epoch", *curve), _curves(drawn, curve)),
        "confusion": (("target", "contender", "true", "predicted", "rows_a_split"), _confusion(drawn)),
    }


def _metrics(results: Results) -> Iterator[Sequence[Any]]:
    for name in ranked(results["losses"], results["main_metric"]):
        for metric, interval in results["losses"][name].items():
            runs = " ".join(f"{value:.6g}" for value in interval["runs"])
            yield name, metric, interval["mean"], *(interval["ci95"] or (None, None)), runs


def _differences(results: Results) -> Iterator[Sequence[Any]]:
    for name, difference in results["differences"].items():
        ends = difference["ci95"] or (None, None)
        yield name, difference["mean"], *ends, difference["p_holm"], int(is_seen(difference))


def _names(drawn: Chart) -> list[str]:
    return [loss["name"] for loss in drawn["losses"]]


def _recall(drawn: Chart) -> Iterator[Sequence[Any]]:
    for target in drawn["targets"]:
        for name, recall in zip(_names(drawn), target["recall"], strict=True):
            for label, count, found in zip(target["classes"], target["count"], recall, strict=True):
                yield target["name"], label, count, name, found


def _reliability(drawn: Chart) -> Iterator[Sequence[Any]]:
    for name, bins in zip(_names(drawn), drawn["reliability"], strict=True):
        for row in zip(bins["confidence"], bins["accuracy"], bins["share"], strict=True):
            yield name, *row


def _curves(drawn: Chart, curve: Sequence[str]) -> Iterator[Sequence[Any]]:
    for name, values in zip(_names(drawn), drawn["curves"], strict=True):
        for epoch, row in enumerate(zip_longest(*(values[part] for part in curve)), start=1):
            yield name, epoch, *row


def _confusion(drawn: Chart) -> Iterator[Sequence[Any]]:
    for target in drawn["targets"]:
        if target["confusion"] is None:
            continue
        labels = [target["classes"][code] for code in target["confusion"]["classes"]]
        for name, matrix in zip(_names(drawn), target["confusion"]["rows"], strict=True):
            for true, row in zip(labels, matrix, strict=True):
                for predicted, rows in zip(labels, row, strict=True):
                    yield target["name"], name, true, predicted, rows


def _safe(cell: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula: a name from the data must not be run."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell
