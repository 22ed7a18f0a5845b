"""Write the study up from its results: python -m benchmarks.quality.report.

docs/study.md is made from study.md.jinja, so that no number in it is typed by hand; its figures and summary.csv, every
mean and interval as data, are made beside.
"""

import argparse
import csv
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.quality.__main__ import RESULTS
from benchmarks.quality.analysis import ENOUGH, Outcome, Verdict, part_of, tuned_of, verdicts
from benchmarks.quality.figures import draw
from benchmarks.quality.plan import Plan
from benchmarks.quality.rule import recommended
from benchmarks.quality.settings import SETTINGS
from benchmarks.quality.store import Record, Store
from benchmarks.quality.tasks import all_tasks
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from equilog.compare.judge.intervals import estimate
from equilog.compare.judge.metrics import METRICS
from equilog.compare.judge.records import Interval

HERE = Path(__file__).parent
DOCS = HERE.parent.parent / "docs"
ADJUSTED = "logit-adjusted"
IN_NATS = ("kl", "nll", "brier", "calibration_error")
"""Metrics that are told as they are; the others are shares and told in percent and points."""

COLUMNS = (
    *("task", "metric", "setting", "ours", "seeds", "learning_rate", "weight_decay", "mean", "low", "high"),
    *("gain", "gain_low", "gain_high", "p_holm"),
)
"""Those of summary.csv. The gain is over the task's baseline, more being better whatever the metric."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.report", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the results")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder for study.md and its figures")
    parser.add_argument("--summary", type=Path, default=HERE / "summary.csv", help="file for means and intervals")
    options = parser.parse_args(arguments)
    outcomes = read(options.results)
    figures = draw(outcomes, options.docs / "study")
    options.docs.mkdir(parents=True, exist_ok=True)
    (options.docs / "study.md").write_text(
        page(outcomes, figures, len(Store(options.results).records)), encoding="utf-8"
    )
    write_summary(outcomes, options.summary)


def read(path: Path) -> dict[str, Outcome]:
    """Return the outcome of every task that has results, by name."""
    plan, store = Plan(tasks=list(all_tasks().values())), Store(path)
    found = {task.name: Outcome(task, plan.finished(store, task)) for task in plan.tasks}
    return {name: outcome for name, outcome in found.items() if outcome.settings}


def page(outcomes: dict[str, Outcome], figures: list[str], trainings: int) -> str:
    """Return docs/study.md."""
    environment = Environment(
        loader=FileSystemLoader(HERE), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    words = Words(outcomes)
    adjustable = [outcome for outcome in outcomes.values() if ADJUSTED in outcome.settings and outcome.best(ours=True)]
    return environment.get_template("study.md.jinja").render(
        outcomes=outcomes,
        figures=figures,
        trainings=trainings,
        enough=ENOUGH,
        verdicts=verdicts(outcomes.values(), recommended),
        recommended=recommended,
        adjustable=len(adjustable),
        unbeaten=[f"`{each.task.name}`" for each in adjustable if _first(each, ADJUSTED, str(each.best(ours=True)))],
        calibrated=words.calibrated(),
        METRICS=METRICS,
        **{name: getattr(words, name) for name in ("says", "rates", "row", "over_peer", "over_baseline", "observed")},
    )


def _first(outcome: Outcome, setting: str, other: str) -> bool:
    return outcome.settings.index(setting) < outcome.settings.index(other)


class Words:
    """How the page tells numbers: in points (hundredths) for shares, as they are for nats; better is always plus."""

    def __init__(self, outcomes: dict[str, Outcome]) -> None:
        self.outcomes = outcomes

    def interval(self, interval: Interval, metric: str) -> str:
        """Return a difference with its interval."""
        factor, digits = (1, 4) if metric in IN_NATS else (100, 1)
        told = f"{factor * interval['mean']:+.{digits}f}"
        if interval["ci95"] is None:
            return told
        low, high = (f"{factor * end:+.{digits}f}" for end in interval["ci95"])
        return f"{told} ({low} to {high})"

    def says(self, task: str, setting: str, other: str, reading: str | None = None) -> str:
        """Return a sentence on how a setting does against another, which claims no more than the interval does.

        In the task's main metric, or in another one on the test rows, or for "tuned" in the main one after tuning.
        """
        outcome = self.outcomes.get(task)
        if outcome is None or not {setting, other} <= set(outcome.settings):
            return f"(`{setting}` against `{other}`: not run.)"
        metric = outcome.task.metric if reading in (None, "tuned") else str(reading)
        read = {None: None, "tuned": tuned_of}.get(reading, partial(part_of, part="test", metric=metric))
        gain = outcome.gain(setting, other, read, metric)
        ends = gain["ci95"]
        seen = ends is not None and (ends[0] > 0 or ends[1] < 0)
        word = ("above" if gain["mean"] > 0 else "below") if seen else "against"
        unit = "nats" if metric in IN_NATS else "points"
        verdict = "." if seen else ": no difference seen."
        return f"`{setting}` {word} `{other}`: {self.interval(gain, metric)} {unit}{verdict}"

    def observed(self, task: str, setting: str) -> str:
        """Return a sentence on what deciding with the class mass observed changes against deciding by bare logits."""
        outcome = self.outcomes.get(task)
        if outcome is None or setting not in outcome.settings:
            return f"(`{setting}`: not run.)"
        sign = outcome.sign(outcome.task.metric)
        differences = [sign * (outcome.main(each) - each["bare"]) for each in outcome.records[setting].values()]
        gain = estimate(differences, outcome.task.correlation)
        return f"`{setting}` {self.interval(gain, outcome.task.metric)} points."

    def over_baseline(self, verdict: Verdict) -> str:
        """Return how the recommended setting did against the baseline."""
        if verdict.over_baseline is None:
            return "is the baseline"
        return self.interval(verdict.over_baseline, verdict.outcome.task.metric)

    def calibrated(self) -> str:
        """Return on how many tasks the rule's posterior has a seen difference in NLL, with and without temperature."""
        said = []
        for part, name in (("drawn", "As it comes"), ("tempered", "With a temperature")):
            better = worse = total = 0
            for outcome in self.outcomes.values():
                setting = recommended(outcome.task)
                if setting == outcome.baseline or not {setting, outcome.baseline} <= set(outcome.settings):
                    continue
                ends = outcome.gain(setting, outcome.baseline, partial(part_of, part=part, metric="nll"), "nll")["ci95"]
                total += 1
                better += ends is not None and ends[0] > 0
                worse += ends is not None and ends[1] < 0
            said.append(f"{name}, its NLL is seen to be lower on {better} and higher on {worse} of {total} tasks.")
        return " ".join(said)

    def mean(self, task: str, setting: str) -> str:
        """Return a setting's mean."""
        outcome = self.outcomes.get(task)
        if outcome is None or setting not in outcome.settings:
            return "not run"
        factor, digits = (1, 4) if outcome.task.metric in IN_NATS else (100, 1)
        return f"{factor * outcome.mean(setting)['mean']:.{digits}f}"

    def rates(self, outcome: Outcome) -> str:
        """Return the learning rates tried, the one chosen for the baseline in bold."""
        record = next(iter(outcome.records[outcome.baseline].values()))
        return ", ".join(
            f"**{rate:g}**" if rate == record["learning_rate"] else f"{rate:g}" for rate in outcome.task.learning_rates
        )

    def row(self, outcome: Outcome, setting: str) -> str:
        """Return a line of a task's table."""
        name = f"**{setting}**" if setting == recommended(outcome.task) else setting
        name += "°" if SETTINGS[setting].ours and not all(map(_is_of_today, outcome.records[setting].values())) else ""
        difference = outcome.over_baseline.get(setting)
        over, chance = "", ""
        if difference is not None:
            over = self.interval(difference, outcome.task.metric)
            chance = {1: "better", -1: "worse", 0: ""}[outcome.seen(setting)]
        calibration = [
            outcome.mean(setting, partial(part_of, part="drawn", metric=metric))["mean"]
            for metric in ("nll", "calibration_error")
        ]
        cells = [name, self.mean(outcome.task.name, setting), over, chance, self.tuned(outcome, setting)]
        cells += [f"{value:.3f}" for value in calibration]
        return f"| {' | '.join(cells)} |"

    def tuned(self, outcome: Outcome, setting: str) -> str:
        """Return the mean with one number chosen on validation rows, over the seeds that have it."""
        values = [each["tuned"] for each in outcome.records[setting].values() if each.get("tuned") is not None]
        return f"{100 * np.mean(values):.1f}" if values else ""

    def over_peer(self, verdict: Verdict) -> str:
        """Return how the recommended setting did against the best peer."""
        return self.interval(verdict.over_peer, verdict.outcome.task.metric)


def _is_of_today(record: Record) -> bool:
    """Tell trainings of the mean that ours have now: decisions by the posterior are kept since."""
    return "posterior" in record


def write_summary(outcomes: dict[str, Outcome], path: Path) -> None:
    """Write every setting's mean, its gain over the baseline and their intervals as a table."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for outcome in outcomes.values():
            for setting in outcome.settings:
                writer.writerow(_summary_row(outcome, setting))


def _summary_row(outcome: Outcome, setting: str) -> list[Any]:
    records = outcome.records[setting]
    any_record = next(iter(records.values()))
    difference = outcome.over_baseline.get(setting)
    numbers = [*_ends(outcome.mean(setting)), *(_ends(difference) if difference else ["", "", ""])]
    numbers.append("" if difference is None or difference["p_holm"] is None else difference["p_holm"])
    return [
        *(outcome.task.name, outcome.task.metric, setting, SETTINGS[setting].ours, len(records)),
        *(any_record["learning_rate"], any_record["weight_decay"]),
        *(f"{number:.5g}" if isinstance(number, float) else number for number in numbers),
    ]


def _ends(interval: Interval | Any) -> list[Any]:
    return [interval["mean"], *(interval["ci95"] or ("", ""))]


if __name__ == "__main__":
    main()
