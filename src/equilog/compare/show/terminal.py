"""The results as tables for the terminal."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from equilog.compare.judge.chosen_metric import metric_named
from equilog.compare.judge.ranking import is_ours, is_seen, ranked, shown_metrics, splits, unfinished
from equilog.compare.judge.records import Difference, Interval, Results
from equilog.compare.judge.verdict import counted


def leaderboard(results: Results, width: int = 80) -> Table:
    """Return the contenders, the best first, by the main metric and its difference from the baseline.

    Args:
        results: what `summarise` returned.
        width: columns of the terminal; as many of the other metrics are added as fit.
    """
    return _tables(results, width)[0]


def print_results(console: Console, results: Results) -> None:
    """Print the leaderboard, further tables for the metrics that do not fit beside it, and the verdict."""
    data = results["data"]
    console.print(
        Text.assemble(
            (data["name"], "bold"),
            f"  {counted(data['rows'], 'row')}, {counted(data['features'], 'feature')}, {results['task']}, "
            f"{counted(splits(results), 'split')}",
        )
    )
    for table in _tables(results, console.width):
        console.print(table)
    console.print(Text(_legend(results), style="dim"))
    console.print(Panel(Text(results["verdict"]), title="Verdict", title_align="left", box=box.ROUNDED))
    console.print(Text(saved(results)))


def saved(results: Results) -> str:
    """Return which contender is saved and why, as a sentence."""
    return f"The model to save is {results['saved']['name']}: {results['saved']['reason']}."


def _tables(results: Results, width: int) -> list[Table]:
    """Return tables no wider than the terminal, all metrics spread over them."""
    metrics = _other_metrics(results)
    whole = _table(results, metrics, lead=True, spread=True)
    if _fits(whole, width):
        return [whole]
    tables: list[Table] = []
    while metrics or not tables:
        lead = not tables
        count = next(
            (
                count
                for count in range(len(metrics), 0, -1)
                if _fits(_table(results, metrics[:count], lead=lead), width)
            ),
            0 if lead else 1,
        )
        tables.append(_table(results, metrics[:count], lead=lead))
        metrics = metrics[count:]
    return tables


def _other_metrics(results: Results) -> list[str]:
    return [metric.name for metric in shown_metrics(results)[1:]]


def _fits(table: Table, width: int) -> bool:
    roomy = Console(width=10_000)
    return Measurement.get(roomy, roomy.options, table).maximum <= width


def _table(results: Results, metrics: Sequence[str], *, lead: bool, spread: bool = False) -> Table:
    main, baseline = results["main_metric"], results["baseline"]
    table = Table(box=box.SIMPLE_HEAD, padding=0, header_style="bold")
    table.add_column("  Contender", no_wrap=True)
    if lead:
        table.add_column(_heading(main), justify="right")
        table.add_column(Text(f"Against\n{baseline}"), justify="right")
    for metric in metrics:
        table.add_column(_heading(metric), justify="right")
    for loss in ranked(results["losses"], main):
        reached = results["losses"][loss]
        cells = [Text(f"{'●' if is_ours(loss) else ' '} {loss}", style="cyan" if is_ours(loss) else "")]
        if lead:
            cells.append(_mean(reached[main], spread=True))
            cells.append(_difference(main, results["differences"].get(loss), is_baseline=loss == baseline))
        cells += [_mean(reached[metric], spread=spread) if metric in reached else Text("") for metric in metrics]
        table.add_row(*cells)
    return table


def _heading(metric: str) -> Text:
    """Return a title one word a line, so that it does not widen its column, and which way is better."""
    named = metric_named(metric)
    return Text("\n".join(named.title.replace("-", "- ").split()) + (" ↑" if named.larger_is_better else " ↓"))


def _mean(interval: Interval, *, spread: bool) -> Text:
    text = Text(f"{interval['mean']:.3f}")
    if spread and interval["ci95"] is not None:
        low, high = interval["ci95"]
        text.append(f" ±{(high - low) / 2:.3f}", style="dim")
    return text


def _difference(metric: str, difference: Difference | None, *, is_baseline: bool) -> Text:
    if difference is None:
        return Text("baseline" if is_baseline else "no split in common", style="dim")
    seen = is_seen(difference)
    good = (difference["mean"] > 0) == metric_named(metric).larger_is_better
    text = Text(f"{difference['mean']:+z.3f}", style=("green" if good else "red") if seen else "")
    if difference["ci95"] is not None:
        low, high = difference["ci95"]
        text.append(f" ({low:+z.3f} to {high:+z.3f})")
    return text.append("*" if seen else " ")


def _legend(results: Results) -> str:
    lines = [
        "↑ larger is better, ↓ smaller is better, ● ours, ± and ( ) 95 % intervals,",
        "* more than chance explains, after Holm's correction over the contenders",
    ]
    if missing := unfinished(results):
        runs = ", ".join(f"{loss} {count}" for loss, count in missing.items())
        lines.append(f"Unfinished, so their means are over fewer than {splits(results)} splits: {runs}")
    return "\n".join(lines)
