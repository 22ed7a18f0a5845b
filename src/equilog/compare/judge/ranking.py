"""Which contender comes first, whose it is and what is seen of it: one rule for the verdict, terminal and report."""

from collections.abc import Mapping

from equilog.baselines.registry import LOSSES
from equilog.compare.judge.chosen_metric import metric_named
from equilog.compare.judge.intervals import LEVEL
from equilog.compare.judge.metrics import METRICS, Metric
from equilog.compare.judge.records import Difference, Interval, Results


def ranked(losses: Mapping[str, Mapping[str, Interval]], metric: str) -> list[str]:
    """Return the names of the contenders, the best mean in this metric first."""
    sign = -1 if metric_named(metric).larger_is_better else 1
    return sorted(losses, key=lambda loss: sign * losses[loss][metric]["mean"])


def gain(metric: str, difference: float) -> float:
    """Return a difference so that more is better."""
    return difference if metric_named(metric).larger_is_better else -difference


def is_ours(name: str) -> bool:
    """Return whether a contender's loss is of this package; one that this version does not know is not."""
    loss = name.partition("+")[0]
    return loss in LOSSES and LOSSES[loss].ours


def is_seen(difference: Difference) -> bool:
    """Return whether a difference from the baseline is more than chance explains, after Holm's correction."""
    return difference["p_holm"] is not None and difference["p_holm"] < 1 - LEVEL


def excludes_zero(interval: Interval) -> bool:
    """Return whether an interval leaves 0 out."""
    return interval["ci95"] is not None and (interval["ci95"][0] > 0 or interval["ci95"][1] < 0)


def shown_metrics(results: Results) -> list[Metric]:
    """Return the metrics that tables show: the one that decides, and the most telling of the others."""
    main = results["main_metric"]
    reached = {metric for metrics in results["losses"].values() for metric in metrics}
    others = [
        metric
        for name, metric in METRICS.items()
        if name in reached and results["task"] in metric.shown and name != main
    ]
    return [metric_named(main), *others]


def splits(results: Results) -> int:
    """Return the number of splits of the comparison: those of the contender with the most finished runs."""
    return max(len(metrics[results["main_metric"]]["runs"]) for metrics in results["losses"].values())


def unfinished(results: Results) -> dict[str, int]:
    """Return the finished runs of each contender that has fewer than others, as an interrupted comparison leaves."""
    runs = {loss: len(metrics[results["main_metric"]]["runs"]) for loss, metrics in results["losses"].items()}
    return {loss: count for loss, count in runs.items() if count < splits(results)}
