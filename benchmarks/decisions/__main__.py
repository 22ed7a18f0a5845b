"""python -m benchmarks.decisions [--splits 10] [--tasks ...] [--cache FOLDER] [--resume FOLDER] [--write docs]."""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small matrices, and times of one thread

import pandas as pd
import torch
from benchmarks.decisions.measure import Record, decisions, shifts, speed
from benchmarks.decisions.report import section, write
from benchmarks.decisions.tasks import TASKS, Task
from joblib import Parallel, delayed

NAMES = {task.name: task for task in TASKS}


def one(task: Task, seed: int, cache: Path | None, finished: Path | None) -> tuple[list[Record], list[Record]]:
    torch.set_num_threads(1)
    path = None if finished is None else finished / f"{task.name}-{seed}.json"
    if path is not None and path.exists():
        decided, shifted = json.loads(path.read_text())
        return decided, shifted
    records = list(decisions(task, seed, cache)), list(shifts(task, seed, cache))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(records))
    return records


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decisions", description=__doc__)
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="seed of the first split")
    parser.add_argument("--tasks", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--cache", type=Path, help="folder that keeps the classifiers' probabilities for another run")
    parser.add_argument("--resume", type=Path, help="folder of finished splits, from which an interrupted run goes on")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--write", type=Path, help="folder of decisions.md, which gets the tables and the figure")
    options = parser.parse_args(arguments)
    seeds = range(options.first, options.first + options.splits)
    parts = Parallel(n_jobs=options.jobs, verbose=5)(
        delayed(one)(NAMES[name], seed, options.cache, options.resume) for seed in seeds for name in options.tasks
    )
    decided, shifted = (pd.DataFrame([record for part in parts for record in part[place]]) for place in (0, 1))
    timed = speed()
    print(section(decided, shifted, timed, "decisions.svg"))
    if options.write:
        write(options.write, decided, shifted, timed)


if __name__ == "__main__":
    main()
