"""The results as tables for the terminal, as data, and as a page of the documentation."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.untuned.plan import BASELINE, LOSSES
from benchmarks.untuned.run import Result
from benchmarks.untuned.summary import FAR_BELOW, Summary, means_by, summarise
from rich.console import Console
from rich.table import Table as RichTable


@dataclass(frozen=True)
class Report:
    """Everything that one run of the benchmark has to tell."""

    results: list[Result]
    left_out: dict[str, str]
    """Data sets that are not installed, with the reason."""
    environment: dict[str, str]
    """Versions, and how long it took."""


@dataclass(frozen=True)
class Table:
    """Cells under headings."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def tables(report: Report) -> list[Table]:
    """Return the table of the losses, and their means by data set and by learning rate."""
    results = report.results
    return [
        _table_of_losses(summarise(results, BASELINE)),
        _table_of_means(
            "Mean balanced accuracy by data and network", results, lambda result: f"{result.data}, {result.network}"
        ),
        _table_of_means(
            "Mean balanced accuracy by optimizer and learning rate",
            results,
            lambda result: f"{result.optimizer}, {result.learning_rate:g}",
        ),
    ]


def notes(report: Report) -> list[str]:
    """Return what a reader must know beside the tables, a sentence or two each."""
    settings = len({result.setting for result in report.results})
    seeds = len(report.results[0].scores)
    return [
        f"{settings} settings (data, network, optimizer, learning rate) of {seeds} seeds each. All losses of a seed "
        "share split, first weights and order of the rows.",
        "± is a 95 % interval over the seeds of the paired difference to cross-entropy, allowing for splits that share "
        "rows. The worst setting is the lowest of all, not corrected for that choice.",
        *(f"Left out: {data}. {reason}" for data, reason in report.left_out.items()),
        ", ".join(f"{name} {value}" for name, value in report.environment.items()) + ".",
    ]


def show(console: Console, report: Report) -> None:
    """Print the tables."""
    for table in tables(report):
        shown = RichTable(*table.columns, title=table.title, title_justify="left")
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
    for line in notes(report):
        console.print(line, markup=False)


INTRODUCTION = """\
`python -m benchmarks.untuned --seeds {seeds} --write docs` made this page. Each loss takes the place of cross-entropy
in the same training of a small network, with a cosine schedule, at learning rates that nobody chose for it. The
training rows are long-tailed and the test rows are not, but for those of the flares, whose classes are unequal by
nature. Each loss decides by its own `predict`; balanced accuracy is the mean recall of the classes. [The
study](study.md) asks the same with learning rate and weight decay tuned for every loss."""


def write(folder: Path, report: Report) -> None:
    """Write untuned.json and untuned.md into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {"environment": report.environment, "left out": report.left_out}
    lines = ",\n".join(json.dumps(asdict(result)) for result in report.results)
    (folder / "untuned.json").write_text(f'{json.dumps(data)[:-1]}, "results": [\n{lines}\n]}}\n', encoding="utf-8")
    page = ["# Learning rates that nobody tuned", "", INTRODUCTION.format(seeds=len(report.results[0].scores))]
    for table in tables(report):
        page += ["", f"## {table.title}", "", *markdown(table)]
    page += ["", *(f"- {line}" for line in notes(report))]
    (folder / "untuned.md").write_text("\n".join(page) + "\n", encoding="utf-8")


def markdown(table: Table) -> list[str]:
    """Return the lines of a table."""
    return [_line(table.columns), _line("---" for _ in table.columns), *map(_line, table.rows)]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table_of_losses(summaries: list[Summary]) -> Table:
    optimizers = tuple(summaries[0].by_optimizer)
    columns = ("loss", "mean", "over cross-entropy", *optimizers, "worst setting", f"below by {FAR_BELOW:.2f}")
    rows = [
        (
            LOSSES.get(summary.loss, summary.loss),
            number(summary.mean),
            *(
                ("", *map(number, summary.by_optimizer.values()), "", "")
                if summary.loss == BASELINE
                else (
                    difference(summary.gain, summary.gain_margin),
                    *map(number, summary.by_optimizer.values()),
                    f"{difference(summary.worst, summary.worst_margin)} ({_words(summary.worst_setting)})",
                    str(summary.far_below),
                )
            ),
        )
        for summary in summaries
    ]
    return Table("Mean balanced accuracy over all settings", columns, rows)


def _table_of_means(title: str, results: Sequence[Result], key: Callable[[Result], str]) -> Table:
    losses = list(dict.fromkeys(result.loss for result in results))
    means = {loss: means_by([result for result in results if result.loss == loss], key) for loss in losses}
    rows = [(name, *(number(means[loss][name]) for loss in losses)) for name in dict.fromkeys(map(key, results))]
    return Table(title, ("", *(LOSSES.get(loss, loss) for loss in losses)), rows)


def _words(setting: tuple[str, str, str, float]) -> str:
    *names, learning_rate = setting
    return f"{', '.join(map(str, names))}, {learning_rate:g}"


def number(value: float) -> str:
    """Return a share with three digits and no zero before the point."""
    return f"{value:.3f}".removeprefix("0")


def difference(value: float, margin: float | None) -> str:
    """Return a signed difference with its margin, where there is one."""
    signed = f"{'-' if value < 0 else '+'}{number(abs(value))}"
    return signed if margin is None else f"{signed} ±{number(margin)}"
