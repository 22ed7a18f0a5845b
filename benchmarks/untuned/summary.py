"""What the results say of each loss: its mean over all settings, and where it is worst beside the baseline."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmarks.untuned.run import Result

from equilog.compare.judge.intervals import estimate

TEST_FRACTION = 0.25
"""The share of the rows tested on, for the intervals: splits of the same rows are not independent."""

FAR_BELOW = 0.05
"""A loss is counted far below the baseline in a setting from this difference in balanced accuracy."""


@dataclass(frozen=True)
class Summary:
    """One loss over all settings, a setting being data, network, optimizer and learning rate."""

    loss: str
    mean: float
    gain: float
    """Mean over the baseline."""
    gain_margin: float | None
    """Half of the 95 % interval of the gain over the seeds; None where there is one seed."""
    by_optimizer: dict[str, float]
    worst: float
    """The lowest mean over the seeds of one setting's difference to the baseline."""
    worst_margin: float | None
    """Half of the 95 % interval of that difference; the lowest of many is not corrected for being chosen."""
    worst_setting: tuple[str, str, str, float]
    far_below: int
    """Number of settings with a difference below -`FAR_BELOW`."""


def summarise(results: Sequence[Result], baseline: str) -> list[Summary]:
    """Return a summary of each loss, in the order of the results."""
    of_baseline = {result.setting: result for result in results if result.loss == baseline}
    return [
        _summary(loss, [result for result in results if result.loss == loss], of_baseline)
        for loss in dict.fromkeys(result.loss for result in results)
    ]


def _summary(loss: str, results: list[Result], of_baseline: dict[tuple[str, str, str, float], Result]) -> Summary:
    differences = {
        result.setting: [a - b for a, b in zip(result.scores, of_baseline[result.setting].scores, strict=True)]
        for result in results
    }
    gains = [fmean(of_seed) for of_seed in zip(*differences.values(), strict=True)]
    worst_setting = min(differences, key=lambda setting: fmean(differences[setting]))
    return Summary(
        loss=loss,
        mean=fmean(result.mean for result in results),
        gain=fmean(gains),
        gain_margin=_margin(gains),
        by_optimizer=means_by(results, lambda result: result.optimizer),
        worst=fmean(differences[worst_setting]),
        worst_margin=_margin(differences[worst_setting]),
        worst_setting=worst_setting,
        far_below=sum(fmean(of_setting) < -FAR_BELOW for of_setting in differences.values()),
    )


def means_by(results: Sequence[Result], key: Callable[[Result], str]) -> dict[str, float]:
    """Return the mean score of the results of each key, in the order of the results."""
    keys = dict.fromkeys(map(key, results))
    return {name: fmean(result.mean for result in results if key(result) == name) for name in keys}


def _margin(values: Sequence[float]) -> float | None:
    interval = estimate(values, TEST_FRACTION)["ci95"]
    return None if interval is None else (interval[1] - interval[0]) / 2
