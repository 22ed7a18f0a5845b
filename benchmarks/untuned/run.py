"""Training every loss at every learning rate, and the balanced accuracy of what comes out."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean

from benchmarks.quality.task import Split
from benchmarks.quality.train import answers, fit
from benchmarks.untuned.cases import Case
from benchmarks.untuned.plan import Optimizer
from sklearn.metrics import balanced_accuracy_score

from equilog.compare.errors import DataError


@dataclass(frozen=True)
class Result:
    """One loss at one learning rate."""

    data: str
    network: str
    optimizer: str
    learning_rate: float
    loss: str
    scores: list[float]
    """Balanced accuracy of each seed, in [0, 1]."""

    @property
    def setting(self) -> tuple[str, str, str, float]:
        """All but the loss."""
        return self.data, self.network, self.optimizer, self.learning_rate

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return fmean(self.scores)


def run(
    cases: Iterable[Case],
    optimizers: Sequence[Optimizer],
    losses: Sequence[str],
    seeds: int,
    advance: Callable[[], None] = lambda: None,
) -> tuple[list[Result], dict[str, str]]:
    """Return the results, and the data sets left out because they are not installed, with the reason.

    Args:
        cases: those of one data set in a row.
        optimizers: each with its learning rates.
        losses: names in `benchmarks.quality.settings.SETTINGS`.
        seeds: trainings of each loss at each learning rate. A seed decides split, first weights and order of the rows,
            the same for all losses.
        advance: called after every training.
    """
    results: list[Result] = []
    left_out: dict[str, str] = {}
    for data, cases_of_data in groupby(cases, key=lambda case: case.data):
        networks = list(cases_of_data)
        try:
            splits = [networks[0].task.load(seed) for seed in range(seeds)]
        except DataError as error:
            left_out[data] = str(error)
            continue
        for case in networks:
            for optimizer in optimizers:
                for learning_rate in optimizer.learning_rates:
                    for loss in losses:
                        scores = []
                        for seed, split in enumerate(splits):
                            scores.append(_score(case, split, loss, seed, learning_rate, optimizer))
                            advance()
                        results.append(Result(data, case.network, optimizer.name, learning_rate, loss, scores))
    return results, left_out


def _score(case: Case, split: Split, loss: str, seed: int, learning_rate: float, optimizer: Optimizer) -> float:
    model, (criterion,) = fit(case.task, split, loss, seed, learning_rate, optimizer.weight_decay, optimizer.build)
    (logits,) = answers(model, split.test)
    return float(balanced_accuracy_score(split.test.targets[0], criterion.predict(logits)))
