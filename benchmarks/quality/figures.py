"""The figures of the study, a function each, drawn as SVG: the same bytes for the same results."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
from benchmarks.quality.analysis import Outcome, part_of
from benchmarks.quality.rule import recommended
from benchmarks.quality.settings import SETTINGS
from benchmarks.quality.store import Record
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from equilog.compare.judge.metrics import METRICS
from equilog.compare.judge.records import Interval

STYLE = {
    "svg.hashsalt": "equilog",
    "svg.fonttype": "path",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
OURS, PEER, BASELINE = "#0b6e99", "#d1572b", "#888888"
LINES = ("#888888", "#d1572b", "#0b6e99", "#8a4fa3", "#3f8f4f", "#c9a227", "#444444")

Outcomes = Mapping[str, Outcome]


def draw(outcomes: Outcomes, folder: Path) -> list[str]:
    """Draw into a folder every figure that there are results for, and return their names."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, figure in FIGURES.items():
        with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
            made = figure(outcomes)
            if made is not None:
                made.savefig(folder / f"{name}.svg", metadata={"Date": None})
                drawn.append(name)
    return drawn


def forest(outcomes: Outcomes, *, names: Sequence[str], columns: int = 2) -> Figure | None:
    """How much better than the baseline each setting is, a panel a task."""
    shown = [outcomes[name] for name in names if name in outcomes and outcomes[name].over_baseline]
    if not shown:
        return None
    rows = -(-len(shown) // columns)
    most = max(len(outcome.over_baseline) for outcome in shown)
    figure = Figure(figsize=(4.2 * columns if columns > 1 else 6.0, rows * (0.7 + 0.17 * most)))
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel, outcome in zip(panels, shown, strict=False):
        _gains(panel, outcome)
    for panel in panels[len(shown) :]:
        panel.axis("off")
    return figure


def _gains(panel: Axes, outcome: Outcome) -> None:
    names = list(outcome.over_baseline)[::-1]
    factor = 1.0 if METRICS[outcome.task.metric].name in ("kl", "nll") else 100.0
    for height, name in enumerate(names):
        interval = outcome.over_baseline[name]
        colour = OURS if SETTINGS[name].ours else PEER
        _whisker(panel, interval, height, factor, colour)
    panel.axvline(0.0, color=BASELINE, linewidth=1)
    panel.set_yticks(range(len(names)), names, fontsize=7)
    for label in panel.get_yticklabels():
        if label.get_text() == recommended(outcome.task):
            label.set_fontweight("bold")
    panel.set_title(f"{outcome.task.name}, {'nats' if factor == 1.0 else 'points'}", fontsize=8)


def _whisker(panel: Axes, interval: Interval, height: float, factor: float, colour: str) -> None:
    mean = factor * interval["mean"]
    panel.plot([mean], [height], "o", color=colour, markersize=4)
    if interval["ci95"] is not None:
        panel.plot([factor * end for end in interval["ci95"]], [height, height], "-", color=colour, linewidth=1)


def pools(outcomes: Outcomes) -> Figure | None:
    """Recall of the frequent, middle and rare classes against the size of the pool, without and with a prior."""
    outcome = outcomes.get("fashion-100")
    if outcome is None:
        return None
    batch = outcome.task.batch_size
    ladders = {
        "without a prior": {1: "cross-entropy", 4: "class-4-none", 16: "class-16-none", 64: "class-64-none",
                            batch: "class-batch-none"},
        "with the running prior": {1: "class-1-auto", 4: "class-4-auto", 16: "class-16-auto", 64: "class-64-auto",
                                   batch: "class-batch-auto"},
    }  # fmt: skip
    if not all(name in outcome.settings for ladder in ladders.values() for name in ladder.values()):
        return None
    figure = Figure(figsize=(8.4, 3.2))
    panels = figure.subplots(1, 2, sharey=True)
    groups = {"four frequent classes": slice(0, 4), "three middle": slice(4, 7), "three rare": slice(7, 10)}
    for panel, (title, ladder) in zip(panels, ladders.items(), strict=True):
        for (label, group), colour in zip(groups.items(), (BASELINE, OURS, PEER), strict=True):
            read = partial(_recall, group=group)
            _line(panel, list(ladder), [outcome.mean(name, read) for name in ladder.values()], colour, label, 100.0)
        means = [outcome.mean(name) for name in ladder.values()]
        _line(panel, list(ladder), means, "black", "all: balanced accuracy", 100.0)
        panel.set_xscale("log", base=2)
        panel.set_xticks(list(ladder), [*map(str, list(ladder)[:-1]), f"batch ({batch})"])
        panel.set(title=f"{outcome.task.name}, {title}", xlabel="rows in a pool")
    panels[0].set_ylabel("recall, %")
    panels[1].legend(fontsize=7, loc="lower right")
    return figure


def _recall(record: Record, group: slice) -> float:
    return float(np.mean(record["recall"][group]))


def _line(
    panel: Axes, x: Sequence[float], intervals: Sequence[Interval], colour: str, label: str, factor: float
) -> None:
    """Draw means with their intervals, each point moved a little so that intervals do not hide each other."""
    panel.plot(x, [factor * each["mean"] for each in intervals], "o-", color=colour, markersize=3, label=label)
    for at, each in zip(x, intervals, strict=True):
        if each["ci95"] is not None:
            panel.plot([at, at], [factor * end for end in each["ci95"]], "-", color=colour, linewidth=0.8, alpha=0.6)


def _lines(
    outcomes: Outcomes, *, tasks: Mapping[float, str], names: Sequence[str], label: str, title: str, base: int
) -> Figure | None:
    """Balanced accuracy of some settings over a row of tasks, and what each is above the baseline."""
    present = {x: outcomes[name] for x, name in tasks.items() if name in outcomes}
    kept = [name for name in names if all(name in outcome.settings for outcome in present.values())]
    if len(present) < 2 or not kept:
        return None
    figure = Figure(figsize=(8.4, 3.2))
    left, right = figure.subplots(1, 2)
    for name, colour in zip(kept, LINES, strict=False):
        _line(left, list(present), [outcome.mean(name) for outcome in present.values()], colour, name, 100.0)
        if name != next(iter(present.values())).baseline:
            over = [outcome.gain(name, outcome.baseline) for outcome in present.values()]
            _line(right, list(present), over, colour, name, 100.0)
    right.axhline(0.0, color=BASELINE, linewidth=1)
    for panel in (left, right):
        if base:
            panel.set_xscale("log", base=base)
        panel.set_xticks(list(present), [f"{x:g}" for x in present])
        panel.minorticks_off()
        panel.set_xlabel(label)
    left.set_title(f"{title}: balanced accuracy, %")
    right.set_title("points over cross-entropy")
    left.legend(fontsize=7)
    return figure


def calibration(outcomes: Outcomes) -> Figure | None:
    """NLL and calibration error of the posterior over cross-entropy's, as it comes and with a temperature."""
    rows = []
    for outcome in outcomes.values():
        setting = next((name for name in outcome.settings if name == recommended(outcome.task)), None)
        if setting is not None and setting != outcome.baseline and outcome.baseline in outcome.settings:
            rows.append((outcome, setting))
    if not rows:
        return None
    figure = Figure(figsize=(8.4, 0.9 + 0.24 * len(rows)))
    panels = figure.subplots(1, 2, sharey=True)
    for panel, metric in zip(panels, ("nll", "calibration_error"), strict=True):
        for height, (outcome, setting) in enumerate(rows):
            for part, shift, colour in (("drawn", 0.15, PEER), ("tempered", -0.15, OURS)):
                read = partial(part_of, part=part, metric=metric)
                gain = outcome.gain(setting, outcome.baseline, read, metric)
                _whisker(panel, gain, height + shift, 1.0, colour)
        panel.axvline(0.0, color=BASELINE, linewidth=1)
        panel.set_title(f"{METRICS[metric].title}: lower than the baseline's by", fontsize=8)
    panels[0].set_yticks(range(len(rows)), [f"{outcome.task.name}: {setting}" for outcome, setting in rows], fontsize=7)
    panels[0].plot([], [], "o", color=PEER, markersize=4, label="as it comes")
    panels[0].plot([], [], "o", color=OURS, markersize=4, label="with a temperature")
    panels[0].legend(fontsize=7)
    return figure


FIGURES: dict[str, Callable[[Outcomes], Figure | None]] = {
    "long-tail": partial(forest, names=("fashion-100",), columns=1),
    "other-tails": partial(forest, names=("fashion-10", "fashion-50", "fashion-200", "fashion-cnn-100")),
    "tables": partial(forest, names=("digits-50", "segments-50", "flares", "bananas-50")),
    "pools": pools,
    "imbalance": partial(
        _lines,
        tasks={imbalance: f"fashion-{imbalance}" for imbalance in (10, 50, 100, 200)},
        names=("cross-entropy", "logit-adjusted", "balanced-softmax", "ldam-drw", "class-batch-none", "class-16-auto"),
        label="rows of the most frequent class over the rarest",
        title="fashion",
        base=10,
    ),
    "batches": partial(
        _lines,
        tasks={size: f"fashion-batches-of-{size}" for size in (8, 32, 512)},
        names=("cross-entropy", "balanced-softmax", "class-batch-none", "class-stream-none", "class-batch-auto",
               "class-stream-auto"),
        label="rows in a batch",
        title="fashion-100",
        base=2,
    ),
    "tokens": partial(forest, names=("tags", "derivations", "attributes", "greek")),
    "grids": partial(forest, names=("spans", "arcs")),
    "texts": partial(forest, names=("topics-frozen", "topics-tuned")),
    "labels": partial(forest, names=("yeast", "forms", "yeast-order", "forms-order")),
    "soft": partial(
        forest,
        names=("ratings", "distil-cnn", "distil-mlp", "distil-linear", "distil-mlp-50", "smoothing-50", "mixup-50"),
    ),
    "noise": partial(forest, names=("fashion-noise-20", "fashion-noise-40")),
    "calibration": calibration,
}  # fmt: skip
"""Every figure by its file name."""
