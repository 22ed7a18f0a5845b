"""From the results to statements: means, paired differences and their intervals, and what the written rule gets right.

Everything is in the task's main metric unless another is named, and "better" always means better: differences are
turned so that more is better whatever the metric.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from benchmarks.quality.settings import SETTINGS
from benchmarks.quality.store import Record
from benchmarks.quality.task import Task

from equilog.compare.judge.intervals import LEVEL, estimate, holm, p_value
from equilog.compare.judge.metrics import METRICS
from equilog.compare.judge.records import Difference, Interval

Reading = Callable[[Record], float]

ENOUGH = 3
"""Seeds that a setting must have to be compared: two tell next to nothing of how much they vary."""


def part_of(record: Record, part: str, metric: str) -> float:
    """Return a metric of the decisions on the test rows ("test"), or of the posterior ("drawn", "tempered")."""
    return float(record[part][metric])


def tuned_of(record: Record) -> float:
    """Return the main metric on the test rows with one number chosen on the validation rows."""
    return float(record["tuned"])


@dataclass(frozen=True)
class Outcome:
    """The results of one task."""

    task: Task
    records: dict[str, dict[int, Record]]
    """{setting: {seed: the training with the chosen learning rate and weight decay}}"""

    @property
    def baseline(self) -> str:
        """The setting that the others are compared with."""
        return self.task.settings[0]

    @cached_property
    def settings(self) -> list[str]:
        """Settings with enough seeds, best first."""
        enough = [name for name, by_seed in self.records.items() if len(by_seed) >= ENOUGH]
        return sorted(enough, key=lambda name: -self.sign(self.task.metric) * self.mean(name)["mean"])

    @property
    def seeds(self) -> int:
        """Fewest seeds of any setting compared."""
        return min((len(self.records[name]) for name in self.settings), default=0)

    def sign(self, metric: str) -> int:
        """Return 1 where larger is better and -1 where smaller is."""
        return 1 if METRICS[metric].larger_is_better else -1

    def main(self, record: Record) -> float:
        """Return the main metric on the test rows."""
        return float(record["test"][self.task.metric])

    def mean(self, setting: str, reading: Reading | None = None) -> Interval:
        """Return a setting's mean over the seeds with its interval."""
        values = [(reading or self.main)(record) for record in self.records[setting].values()]
        return estimate(values, self.task.correlation)

    def gains(self, setting: str, other: str, reading: Reading | None = None, metric: str | None = None) -> list[float]:
        """Return by how much a setting is better than another, for each seed that both have."""
        mine, theirs = self.records[setting], self.records[other]
        read, sign = reading or self.main, self.sign(metric or self.task.metric)
        return [sign * (read(mine[seed]) - read(theirs[seed])) for seed in sorted(mine.keys() & theirs.keys())]

    def gain(self, setting: str, other: str, reading: Reading | None = None, metric: str | None = None) -> Interval:
        """Return the mean of `gains` with its interval."""
        return estimate(self.gains(setting, other, reading, metric), self.task.correlation)

    @cached_property
    def over_baseline(self) -> dict[str, Difference]:
        """How much better than the baseline each setting is, p-values corrected for all comparisons of the task."""
        others = [name for name in self.settings if name != self.baseline and self.baseline in self.settings]
        p_values = {name: p_value(self.gains(name, self.baseline), self.task.correlation) for name in others}
        tested = {name: p for name, p in p_values.items() if p is not None}
        corrected = dict(zip(tested, holm(list(tested.values())).tolist(), strict=True))
        return {name: {**self.gain(name, self.baseline), "p_holm": corrected.get(name)} for name in others}

    def seen(self, setting: str) -> int:
        """Return 1 where a setting is better than the baseline by more than chance explains, -1 worse, else 0."""
        difference = self.over_baseline[setting]
        if difference["p_holm"] is None or difference["p_holm"] >= 1 - LEVEL:
            return 0
        return int(np.sign(difference["mean"]))

    def best(self, *, ours: bool) -> str | None:
        """Return the best of ours, or of the peers."""
        return next((name for name in self.settings if SETTINGS[name].ours == ours), None)


@dataclass(frozen=True)
class Verdict:
    """How the setting that the rule recommends did on a task."""

    outcome: Outcome
    recommended: str
    peer: str
    """The peer with the best mean."""
    over_peer: Interval
    over_baseline: Interval | None
    """None where the rule recommends the baseline itself."""

    @property
    def holds(self) -> bool:
        """Whether it is the best, or not seen to be worse than the best of all peers."""
        interval = self.over_peer["ci95"]
        return self.over_peer["mean"] >= 0 or (interval is not None and interval[1] >= 0)

    @property
    def unequal(self) -> bool:
        """Whether the goal of one point above the baseline applies: unequal classes, and decisions wanted."""
        return (self.outcome.task.imbalance or 1) >= 50 and self.outcome.task.metric != "kl"

    @property
    def a_point_above(self) -> bool:
        """Whether the mean is at least one point (0.01) above the baseline's."""
        return self.over_baseline is not None and self.over_baseline["mean"] >= 0.01


def verdicts(outcomes: Iterable[Outcome], rule: Callable[[Task], str]) -> list[Verdict]:
    """Return what became of the rule on each task that has enough results."""
    found = []
    for outcome in outcomes:
        recommended, peer = rule(outcome.task), outcome.best(ours=False)
        if peer is None or recommended not in outcome.settings:
            continue
        over = outcome.gain(recommended, outcome.baseline) if recommended != outcome.baseline else None
        found.append(Verdict(outcome, recommended, peer, outcome.gain(recommended, peer), over))
    return found
