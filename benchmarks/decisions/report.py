"""From records to the tables and the figure of the guide."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from benchmarks.decisions.contenders import CLASS_METRICS, CONTENDERS
from benchmarks.quality.figures import LINES, STYLE
from matplotlib.figure import Figure
from scipy.stats import t as student

BEGIN, END = "<!-- benchmark -->", "<!-- /benchmark -->"

CASE = ["task", "classifier", "metric", "rows"]


def goals(frame: pd.DataFrame) -> list[str]:
    """Return the lines that answer what the rule was to reach."""
    split = {name: frame[f"{name}: worse"].dropna().mean() for name in contenders(frame)}
    others = ", ".join(f"{name} {share:.1%}" for name, share in split.items() if name not in ("argmax", "DecisionRule"))
    worse, cases = worse_than_argmax(frame, "DecisionRule")
    return [
        f"Worse than argmax beyond the noise of the test rows (jackknifed 95 % interval of the difference below 0), "
        f"of all splits of all cases: `DecisionRule` {split['DecisionRule']:.1%} of {len(frame):,}; {others}.",
        f"Worse than argmax in the mean of its splits (95 % interval below 0): `DecisionRule` in {worse} of {cases} "
        f"cases, {worse / cases:.1%}.",
    ]


def contenders(frame: pd.DataFrame) -> list[str]:
    """Return those that were run: xcolumns may not be installed."""
    return [name for name in CONTENDERS if name in frame]


def duels(frame: pd.DataFrame) -> list[str]:
    """Return a table of each contender beside our rule, on the metrics that it has."""
    rows = []
    for name in contenders(frame):
        if name == "DecisionRule":
            continue
        known = frame[frame[name].notna()]
        cells = []
        for column in ("DecisionRule", name):
            regret = (known["oracle"] - known[column]).mean()
            reached = 1 - regret / (known["oracle"] - known["argmax"]).mean()
            cells.append(f"{regret:.4f} ({reached:.0%})")
        rows.append((name, ", ".join(sorted(known["metric"].unique())), *cells))
    return table(("against", "metrics that it has", "`DecisionRule`", "it"), rows)


def worse_than_argmax(frame: pd.DataFrame, name: str) -> tuple[int, int]:
    """Return in how many cases a contender is worse than argmax beyond noise, and how many cases there are."""
    found = 0
    grouped = frame.groupby(CASE)
    for _, case in grouped:
        difference = (case[name] - case["argmax"]).to_numpy()
        count = len(difference)
        if count > 1:
            error = difference.std(ddof=1) / np.sqrt(count)
            found += bool(difference.mean() + student.ppf(0.975, count - 1) * error < 0)
    return found, grouped.ngroups


def of_labels(frame: pd.DataFrame) -> "pd.Series[bool]":
    """Return which records are of tasks with yes/no labels: those that are judged by what classes are not judged by."""
    return frame["task"].isin(frame["task"][~frame["metric"].isin(CLASS_METRICS)])


def regret_table(frame: pd.DataFrame, by: str) -> list[str]:
    """Return a table of mean regret by the values of a column, empty where a contender lacks a metric."""
    rows = []
    for value, part in [*frame.groupby(by), ("all", frame)]:
        cells = []
        for name in contenders(frame):
            known = part[part[name].notna()]
            cells.append(f"{(known['oracle'] - known[name]).mean():.3f}" if len(known) == len(part) else "")
        rows.append((str(value), *cells))
    return table((by, *contenders(frame)), rows)


def gain_table(frame: pd.DataFrame) -> list[str]:
    """Return a table of the gain over argmax and the share of the oracle's gain, by metric and calibration rows."""
    rows = []
    for metric, part in frame.groupby("metric"):
        cells = []
        for _, sized in part.groupby("rows"):
            gain = (sized["DecisionRule"] - sized["argmax"]).mean()
            possible = (sized["oracle"] - sized["argmax"]).mean()
            cells.append(f"{gain:+.3f} ({gain / possible:.0%})")
        rows.append((str(metric), *cells))
    return table(("metric", *(f"{size} rows" for size in sorted(frame["rows"].unique()))), rows)


def shift_table(frame: pd.DataFrame) -> list[str]:
    """Return a table of what adapting to another prior is worth."""
    rows = []
    for shift, part in frame.groupby("shift", sort=False):
        cells = []
        for way in ("not adapted", "em", "em, corrected", "confusion", "true prior"):
            chosen = part[part["way"] == way]
            distance = f", {chosen['distance'].mean():.3f}" if way != "true prior" else ""
            cells.append(f"{chosen['accuracy'].mean():.3f}, {chosen['log_loss'].mean():.3f}{distance}")
        rows.append((str(shift), *cells))
    return table(("new prior", "not adapted", "EM", "EM, corrected", "confusion matrix", "true prior"), rows)


def speed_table(records: Sequence[dict[str, Any]]) -> list[str]:
    """Return a table of seconds."""
    rows = [(f"{r['rows']:,}", str(r["classes"]), f"{r['labelled']:.2f}", f"{r['plug_in']:.2f}") for r in records]
    return table(("rows", "classes", "with labels, s", "without, s"), rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table in Markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def section(decided: pd.DataFrame, shifted: pd.DataFrame, timed: Sequence[dict[str, Any]], figure: str) -> str:
    """Return the part of the guide that the benchmark writes."""
    splits, tasks = decided["seed"].nunique(), decided["task"].nunique()
    names = decided["metric"] + of_labels(decided).map({True: " of labels", False: ""})
    apart, everywhere = decided.assign(metric=names), decided.dropna(subset=contenders(decided))
    parts = [
        f"{tasks} tasks, {decided['classifier'].nunique()} classifiers, {splits} splits, calibration sets of "
        f"{', '.join(f'{size:,}' for size in sorted(decided['rows'].unique()))} rows where a task has so many. "
        "The oracle is the rule of the same form that is best on the test rows themselves; regret is what is lacking "
        "to it. Costs are random ones, larger for rarer classes, scaled so that always saying the most frequent class "
        "costs 1; more is worse, so they count negative. xcolumns is its Frank-Wolfe classifier, for the metrics that "
        "it has.",
        "",
        *(f"- {line}" for line in goals(decided)),
        "",
        "Mean regret, and the share of the oracle's gain over argmax that is reached:",
        "",
        *duels(decided),
        "",
        "Regret by metric:",
        "",
        *regret_table(apart, "metric"),
        "",
        f"Regret by calibration rows, of {' and '.join(sorted(everywhere['metric'].unique()))}, which all have:",
        "",
        *regret_table(everywhere.rename(columns={"rows": "calibration rows"}), "calibration rows"),
        "",
        "Gain of `DecisionRule` over argmax, and its share of the oracle's:",
        "",
        *gain_table(apart),
        "",
        f"![Regret against calibration rows, metric by metric, for one class a row]({figure})",
        "",
        "Test rows drawn anew by five priors; accuracy, log loss in nats, and how far the estimated prior is from the "
        "true one (half the sum of differences):",
        "",
        *shift_table(shifted),
        "",
        "Seconds of one thread to fit macro F1:",
        "",
        *speed_table(timed),
    ]
    return "\n".join(parts)


def draw(decided: pd.DataFrame, path: Path) -> None:
    """Draw mean regret against calibration rows of the tasks with one class a row, a panel a metric."""
    decided = decided[~of_labels(decided)]
    names = list(decided["metric"].unique())
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(8.4, 4.6))
        for panel, metric in zip(figure.subplots(2, -(-len(names) // 2)).flat, names, strict=False):
            part = decided[decided["metric"] == metric]
            for contender, colour in zip(contenders(decided), LINES, strict=False):
                known = part[part[contender].notna()]
                if len(known):
                    regret = (known["oracle"] - known[contender]).groupby(known["rows"]).mean()
                    panel.plot(regret.index, regret, "o-", color=colour, markersize=3, linewidth=1, label=contender)
            panel.set(title=metric, xscale="log", ylim=(0, None))
        first = figure.axes[0]
        figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7)
        first.set_ylabel("regret")
        figure.savefig(path, metadata={"Date": None})


def write(folder: Path, decided: pd.DataFrame, shifted: pd.DataFrame, timed: Sequence[dict[str, Any]]) -> None:
    """Put the section into decisions.md and the figure beside it.

    Raises:
        ValueError: the page lacks the place for it.
    """
    page = folder / "decisions.md"
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"benchmarks.decisions: {page} must have {BEGIN} and {END}, between which its tables go.")
    draw(decided, folder / "decisions.svg")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    made = section(decided, shifted, timed, "decisions.svg")
    page.write_text(f"{before}{BEGIN}\n{made}\n{END}{after}", encoding="utf-8")
