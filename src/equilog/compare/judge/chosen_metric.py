"""The metric that decides, as users name it: one of the list, one with a number, or a file of costs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from equilog.baselines.registry import Task
from equilog.compare.errors import DataError
from equilog.compare.judge.metrics import MAIN_METRIC, METRICS, Metric, Outcome, by_decision
from equilog.error_text import did_you_mean

ALIASES: dict[Task, dict[str, str]] = {
    "multiclass": {"micro_f1": "accuracy", "worst_recall": "worst_class_recall"},
    "multilabel": {"average_precision": "map", "worst_recall": "worst_class_recall"},
    "soft": {},
}
"""What the decision rules, or users, call a metric that has another name here."""

NUMBERED = {"f_beta": 2.0, "recall_at_precision": 0.9}
"""Metrics with a number, and which it is where none is given."""

COST = "cost"


@dataclass(frozen=True)
class MetricChoice:
    """A metric by its name; what settings and records keep of it."""

    name: str
    costs: tuple[tuple[float, ...], ...] | None = None
    """(C, C) true classes as rows and predicted ones as columns; of labels (2, 2), no and yes."""

    def metric(self) -> Metric:
        """Return the metric."""
        return metric_named(self.name) if self.costs is None else _cost(np.asarray(self.costs))


def default_metric(task: Task) -> MetricChoice:
    """Return the metric that decides where none is chosen."""
    return MetricChoice(MAIN_METRIC[task])


def chosen_metric(name: str, task: Task, class_names: Sequence[Sequence[str]]) -> MetricChoice:
    """Return the metric that a user has chosen.

    Args:
        name: of a metric, NAME=NUMBER for f_beta and recall_at_precision, or the path of a CSV file of costs.
        task: which task.
        class_names: the classes of each target.

    Raises:
        DataError: there is no such metric, it does not fit the targets, or the file is not as described.
    """
    numbered = name.partition("=")[0].replace("-", "_") in NUMBERED
    if not numbered and (Path(name).suffix or "/" in name or "\\" in name):
        return MetricChoice(COST, _read_costs(Path(name), task, class_names))
    name = name.replace("-", "_")
    name = ALIASES[task].get(name, name)
    base, equals, number = name.partition("=")
    names = sorted({*(m.name for m in METRICS.values() if task in m.scorers), *ALIASES[task]} | _numbered(task))
    if base not in names or (equals and base not in NUMBERED):
        raise DataError(f'--metric: no metric of {task} targets is called "{name}". {did_you_mean(name, names)}')
    if base in NUMBERED:
        try:
            value = float(number) if equals else NUMBERED[base]
        except ValueError:
            value = np.nan
        if not (0 < value < np.inf and (base == "f_beta" or value <= 1)):
            most = "" if base == "f_beta" else ", at most 1"
            raise DataError(f"--metric {base}=NUMBER wants a number above 0{most}; got {number}.")
        name = f"{base}={value:g}"
    two = ("average_precision", "roc_auc", "recall_at_precision")
    if task == "multiclass" and base in two and any(len(classes) != 2 for classes in class_names):
        raise DataError(f"--metric {base} is for two classes, or for labels; {max(map(len, class_names))} are here.")
    return MetricChoice(name)


def metric_named(name: str) -> Metric:
    """Return the metric of a name that results.json may hold; of "cost" without how to compute it."""
    base, _, number = name.partition("=")
    if base == COST:
        return _cost(np.zeros((0, 0)))
    if base == "f_beta":
        beta = float(number)
        scorer = by_decision(base, beta=beta)
        return Metric(
            name,
            f"F{beta:g}",
            True,
            f"The mean over the classes of F with recall weighing {beta:g} times as much as precision.",
            {"multiclass": scorer, "multilabel": scorer},
            rule={"metric": base, "beta": beta},
            classes_share="mean",
        )
    if base == "recall_at_precision":
        precision = float(number)
        scorer = by_decision(base, precision=precision)
        return Metric(
            name,
            f"Recall at precision {precision:g}",
            True,
            f"The share of the rarer class (of a label's rows) found with a precision of {precision:g} or more; "
            "where the precision is below that, what it lacks, as a negative number.",
            {"multiclass": lambda outcome: scorer(_rarer_second(outcome)), "multilabel": scorer},
            rule={"metric": base, "precision": precision},
            limits=(-1.0, 1.0),
        )
    return METRICS[name]


def _numbered(task: Task) -> set[str]:
    return set() if task == "soft" else set(NUMBERED)


def _rarer_second(outcome: Outcome) -> Outcome:
    """Return two classes so that the second is the rarer one."""
    if 2 * outcome.label.sum() <= len(outcome.label):
        return outcome
    return replace(
        outcome,
        label=1 - outcome.label,
        predicted=1 - outcome.predicted,
        truth=outcome.truth[:, ::-1],
        posterior=outcome.posterior[:, ::-1],
    )


def _cost(costs: NDArray[np.float64]) -> Metric:
    def of_labels(outcome: Outcome) -> float:
        return float(costs[outcome.label, outcome.predicted].mean())

    return Metric(
        COST,
        "Cost",
        False,
        "The mean cost of a decision, by the file of costs.",
        {"multiclass": of_labels, "multilabel": of_labels},
        rule={"metric": costs},
        limits=(float(costs.min()), float(costs.max())) if costs.size else (-np.inf, np.inf),
    )


def _read_costs(path: Path, task: Task, class_names: Sequence[Sequence[str]]) -> tuple[tuple[float, ...], ...]:
    """Return the costs of a CSV file whose first row and first column name the classes."""
    names = ["no", "yes"] if task == "multilabel" else list(class_names[0])
    shape = f"a row and a column for each of {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
    if task == "soft" or (task == "multiclass" and len(class_names) > 1):
        raise DataError(f"--metric {path}: costs are for the classes of a single target, or for labels.")
    try:
        table = pd.read_csv(path, index_col=0, dtype={0: str})
    except (OSError, ValueError) as error:
        raise DataError(f"--metric {path} cannot be read as a CSV file of costs: {error}") from error
    table.index, table.columns = table.index.astype(str).str.strip(), table.columns.astype(str).str.strip()
    if sorted(table.index) != sorted(names) or sorted(table.columns) != sorted(names):
        raise DataError(
            f"--metric {path} must have {shape}, the true class in the first column and the predicted one in the first "
            f"row; got rows {', '.join(table.index[:5])} and columns {', '.join(table.columns[:5])}."
        )
    costs = table.loc[names, names].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    if not np.isfinite(costs).all():
        raise DataError(f"--metric {path} must hold a finite number in every cell.")
    return tuple(map(tuple, costs.tolist()))
