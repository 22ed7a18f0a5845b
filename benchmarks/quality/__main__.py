"""Run the study, or what is still missing of it: python -m benchmarks.quality [--quick] [--tasks fashion ...].

Every finished training is a line of the results file. A run that was stopped, by Ctrl-C or a crash, goes on where it
was when it is started again.
"""

import argparse
from pathlib import Path

from benchmarks.quality.execute import execute
from benchmarks.quality.plan import Plan
from benchmarks.quality.store import Store
from benchmarks.quality.task import Task
from benchmarks.quality.tasks import all_tasks
from rich.console import Console

RESULTS = Path(__file__).parent / "results.jsonl"


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    console = Console()
    plan = Plan(
        tasks=_chosen(options.tasks, quick=options.quick),
        seeds=options.seeds or (2 if options.quick else None),
        quick=options.quick,
    )
    store = Store(options.results)
    execute(plan, store, jobs=options.jobs, console=console)
    console.print(
        f"{len(store.records)} trainings in {store.path}. python -m benchmarks.quality.report writes them up."
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="some tasks, two seeds, nothing tuned: ten minutes")
    parser.add_argument("--tasks", nargs="+", default=[], metavar="NAME", help="tasks whose name begins so")
    parser.add_argument("--seeds", type=int, help="seeds of each setting (5, or what the task says)")
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each (2)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the results")
    return parser


def _chosen(names: list[str], *, quick: bool) -> list[Task]:
    return [
        task
        for task in all_tasks().values()
        if (task.quick or not quick) and (not names or any(task.name.startswith(name) for name in names))
    ]


if __name__ == "__main__":
    main()
