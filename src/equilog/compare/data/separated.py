"""Text files of separated cells: which encoding, which separator, where the names are.

DuckDB's sniffer finds separators as well, but drops the line of names where a later row is longer; polars and pandas
sniff less. So the few lines here do, and pandas reads.
"""

import codecs
import csv
import gzip
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import pandas as pd

from equilog.compare.errors import DataError
from equilog.error_text import listed

SNIFFED = 1 << 18
"""Letters at the beginning by which the separator is found."""

RECORDS = 50
"""Of which so many rows are looked at."""

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""How a file may say its encoding; UTF-32 before UTF-16, whose mark it begins with."""


@dataclass(frozen=True)
class Layout:
    """How a file is to be read."""

    separator: str
    skipped: int
    """Lines before the names."""
    names: list[str]


def read_separated(path: Path, encoding: str | None) -> tuple[pd.DataFrame, str]:
    """Return a file's cells as text, "" where empty, and its separator.

    Args:
        path: the file, compressed where its name ends in .gz.
        encoding: the name of its encoding; UTF-8, or what the first bytes say, if None.

    Raises:
        DataError: names the fault of the file.
    """
    encoding = encoding or guessed_encoding(path)
    try:
        with opened(path, encoding) as file:
            layout = _layout(file.read(SNIFFED), path)
        with warnings.catch_warnings():
            # Without this, cells that have no column are dropped and only a warning is given.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path,
                sep=layout.separator,
                skiprows=layout.skipped,
                index_col=False,
                encoding=encoding,
                dtype=str,
                na_filter=False,
            )
    except UnicodeError as error:
        place = f" (byte {error.start})" if isinstance(error, UnicodeDecodeError) else ""
        raise DataError(
            f"{path.name} is not {_title(encoding)} text{place}. Name its encoding, such as --encoding latin-1 or "
            "--encoding cp1252, or save it as UTF-8."
        ) from error
    except pd.errors.ParserWarning as error:
        raise DataError(
            f"{path.name}: rows have more cells than the {len(layout.names)} of the header, {listed(layout.names)}. "
            "Name every column; a title above the names must go."
        ) from error
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{path.name} is empty.") from error
    except (pd.errors.ParserError, csv.Error) as error:
        reason = str(error).removeprefix("Error tokenizing data. C error: ").strip()
        raise DataError(f"{path.name} is not a regular table: {reason}.") from error
    return frame.set_axis(layout.names, axis=1), layout.separator


def opened(path: Path, encoding: str) -> IO[str]:
    """Return a file opened as text, line ends as they are."""
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    return cast(IO[str], opener(path, "rt", encoding=encoding, newline=""))


def ending(path: Path) -> str:
    """Return the ending of a file's name in lower case, that before .gz where it is compressed.

    Example:
        >>> ending(Path("rows.TSV.gz")), ending(Path("rows.csv"))
        ('.tsv', '.csv')
    """
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


def guessed_encoding(path: Path) -> str:
    """Return the encoding that the first bytes show: by their mark, or by zeros, which UTF-8 text has none of."""
    with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb") as file:
        start = file.read(200)
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if start.startswith(mark):
            return encoding
    if start.count(0) > len(start) // 4:
        return "utf-16-le" if start[1::2].count(0) > start[::2].count(0) else "utf-16-be"
    return "utf-8"


def known_encoding(name: str) -> str:
    """Return the name of an encoding that Python knows.

    Raises:
        DataError: it knows none of that name.
    """
    try:
        return codecs.lookup(name).name
    except LookupError as error:
        raise DataError(f'--encoding {name}: no encoding has that name. Try "utf-8", "latin-1" or "cp1252".') from error


def _title(encoding: str) -> str:
    return "UTF-8" if encoding.startswith("utf-8") else encoding


def _layout(start: str, path: Path) -> Layout:
    lines = start.splitlines(keepends=True)
    skipped = 0
    separators = "\t" if ending(path) in {".tsv", ".tab"} else ",;\t|"
    while skipped < len(lines):
        line = lines[skipped].strip()
        if said := re.fullmatch(r'"?sep=(.)"?', line, re.IGNORECASE):
            # Excel's own way to name the separator.
            separators = said[1]
        elif line.strip('",;|'):
            break
        skipped += 1
    rows = {separator: _rows(lines[skipped:], separator) for separator in separators}
    separator = max(separators, key=lambda separator: _fit(rows[separator]))
    names = [name.strip() for name in (rows[separator] or [[]])[0]]
    # pandas would rename the second of two equal names, and nobody would learn of it.
    twice = {name for name in names if name and names.count(name) > 1}
    if twice:
        raise DataError(
            f"{path.name} has more than one column named {listed(sorted(twice))}. "
            "Give each its own name; if the first line is data, add a line of names above it."
        )
    return Layout(separator, skipped, [name or f"Unnamed: {at}" for at, name in enumerate(names)])


def _rows(lines: list[str], separator: str) -> list[list[str]]:
    rows = []
    try:
        for row in csv.reader(lines, delimiter=separator):
            if row:
                rows.append(row)
            if len(rows) == RECORDS:
                break
    except csv.Error:
        return []
    return rows


def _fit(rows: list[list[str]]) -> tuple[bool, float, int]:
    """Return how well a separator fits: that it separates names, the share of rows as long as these, their number."""
    if not rows:
        return False, 0.0, 0
    width = len(rows[0])
    return width > 1, round(sum(len(row) == width for row in rows) / len(rows), 1), width
