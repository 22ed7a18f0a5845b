"""Every contender on every case, and priors that change."""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.decisions.classifiers import CLASSIFIERS, Rows, Scored, scored
from benchmarks.decisions.contenders import CLASS_METRICS, CONTENDERS, LABEL_METRICS, Case, oracle, unchanged
from benchmarks.decisions.tasks import Task
from numpy.typing import NDArray

from equilog.decisions import DecisionRule, adapt, estimate_prior
from equilog.decisions.crossfit import GROUPS, interval

Array = NDArray[np.float64]
Record = dict[str, Any]

SIZES = (50, 200, 1000, 5000)
"""Calibration rows."""

SHIFTED_ROWS = 1000

SHIFTS: dict[str, Callable[[Array], Array]] = {
    "as trained": lambda prior: prior,
    "equal": lambda prior: np.full(len(prior), 1 / len(prior)),
    "reversed": lambda prior: prior[np.argsort(prior)][np.argsort(np.argsort(-prior))],
    "flattened": lambda prior: np.sqrt(prior) / np.sqrt(prior).sum(),
    "the rarest doubled": lambda prior: _doubled(prior),
}
"""The five priors that the test rows are drawn by, from that of the rows trained on."""


def _doubled(prior: Array) -> Array:
    new = np.where(prior == prior.min(), 2 * prior, prior)
    return new / new.sum()


def decisions(task: Task, seed: int, cache: Path | None) -> Iterator[Record]:
    """Return a record for each classifier, metric and number of calibration rows of a split."""
    for name in CLASSIFIERS:
        one = scored(task, name, seed, cache)
        labels = one.test.target.ndim == 2
        for metric in LABEL_METRICS if labels else CLASS_METRICS:
            case = Case(metric, one.prior, labels)
            best = oracle(case, one.test)
            for size in SIZES:
                if size > len(one.calibration.target):
                    continue
                reached, worse = _reached(case, one, one.calibration.first(size))
                of = {"task": task.name, "classifier": name, "seed": seed, "metric": metric, "rows": size}
                yield {**of, "oracle": max(best, *reached.values()), **reached, **worse}


def _reached(case: Case, one: Scored, rows: Rows) -> tuple[dict[str, float], dict[str, bool]]:
    """Return each contender's metric, and whether it is below that of argmax by more than the test rows' noise."""
    usual = unchanged(case, one, rows)(one.test.probability)
    reached, worse = {}, {}
    for name, contender in CONTENDERS.items():
        decide = contender(case, one, rows)
        if decide is not None:
            reached[name], above, error = case.difference(decide(one.test.probability), usual, one.test)
            worse[f"{name}: worse"] = interval(above, error, GROUPS)[1] < 0
    return reached, worse


def shifts(task: Task, seed: int, cache: Path | None) -> Iterator[Record]:
    """Return a record for each classifier and each new prior of a split of classes."""
    for name in CLASSIFIERS:
        one = scored(task, name, seed, cache)
        if one.test.target.ndim == 2:
            return
        test, seen = one.test, np.bincount(one.test.target, minlength=len(one.prior)) / len(one.test.target)
        if (seen == 0).any() or (one.prior == 0).any():
            continue
        known = np.unique(one.calibration.target)
        for shift, change in SHIFTS.items():
            prior = change(one.prior)
            drawn = np.random.default_rng(seed).choice(
                len(test.target),
                size=SHIFTED_ROWS,
                p=prior[test.target] / (seen * len(test.target))[test.target] / prior.sum(),
            )
            rows = Rows(test.probability[drawn], test.target[drawn])
            of = {"task": task.name, "classifier": name, "seed": seed, "shift": shift}
            priors: dict[str, Any] = {"not adapted": one.prior, "true prior": prior}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # classes that look alike are what is measured
                before = (one.calibration.probability, one.calibration.target)
                priors["em"] = estimate_prior(rows.probability, one.prior)
                priors["em, corrected"] = estimate_prior(rows.probability, one.prior, calibration=before)
                if len(known) == len(one.prior):
                    priors["confusion"] = estimate_prior(
                        rows.probability, one.prior, method="confusion", calibration=before
                    )
            for way, guess in priors.items():
                adapted = adapt(rows.probability, old_prior=one.prior, prior=guess)
                chosen = np.asarray(adapted)[np.arange(len(drawn)), rows.target]
                yield {
                    **of,
                    "way": way,
                    "accuracy": float((adapted.argmax(1) == rows.target).mean()),
                    "log_loss": float(-np.log(np.maximum(chosen, 1e-6)).mean()),
                    "distance": float(np.abs(getattr(guess, "prior", guess) - prior).sum() / 2),
                }


def speed() -> Sequence[Record]:
    """Return the seconds of this process that fitting macro F1 takes, by rows and classes."""
    found = []
    for rows, classes in ((1_000, 10), (10_000, 10), (100_000, 10), (10_000, 100), (100_000, 100)):
        generator = np.random.default_rng(0)
        prior = 1 / np.arange(1, classes + 1)
        y = generator.choice(classes, size=rows, p=prior / prior.sum())
        scores = generator.normal(size=(rows, classes)) + 2 * np.eye(classes)[y] + np.log(prior)
        probability = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        times = []
        for target in (y, None):
            start = time.process_time()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                DecisionRule("macro_f1").fit(probability, target)
            times.append(time.process_time() - start)
        found.append({"rows": rows, "classes": classes, "labelled": times[0], "plug_in": times[1]})
    return found
