"""The command line: equilog compare, equilog predict, equilog verify."""

import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

from equilog._version import __version__

MISSING = "The command line needs more than PyTorch. Install it with: pip install 'equilog[compare]'"

try:
    import pandas as pd
    import typer
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Table
    from rich.text import Text

    from equilog.baselines.registry import LOSSES
    from equilog.compare.data.columns import require_columns
    from equilog.compare.data.dataset import Dataset
    from equilog.compare.data.kinds import chosen_kinds
    from equilog.compare.data.named import NAMED, load
    from equilog.compare.data.rare import Rare, without_rare
    from equilog.compare.data.tables import read_rows
    from equilog.compare.errors import DataError
    from equilog.compare.files import replacing
    from equilog.compare.judge.chosen_metric import chosen_metric
    from equilog.compare.judge.metrics import METRICS
    from equilog.compare.run import bundle, experiment
    from equilog.compare.run.cluster import on_cluster
    from equilog.compare.run.contenders import chosen
    from equilog.compare.run.decisions import DECISIONS
    from equilog.compare.run.estimators import ESTIMATORS, is_installed
    from equilog.compare.run.large import pace_for, pace_note
    from equilog.compare.run.models import ModelSettings
    from equilog.compare.run.one_run import Failure
    from equilog.compare.run.plan import Plan
    from equilog.compare.run.shared import keep_little
    from equilog.compare.run.tracking import Log, Tracker, log_to
    from equilog.compare.show.terminal import print_results
    from equilog.verify import main as run_checks
except ModuleNotFoundError as error:
    sys.exit(f"{MISSING} ({error.name} is not installed)")


class Commands(typer.core.TyperGroup):
    """The commands, with exit status 2 and a message, not a traceback, for what the user can put right."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except DataError as error:
            err.print(Text.assemble(("error: ", "bold red"), _plain(error)), soft_wrap=True)
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            err.print("interrupted")
            raise typer.Exit(130) from error


app = typer.Typer(
    cls=Commands,
    help="Losses for classification that balance themselves.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console()
err = Console(stderr=True)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        out.print(f"equilog {__version__}", highlight=False)
        raise typer.Exit


@app.command()
def compare(
    data: Annotated[
        str,
        typer.Argument(help="CSV, TSV, JSON lines, Parquet, Excel or NPZ file, or a named data set (--list)."),
    ] = "digits-lt",
    target: Annotated[list[str] | None, typer.Option(help="Column to predict; repeat for several.")] = None,
    multilabel: Annotated[bool, typer.Option("--multilabel", help="The targets are yes/no labels.")] = False,
    soft: Annotated[bool, typer.Option("--soft", help="The targets are class probabilities or votes.")] = False,
    types: Annotated[
        list[str] | None,
        typer.Option(help="What a column is, COLUMN=number, category, date, text or ignore; repeat, or use commas."),
    ] = None,
    encoding: Annotated[str | None, typer.Option(help="Encoding of a text file, such as latin-1.")] = None,
    rare: Annotated[
        Rare | None, typer.Option(help="What to do with classes of one row: make them one class, or leave them out.")
    ] = None,
    losses: Annotated[
        list[str] | None,
        typer.Option(
            "--losses",
            "--loss",
            help="Losses for the network, separated by commas: names, package.module:Name, or all; with +prior-off or "
            "+rule so decided. All losses and models that fit if --losses and --models are left out.",
        ),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--models",
            "--model",
            help="Other models, separated by commas: names such as logistic or hist-gb-balanced, package.module:Name, "
            "or all; with +prior-off or +rule so decided.",
        ),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="What decides: the name of a metric (--list), or a CSV file of costs.")
    ] = None,
    save: Annotated[
        str | None, typer.Option(help="Which contender to save; the simplest of the best if left out.")
    ] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Choose each loss's learning rate on validation rows, from three.")
    ] = False,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Random splits, windows of --time, or rounds of --folds; 5, of folds 1 if left out."),
    ] = None,
    folds: Annotated[
        int | None, typer.Option(min=2, help="Split into so many folds, each tested on once a round.")
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="Column whose equal values are never on both sides of a split; no feature.")
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="Column by which to train on earlier and test on later rows; no feature.")
    ] = None,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Folder for the results.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted comparison.")] = False,
    jobs: Annotated[int, typer.Option(help="Processes; -1 is one a processor.")] = -1,
    test_fraction: Annotated[
        float | None, typer.Option(min=0.05, max=0.9, help="Share of the rows to test on; 0.25 if left out.")
    ] = None,
    hidden: Annotated[
        str, typer.Option(help="Widths of the hidden layers, such as 128 or 256,64; 0 is linear.")
    ] = "128",
    epochs: Annotated[int, typer.Option(min=1, help="Most epochs; early stopping may take fewer.")] = 100,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Rows a step; 128 if left out, more where there are many rows.")
    ] = None,
    learning_rate: Annotated[float, typer.Option(min=0.0)] = 3e-3,
    device: Annotated[str, typer.Option(help="Where networks are trained: cpu, cuda.")] = "cpu",
    cluster: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler whose workers train, such as tcp://10.0.0.5:8786.")
    ] = None,
    log: Annotated[Tracker | None, typer.Option(help="Write each run to an experiment tracker too.")] = None,
    list_names: Annotated[bool, typer.Option("--list", help="List the named data sets and the losses.")] = False,
) -> None:
    """Train losses and models on the same splits, and say which served."""
    if list_names:
        _print_names()
        return
    keep_little()
    dataset = load(
        data,
        target=target or (),
        multilabel=multilabel,
        soft=soft,
        encoding=encoding,
        kinds=chosen_kinds(types or []),
        group=group,
        time=time,
    )
    if rare is not None:
        dataset = without_rare(dataset, rare)
    pace = pace_for(len(dataset.features), batch_size)
    if note := pace_note(pace):
        dataset = replace(dataset, notes=(*dataset.notes, note))
    judged_by = None if metric is None else chosen_metric(metric, dataset.task, dataset.class_names)
    contenders, notes = chosen(
        dataset.task,
        losses=_names(losses),
        models=_names(models),
        sizes=[len(classes) for classes in dataset.class_names],
        decides=judged_by is None or bool(judged_by.metric().rule),
    )
    plan = Plan(
        contenders=contenders,
        notes=notes,
        metric=judged_by,
        tune=tune,
        save=save,
        command=shlex.join(["equilog", *sys.argv[1:]]),
        seeds=seeds or (5 if folds is None else 1),
        test_fraction=test_fraction,
        folds=folds,
        model=ModelSettings(
            hidden_units=_widths(hidden),
            max_epochs=epochs,
            **pace,
            learning_rate=learning_rate,
            device=device,
        ),
    )
    folder = out_dir or _default_folder(Path(data).stem, resume)
    logged = log_to(log, dataset.name, folder, {"data": dataset.name, **asdict(plan.model)})
    with _terminable(), on_cluster(cluster):
        comparison = _compared(dataset, plan, folder, jobs=jobs, resume=resume, finished=logged)
    print_results(out, comparison.results)
    written = ["results.json", "report.html", "tables/", *(["model/"] if comparison.model else [])]
    out.print(Text(f"Written to {comparison.folder}: {', '.join(written)}"), soft_wrap=True)
    if comparison.interrupted:
        err.print(Text("interrupted; the same command with --resume goes on from here", style="yellow"))
        raise typer.Exit(130)
    if comparison.failures:
        raise typer.Exit(1)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM, as a scheduler or a shutdown sends it, end a comparison as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _compared(
    dataset: Dataset, plan: Plan, folder: Path, *, jobs: int, resume: bool, finished: Log | None
) -> experiment.Comparison:
    """Compare under a progress bar."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=err,
        # The time left goes by all runs: one may take longer than the half minute that is looked back otherwise.
        speed_estimate_period=float("inf"),
    )
    bar = progress.add_task("training", start=False, visible=False)

    def started(total: int, done: int, notes: Sequence[str]) -> None:
        for note in notes:
            progress.console.print(Text(_plain(note), style="dim"), soft_wrap=True)
        progress.update(bar, total=total, completed=done, visible=True)
        progress.start_task(bar)

    def advanced(failure: Failure | None) -> None:
        if failure is not None:
            progress.console.print(Text(f"failed: {_plain(failure.reason)}", style="red"), soft_wrap=True)
        progress.advance(bar)

    with progress:
        return experiment.compare(
            dataset,
            plan,
            folder,
            jobs=jobs,
            resume=resume,
            started=started,
            advanced=advanced,
            finished=finished,
        )


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="Folder model/ that `equilog compare` wrote.")],
    data: Annotated[Path, typer.Argument(help="File with the same feature columns, of any format that compare reads.")],
    out_file: Annotated[Path, typer.Option("--out", help="CSV file to write; - is the terminal.")] = Path(
        "predictions.csv"
    ),
    identifiers: Annotated[
        list[str] | None,
        typer.Option("--id", help="Column of the file to put before the predictions; those of training if left out."),
    ] = None,
    encoding: Annotated[str | None, typer.Option(help="Encoding of a text file, such as latin-1.")] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Take columns that the file lacks as missing in every row.")
    ] = False,
) -> None:
    """Write the predicted classes of new rows, with their balanced and posterior probabilities.

    Warns where the rows differ from those of training: categories never seen, cells that are no numbers or dates,
    classes of other frequencies.
    """
    loaded = bundle.load(model)
    rows = read_rows(data, encoding)
    require_columns(rows.columns, identifiers or (), data.name)
    warnings = []
    if allow_missing:
        rows, lacking = loaded.complete(rows)
        warnings += [f'{data.name} has no column "{name}": taken as missing in every row.' for name in lacking]
    predictions = loaded.predictions(rows, data.name)
    warnings += loaded.drift(rows, predictions)
    for warning in warnings:
        err.print(Text(f"warning: {_plain(warning)}", style="yellow"), soft_wrap=True)
    kept = identifiers or [name for name in loaded.identifiers if name in rows.columns]
    predictions = pd.concat([rows[list(dict.fromkeys(kept))], predictions], axis=1)
    if str(out_file) == "-":
        predictions.to_csv(sys.stdout, index=False)
        return
    with replacing(out_file) as new:
        predictions.to_csv(new, index=False)
    err.print(Text(f"Written to {out_file}: {len(predictions)} rows"), soft_wrap=True)


@app.command()
def verify(
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    figures: Annotated[Path | None, typer.Option(help="Folder for one SVG per claim worth seeing.")] = None,
) -> None:
    """Compute every claim about the losses anew and compare it with what it must be; exit status 1 if one fails."""
    try:
        status = run_checks(json, figures)
    except ModuleNotFoundError as error:
        raise DataError(
            f"--figures needs {error.name}, which is not installed: pip install 'equilog[figures]'"
        ) from error
    except OSError as error:
        raise DataError(f"--figures: cannot write {error.filename or figures}: {error.strerror}") from error
    raise typer.Exit(status)


def _names(options: Sequence[str] | None) -> list[str]:
    """Return what an option names that may be repeated and separated by commas."""
    return [name.strip() for listed in options or () for name in listed.split(",") if name.strip()]


def _print_names() -> None:
    for title, rows in (
        ("Data sets", [(name, named.summary) for name, named in NAMED.items()]),
        ("Losses", [(entry.name, entry.description) for entry in LOSSES.values()]),
        (
            "Models, also NAME-balanced",
            [
                (entry.name, entry.summary + ("" if is_installed(entry.name) else " (not installed)"))
                for entry in ESTIMATORS.values()
            ],
        ),
        ("Decisions, as in hist-gb+rule", list(DECISIONS.items())),
        (
            "Metrics, also f_beta=2 and recall_at_precision=0.9",
            [(entry.name, f"{entry.meaning} ({', '.join(sorted(entry.scorers))})") for entry in METRICS.values()],
        ),
    ):
        table = Table(title=title, title_justify="left", box=None, show_header=False)
        for row in rows:
            table.add_row(*map(Text, row))
        out.print(table)


def _widths(hidden: str) -> tuple[int, ...]:
    try:
        widths = tuple(int(width) for width in hidden.split(","))
    except ValueError:
        widths = (-1,)
    if any(width < 0 for width in widths) or (0 in widths and widths != (0,)):
        raise DataError(f'--hidden must be widths such as 128 or 256,64, or 0 for a linear model; got "{hidden}".')
    return () if widths == (0,) else widths


def _default_folder(name: str, resume: bool) -> Path:
    """Return equilog-out/NAME, numbered so that no earlier results are in the way; the latest of them to resume."""
    folders = [Path("equilog-out", name if number == 1 else f"{name}-{number}") for number in range(1, 10_000)]
    free = next(i for i, folder in enumerate(folders) if not folder.exists())
    return folders[max(free - 1, 0)] if resume else folders[free]


def _plain(text: object) -> str:
    """Return text without control characters: names from a file must not steer the terminal."""
    return "".join(char if char.isprintable() else " " for char in str(text))


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
