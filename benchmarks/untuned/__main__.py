"""Train each loss in cross-entropy's place at learning rates nobody tuned, and print what came of it.

Long-tailed digits, garments and tables, two networks each, SGD with and without momentum and AdamW; one thread. --write
FOLDER also writes untuned.json and untuned.md.
"""

import argparse
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from benchmarks.quality.settings import settings_for
from benchmarks.untuned.cases import CASES, Case
from benchmarks.untuned.plan import LOSSES, OPTIMIZERS
from benchmarks.untuned.report import Report, show, write
from benchmarks.untuned.run import run
from rich.console import Console
from rich.progress import Progress

from equilog import __version__


def main(arguments: Sequence[str] | None = None, cases: Sequence[Case] = CASES) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.untuned", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write the page and the data there")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each loss in each setting (%(default)s)")
    parser.add_argument(
        "--data", nargs="+", choices=list(dict.fromkeys(case.data for case in cases)), help="data sets (all)"
    )
    parser.add_argument(
        "--also",
        nargs="+",
        default=[],
        metavar="SETTING",
        help="more settings of benchmarks.quality, such as class-64-auto",
    )
    options = parser.parse_args(arguments)
    losses = list(dict.fromkeys([*LOSSES, *options.also]))
    try:
        settings_for("multiclass", tuple(losses))
    except ValueError as error:
        parser.error(str(error))
    chosen = [case for case in cases if not options.data or case.data in options.data]
    torch.set_num_threads(1)
    console = Console()
    start = time.perf_counter()
    rates = sum(len(optimizer.learning_rates) for optimizer in OPTIMIZERS)
    with Progress(console=console) as progress:
        bar = progress.add_task("trainings", total=len(chosen) * rates * len(losses) * options.seeds)
        results, left_out = run(chosen, OPTIMIZERS, losses, options.seeds, lambda: progress.advance(bar))
    environment = {
        "equilog": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": str(torch.get_num_threads()),
        "minutes": f"{(time.perf_counter() - start) / 60:.1f}",
    }
    report = Report(results, left_out, environment)
    if not results:
        parser.error(f"nothing to train on: {'; '.join(left_out.values())}")
    show(console, report)
    if options.write:
        write(options.write, report)


if __name__ == "__main__":
    main()
