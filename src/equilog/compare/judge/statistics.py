"""From the records of all runs to what results.json holds."""

import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version

import numpy as np

from equilog._version import __version__
from equilog.baselines.registry import LOSSES
from equilog.compare.data.dataset import Dataset
from equilog.compare.judge.choice import Complexity, choice
from equilog.compare.judge.chosen_metric import MetricChoice, default_metric
from equilog.compare.judge.intervals import estimate, holm, p_value
from equilog.compare.judge.metrics import metrics_for
from equilog.compare.judge.records import DataSummary, Difference, Interval, Results, RunRecord
from equilog.compare.judge.resolution import resolution
from equilog.compare.judge.verdict import given_up, verdict

Scores = dict[str, dict[int, dict[str, float]]]
"""{loss: {seed: {metric: value}}}"""


def summarise(
    dataset: Dataset,
    runs: Iterable[RunRecord],
    baseline: str,
    *,
    test_fraction: float,
    metric: MetricChoice | None = None,
    complexity: Mapping[str, Complexity] | None = None,
    unstorable: Mapping[str, str] | None = None,
) -> Results:
    """Return means, intervals, paired differences from the baseline, the verdict, and which contender to save.

    The runs may be those of an interrupted comparison: each loss is averaged over the runs it has, and compared
    with the baseline over the seeds that both have.

    Args:
        dataset: what was compared on.
        runs: the finished runs, at most one for each loss and seed.
        baseline: the contender that the others are compared with.
        test_fraction: the share of the rows that each split tests on, between 0 and 1.
        metric: the metric that decides; that of the task if left out.
        complexity: as in `choice`.
        unstorable: as in `choice`.

    Raises:
        ValueError: no runs, the same loss and seed twice, or runs without the task's main metric.
    """
    deciding = (metric or default_metric(dataset.task)).metric()
    main = deciding.name
    known = {main: deciding} | metrics_for(dataset.task)
    runs = list(runs)
    scores = _scores(runs, main)
    row = {name: resolution(of, runs) for name, of in known.items()}

    def versus(loss: str, other: str, metric: str) -> Interval | None:
        values = _paired(scores, loss, other, metric)
        return estimate(values, test_fraction, _of_differences(known[metric].limits), row[metric]) if values else None

    losses = {
        loss: {
            name: estimate(values, test_fraction, of.limits, row[name])
            for name, of in known.items()
            if (values := [run[name] for run in by_seed.values() if name in run])
        }
        for loss, by_seed in scores.items()
    }
    differences = _differences(scores, baseline, main, test_fraction, _of_differences(deciding.limits), row[main])
    saved = choice(main, baseline, losses, differences, versus, complexity or {}, unstorable or {})
    return {
        "task": dataset.task,
        "data": describe(dataset),
        "main_metric": main,
        "test_fraction": test_fraction,
        "losses": losses,
        "differences": differences,
        "baseline": baseline,
        "verdict": verdict(main, baseline, losses, differences, versus),
        "saved": saved,
        "costs": given_up(main, baseline, saved["name"], losses, versus),
        "versions": {
            "equilog": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "scikit-learn", "numpy", "pandas")},
        },
    }


def describe(dataset: Dataset) -> DataSummary:
    """Return the name, the size and the classes of a data set, and what was done to its columns."""
    if dataset.task == "multiclass":
        counts = [
            np.bincount(codes, minlength=len(names))
            for codes, names in zip(dataset.target.T, dataset.class_names, strict=True)
        ]
    else:
        counts = [dataset.target.sum(axis=0)]
    return {
        "name": dataset.name,
        "rows": len(dataset.features),
        "features": len(dataset.used),
        "classes": {
            target: {name: float(rows) for name, rows in zip(names, count, strict=True)}
            for target, names, count in zip(dataset.target_names, dataset.class_names, counts, strict=True)
        },
        "notes": list(dataset.notes),
    }


def _scores(runs: Iterable[RunRecord], main: str) -> Scores:
    scores: Scores = {}
    # Parallel runs end in any order; the results are the same whichever it was.
    place = {loss: at for at, loss in enumerate(LOSSES)}
    for run in sorted(runs, key=lambda run: (place.get(run["loss"], len(place)), run["loss"], run["seed"])):
        loss, seed = run["loss"], run["seed"]
        if main not in run["metrics"]:
            raise ValueError(f"summarise: the run of {loss} with seed {seed} has no {main}.")
        if seed in scores.setdefault(loss, {}):
            raise ValueError(f"summarise: two runs of {loss} with seed {seed}; expected one for each seed.")
        scores[loss][seed] = run["metrics"]
    if not scores:
        raise ValueError("summarise: no finished runs, so there is nothing to summarise.")
    return scores


def _paired(scores: Scores, loss: str, other: str, metric: str) -> list[float]:
    """Return the loss's value less the other's for each seed that has both."""
    mine, theirs = scores[loss], scores.get(other, {})
    return [
        mine[seed][metric] - theirs[seed][metric]
        for seed in sorted(mine.keys() & theirs.keys())
        if metric in mine[seed] and metric in theirs[seed]
    ]


def _of_differences(limits: tuple[float, float]) -> tuple[float, float]:
    """Return the limits of the difference of two values that have these."""
    low, high = limits
    return low - high, high - low


def _differences(
    scores: Scores, baseline: str, main: str, test_fraction: float, limits: tuple[float, float], row: float
) -> dict[str, Difference]:
    paired = {loss: values for loss in scores if loss != baseline and (values := _paired(scores, loss, baseline, main))}
    tested = {loss: p for loss, values in paired.items() if (p := p_value(values, test_fraction, row)) is not None}
    corrected = dict(zip(tested, holm(list(tested.values())).tolist(), strict=True))
    return {
        loss: {**estimate(values, test_fraction, limits, row), "p_holm": corrected.get(loss)}
        for loss, values in paired.items()
    }
