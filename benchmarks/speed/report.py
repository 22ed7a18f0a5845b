"""The measurements as a table for the terminal, and as data, a plot and a page for the documentation."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Row = dict[str, Any]

COLUMNS = ("loss", "shape", "eager", "compiled", "memory", "compiled memory")
HIDDEN_COLUMNS = ("loss", "chunk rows", "time", "memory")
STEP_COLUMNS = ("model", "loss", "step, ms", "share of the loss")


def show(console: Console, result: dict[str, Any]) -> None:
    """Print the tables."""
    for title, columns, rows in tables(result):
        table = Table(*columns, title=title, title_justify="left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for line in notes(result):
        console.print(line)


def write(folder: Path, result: dict[str, Any]) -> None:
    """Write speed.json, speed.svg and speed.md into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "speed.json").write_text(json.dumps(result, indent=1) + "\n")
    plot(folder / "speed.svg", result["growth"])
    page = ["# Speed and memory", "", *INTRODUCTION]
    for title, columns, rows in tables(result):
        page += ["", f"## {title}", "", _line(columns), _line("---" for _ in columns), *(_line(row) for row in rows)]
    page += ["", "## Growth", "", "![Time against rows, and against classes](speed.svg)", ""]
    page += [f"- {line}" for line in notes(result)]
    (folder / "speed.md").write_text("\n".join(page) + "\n")


INTRODUCTION = (
    "`python -m benchmarks.speed --write docs` made this page: the time of forward and backward over that of torch's",
    "own loss on the same tensors, and the peak of what a step allocates, the gradient included, over the size of the",
    "logits. Times are medians of ratios taken in turn, so that a slow moment of the machine strikes both.",
    "",
    "On the CPU float32 logits are read by C++ kernels, built on first use where there is a compiler and kept in",
    "`$XDG_CACHE_HOME/equilog`, else `~/.cache/equilog`. `$CXX` names another compiler; `EQUILOG_NATIVE=0`, before a",
    "command, does without kernels. torch.compile calls them as well, but for small inputs, where what it makes of",
    "the formula is faster.",
)


def tables(result: dict[str, Any]) -> Iterable[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Return each table as title, headings and cells."""
    titles = {"index": "Class indices", "soft": "Class probabilities", "labels": "Yes/no labels"}
    for kind, title in titles.items():
        found: dict[tuple[int, int, str], dict[str, Row]] = {}
        for row in result["losses"]:
            if row["kind"] == kind:
                found.setdefault((row["rows"], row["columns"], row["loss"]), {})[row["mode"]] = row
        cells = [
            (
                f"{loss} ({next(iter(modes.values()))['torch_ms']:.2f} ms)" if modes["eager"]["time"] == 1.0 else loss,
                f"{rows} × {columns}",
                *(_number(modes.get(mode), "time") for mode in ("eager", "compiled")),
                *(_number(modes.get(mode), "peak") for mode in ("eager", "compiled")),
            )
            for (rows, columns, loss), modes in found.items()
        ]
        yield title, COLUMNS, cells
    hidden = [
        (row["loss"], str(row["chunk_rows"]), f"{row['time']:.2f}", f"{row['peak']:.2f}")
        for row in result["from hidden states"]
    ]
    yield "From hidden states, 2048 × 256 to 32,000 classes", HIDDEN_COLUMNS, hidden
    steps = [
        (row["model"], row["loss"], f"{row['step_ms']:.1f}", f"{row['share_of_loss']:.1%}")
        for row in result["training steps"]
    ]
    yield "A whole training step", STEP_COLUMNS, steps


def notes(result: dict[str, Any]) -> list[str]:
    """Return what the numbers depend on, and what was not measured."""
    setting = ", ".join(f"{name} {value}" for name, value in result["setting"].items())
    return [
        f"Measured with {setting}.",
        "The share of the loss is by how much a step without it is shorter; a percent or two of that is noise.",
        *(f"Not measured: {what}." for what in result["not measured"]),
    ]


def plot(path: Path, growth: list[Row]) -> None:
    """Draw milliseconds against rows, and against classes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, (by, at) in zip(
        figure.subplots(1, 2, sharey=True), (("rows", "rows"), ("classes", "columns")), strict=True
    ):
        chosen = [row for row in growth if row["by"] == by]
        for loss in dict.fromkeys(row["loss"] for row in chosen):
            points = [(row[at], row["time"] * row["torch_ms"]) for row in chosen if row["loss"] == loss]
            axes.loglog(*zip(*points, strict=True), marker="o", label=loss)
        fixed = chosen[0]["columns" if at == "rows" else "rows"]
        axes.set(xlabel=f"{by} ({fixed} {'classes' if at == 'rows' else 'rows'})")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("forward and backward, ms")
    figure.axes[0].legend()
    figure.savefig(path, metadata={"Date": None})


def _number(row: Row | None, what: str) -> str:
    return "" if row is None else f"{row[what]:.2f}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
