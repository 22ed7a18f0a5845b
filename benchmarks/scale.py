"""Time and peak memory of `equilog compare` on a large table: numbers, categories, dates, text, and gaps in all.

`python benchmarks/scale.py` makes a table of 100,000 rows and 50 columns, runs the command on it with two contenders,
as a user would, and prints the seconds that passed and those that its processes computed. Then it runs it once more for
the most memory that they held together: the sum of what each holds alone and its part of what they share, which takes
the system so long to tell that it would spoil the seconds. Linux only.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

SECONDS = 0.1
"""Between two looks at the processes."""

CLASSES = ("none", "minor", "major", "total")
SHARES = (0.8, 0.15, 0.04, 0.01)

WORDS = [f"{start}{middle}{end}" for start in "bdfklmprst" for middle in "aeiou" for end in ("n", "rel", "st", "mo")]
"""200 of them."""


def table(rows: int, seed: int = 0) -> pd.DataFrame:
    """Return 49 features and the column "claim" of four classes, the rarest 1 % of the rows.

    30 columns of numbers, a third of them with gaps; 13 of categories, two to 1000 of them; 3 of dates; a sentence; an
    identifier; a constant.
    """
    random = np.random.default_rng(seed)
    hidden = random.normal(size=(rows, 6))
    score = hidden @ [1, 0.7, 0.5, -0.5, 0.3, 0] + random.normal(size=rows)
    frame: dict[str, object] = {"claim_id": [f"C{number:07d}" for number in random.permutation(rows)], "unit": "EUR"}
    for at in range(30):
        values = hidden[:, at % 6] * random.uniform(0.2, 1) + random.normal(size=rows)
        # Amounts, counts and measurements.
        number = pd.Series((np.exp(values).round(2), (values * 10 + 40).round(), values.round(4))[at % 3])
        frame[f"number_{at}"] = number.mask(random.random(rows) < 0.05) if at % 3 == 0 else number
    for at, count in enumerate((2, 3, 4, 5, 8, 10, 12, 20, 30, 50, 100, 300, 1000)):
        place = random.beta(1, 2, rows) * 0.7 + (hidden[:, at % 6] > 0) * 0.3
        names = np.array([f"{WORDS[(7 * at + code) % 200]}{code}" for code in range(count)], dtype=object)
        category = pd.Series(names[(place * count).astype(int).clip(0, count - 1)])
        frame[f"category_{at}"] = category.mask(random.random(rows) < 0.03) if at % 3 == 0 else category
    for at, form in enumerate(("%Y-%m-%d", "%d.%m.%Y", "%Y-%m-%d %H:%M")):
        dates = pd.Timestamp("2020-01-01") + pd.to_timedelta(random.integers(0, 2_000_000, rows), unit="min")
        written = pd.Series(dates.strftime(form))
        frame[f"date_{at}"] = written.mask(random.random(rows) < 0.1) if at == 1 else written
    chosen = random.zipf(1.3, (rows, 8)) % 200
    chosen[:, 0] = np.clip(score * 5 + 20, 0, 40)
    frame["remark"] = [" ".join(WORDS[word] for word in words) for words in chosen.tolist()]
    cuts = np.quantile(score, np.cumsum(SHARES)[:-1])
    frame["claim"] = np.array(CLASSES)[np.searchsorted(cuts, score)]
    return pd.DataFrame(frame)


def timed(command: list[str]) -> tuple[float, float, int]:
    """Return the seconds a command took, those its processes computed, and its status."""
    start = time.monotonic()
    status = subprocess.call(command)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic() - start, used.ru_utime + used.ru_stime, status


def peak(command: list[str]) -> float:
    """Return the most memory in MiB that the processes of a command held at a time."""
    most = 0.0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            most = max(most, sum(map(resident, family(process.pid))))
            time.sleep(SECONDS)
    return most


def family(pid: int) -> Iterator[int]:
    """Yield a process and all that it has started, and these in turn."""
    yield pid
    try:
        children = Path(f"/proc/{pid}/task").glob("*/children")
        for file in children:
            for child in file.read_text().split():
                yield from family(int(child))
    except OSError:  # It has ended.
        return


def resident(pid: int) -> float:
    """Return the memory of a process in MiB, what it shares being divided by those that share it."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(prog="python benchmarks/scale.py", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--ending", default="csv", choices=["csv", "parquet"])
    parser.add_argument("--keep", type=Path, help="folder for the table and the results, which are thrown away else")
    options, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        data = folder / f"claims-{options.rows}.{options.ending}"
        if not data.exists():
            made = table(options.rows)
            made.to_csv(data, index=False) if options.ending == "csv" else made.to_parquet(data)
        command = [sys.executable, "-m", "equilog", "compare", str(data), "--target", "claim"]
        if not any(word.startswith(("--loss", "--model")) for word in more):
            command += ["--losses", "log-balanced"]
        outs = [["--out", tempfile.mkdtemp(dir=folder)] for _ in range(2)]
        load = os.getloadavg()[0]
        wall, cpu, status = timed([*command, *more, *outs[0]])
        most = peak([*command, *more, *outs[1]])
    print(
        f"{options.rows:,} rows: {wall:.1f} s, {cpu:.1f} s of processor time, {most:,.0f} MiB at most; "
        f"load before {load:.2f}, {os.cpu_count()} processors, status {status}"
    )
    sys.exit(status)


if __name__ == "__main__":
    main()
