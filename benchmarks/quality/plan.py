"""Which trainings are still to be done, and in which order.

Learning rate and weight decay are chosen for each setting of each task on the validation rows of the first seed, or the
first few, from the same candidates for all: the learning rate first, with the first weight decay, then the weight
decay. With what was chosen the other seeds follow. Breadth first: each step for every task, then the next, so that what
there is when a run is cut short is as much of everything.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.quality.settings import settings_for
from benchmarks.quality.store import Key, Record, Store
from benchmarks.quality.task import Task


@dataclass(frozen=True)
class Plan:
    """What is to be run."""

    tasks: Sequence[Task]
    seeds: int | None = None
    """Of each setting; None for what the task says."""
    quick: bool = False
    """With the middle learning rate and the first weight decay: nothing tuned."""

    def stages(self, store: Store) -> Iterator[list[tuple[Task, Key]]]:
        """Yield lists of trainings, each to be done before the next is asked for."""
        yield [
            (task, _key(task, setting, seed, rate, task.weight_decays[0]))
            for task, setting in self._pairs()
            for seed in self._tuned_on(task)
            for rate in self._rates(task)
        ]
        yield [
            (task, _key(task, setting, seed, best[0], decay))
            for task, setting in self._pairs()
            if (best := self.best(store, task, setting, first_decay_only=True)) is not None
            for seed in self._tuned_on(task)
            for decay in self._decays(task)
        ]
        for seed in range(max(map(self.seeds_of, self.tasks), default=0)):
            yield [
                (task, _key(task, setting, seed, *best))
                for task, setting in self._pairs()
                if seed < self.seeds_of(task) and (best := self.best(store, task, setting)) is not None
            ]

    def seeds_of(self, task: Task) -> int:
        """Return how many seeds each setting of a task gets."""
        return task.seeds if self.seeds is None else self.seeds

    def best(
        self, store: Store, task: Task, setting: str, *, first_decay_only: bool = False
    ) -> tuple[float, float] | None:
        """Return the learning rate and weight decay with the best main metric on the validation rows.

        The mean over the seeds tuned on. None where none is done; what fewer seeds have tried than others is left out.
        """
        decays = task.weight_decays[:1] if first_decay_only else self._decays(task)
        tried: dict[tuple[float, float], list[float]] = {}
        for seed in self._tuned_on(task):
            for record in store.of(task).get(setting, {}).get(seed, []):
                chosen = (record["learning_rate"], record["weight_decay"])
                if chosen[0] in self._rates(task) and chosen[1] in decays:
                    tried.setdefault(chosen, []).append(record["valid"])
        most = max(map(len, tried.values()), default=0)
        sign = 1 if task.judged_by.larger_is_better else -1
        means = {chosen: sign * sum(values) / most for chosen, values in tried.items() if len(values) == most}
        return max(means, key=lambda chosen: means[chosen], default=None)

    def finished(self, store: Store, task: Task) -> dict[str, dict[int, Record]]:
        """Return what counts, {setting: {seed: record}}: the trainings with the chosen learning rate and decay."""
        found: dict[str, dict[int, Record]] = {}
        for setting, by_seed in store.of(task).items():
            best = self.best(store, task, setting)
            if best is None or setting not in task.settings:
                continue
            found[setting] = {
                seed: record
                for seed, records in sorted(by_seed.items())
                for record in records
                if seed < self.seeds_of(task) and (record["learning_rate"], record["weight_decay"]) == best
            }
        return found

    def _pairs(self) -> Iterator[tuple[Task, str]]:
        for task in self.tasks:
            for setting in settings_for(task.kind, task.settings):
                yield task, setting.name

    def _tuned_on(self, task: Task) -> range:
        return range(min(task.tuned_on, self.seeds_of(task)))

    def _rates(self, task: Task) -> tuple[float, ...]:
        rates = task.learning_rates
        return rates[len(rates) // 2 :][:1] if self.quick else rates

    def _decays(self, task: Task) -> tuple[float, ...]:
        return task.weight_decays[:1] if self.quick else task.weight_decays


def _key(task: Task, setting: str, seed: int, learning_rate: float, weight_decay: float) -> Key:
    return Key(task.name, task.version, setting, seed, learning_rate, weight_decay)
