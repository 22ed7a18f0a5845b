"""Which loss comes first, whose it is and what is seen of it: one rule for the verdict, terminal and report."""

from collections.abc import Mapping

from equilog.baselines.registry import LOSSES
from equilog.compare.judge.intervals import LEVEL
from equilog.compare.judge.metrics import METRICS
from equilog.compare.judge.records import Difference, Interval, Results


def ranked(losses: Mapping[str, Mapping[str, Interval]], metric: str) -> list[str]:
    """Return the names of the losses, the best mean in this metric first."""
    sign = -1 if METRICS[metric].larger_is_better else 1
    return sorted(losses, key=lambda loss: sign * losses[loss][metric]["mean"])


def is_ours(loss: str) -> bool:
    """Return whether a loss is of this package; one that this version does not know is not."""
    return loss in LOSSES and LOSSES[loss].ours


def is_seen(difference: Difference) -> bool:
    """Return whether a difference from the baseline is more than chance explains, after Holm's correction."""
    return difference["p_holm"] is not None and difference["p_holm"] < 1 - LEVEL


def splits(results: Results) -> int:
    """Return the number of splits of the comparison: those of the loss with the most finished runs."""
    return max(len(metrics[results["main_metric"]]["runs"]) for metrics in results["losses"].values())


def unfinished(results: Results) -> dict[str, int]:
    """Return the finished runs of each loss that has fewer than others, as an interrupted comparison leaves."""
    runs = {loss: len(metrics[results["main_metric"]]["runs"]) for loss, metrics in results["losses"].items()}
    return {loss: count for loss, count in runs.items() if count < splits(results)}
