"""Files to tables, one reader for each ending, with every fault said in the terms of the file."""

import json
import math
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from equilog.compare.data.numerals import Mark
from equilog.compare.data.separated import ending, guessed_encoding, known_encoding, opened, read_separated
from equilog.compare.errors import DataError
from equilog.error_text import listed


@dataclass(frozen=True)
class Table:
    """What a file holds."""

    frame: pd.DataFrame
    groups: dict[str, list[str]] = field(default_factory=dict)
    """What became several columns, arrays of an NPZ file or lists of numbers, so that --target may name it."""
    decimal: Mark = "."
    """The decimal mark in text that does not show which it is."""
    notes: tuple[str, ...] = ()


def read_table(path: Path, encoding: str | None = None) -> Table:
    """Read a file by its ending.

    Args:
        path: the file.
        encoding: of text; found out if None.

    Raises:
        DataError: names the file, what is wrong with it and what to do.
    """
    if encoding is not None:
        encoding = known_encoding(encoding)
    if not path.exists():
        raise DataError(f"{path}: no such file.")
    if not path.is_file():
        raise DataError(f"{path} is not a file. Name one {_known_endings()} file.")
    reader = READERS.get(ending(path))
    if reader is None or (path.suffix.lower() == ".gz" and reader not in (_read_text, _read_json_lines)):
        raise DataError(f'{path.name}: files ending in "{path.suffix}" are not read. Use {_known_endings()}.')
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path.name} is empty.")
        table = reader(path, encoding)
    except (OSError, EOFError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise DataError(f"{path.name} cannot be read: {reason}.") from error
    frame = table.frame
    if frame.columns.has_duplicates:
        twice = frame.columns[frame.columns.duplicated()].unique()
        raise DataError(f"{path.name} has more than one column named {listed(twice)}. Give each its own name.")
    if frame.empty:
        raise DataError(f"{path.name} has no rows.")
    return table


def _read_text(path: Path, encoding: str | None) -> Table:
    frame, separator = read_separated(path, encoding)
    # Where semicolons separate, the comma is free for decimals and usually means them.
    return Table(frame, decimal="," if separator == ";" else ".")


def _read_json_lines(path: Path, encoding: str | None) -> Table:
    records = []
    with opened(path, encoding or guessed_encoding(path)) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path.name}: line {number} is no JSON: {error}.") from error
            if not isinstance(record, dict):
                raise DataError(f'{path.name}: line {number} is no object. Write a row as {{"column": value}}.')
            records.append(dict(_flat(record)))
    # As objects: a whole number stays one though another row lacks it.
    return Table(_named(pd.DataFrame(records, dtype=object)))


def _flat(record: dict[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a record by name, those of a record in it by both names, as Parquet's are."""
    for name, value in record.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{within}{name}.")
        else:
            yield f"{within}{name}", value


def _read_excel(path: Path, encoding: str | None) -> Table:
    del encoding
    try:
        sheets = pd.read_excel(path, sheet_name=None, engine="calamine", header=None, dtype=object, na_filter=False)
    except ImportError as error:
        raise DataError(f"{path.name} needs python-calamine: pip install 'equilog[compare]'.") from error
    except Exception as error:  # The engine has errors of its own, which are no part of its interface.
        raise DataError(f"{path.name} is not a workbook that can be read: {error}") from error
    filled = {name: cells.replace("", None).dropna(how="all") for name, cells in sheets.items()}
    filled = {
        name: _without_title(cells.dropna(axis=1, how="all")) for name, cells in filled.items() if not cells.empty
    }
    if not filled:
        raise DataError(f"{path.name} is empty.")
    # A cover has words and no rows; where every sheet is so, the first tells what is wrong.
    (first, cells), *others = sorted(filled.items(), key=lambda sheet: len(sheet[1]) < 2)
    names = [f"Unnamed: {at}" if name is None else str(name) for at, name in enumerate(cells.iloc[0])]
    notes = (f'Sheet "{first}" was read; others were not: {listed(name for name, _ in others)}.',) if others else ()
    return Table(_named(cells.iloc[1:].set_axis(names, axis=1).reset_index(drop=True)), notes=notes)


def _without_title(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells of a sheet from the row of names on: above it may stand words, a cell a row."""
    several = cells.notna().sum(axis=1).to_numpy() > 1
    return cells.iloc[several.argmax() :] if several.any() else cells


def _read_parquet(path: Path, encoding: str | None) -> Table:
    del encoding
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
        twice = {name for name in table.column_names if table.column_names.count(name) > 1}
        if twice:
            raise DataError(f"{path.name} has more than one column named {listed(sorted(twice))}. Rename one.")
        table, groups = _spread(table)
        frame = table.to_pandas(types_mapper=pd.ArrowDtype)
    except (pa.ArrowException, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path.name} is not a Parquet file that can be read: {error}") from error
    if frame.index.names != [None]:
        frame = frame.reset_index()
    return Table(_named(frame.reset_index(drop=True)), groups)


def _spread(table: pa.Table) -> tuple[pa.Table, dict[str, list[str]]]:
    """Return a table whose records, and lists of so many fractions each, have a column for each part; and these."""
    while any(pa.types.is_struct(column.type) for column in table.schema):
        table = table.flatten()
    groups: dict[str, list[str]] = {}
    for name in table.column_names:
        cells = table[name]
        # Whole numbers and text may be labels, however many each row lists.
        if not _is_list(cells.type) or not pa.types.is_floating(cells.type.value_type) or cells.null_count:
            continue
        widths = pc.unique(pc.list_value_length(cells)).to_pylist()
        if len(widths) != 1 or widths == [0]:
            continue
        parts = pc.list_flatten(cells).to_numpy().reshape(len(cells), widths[0])
        groups[name] = [f"{name}_{part}" for part in range(widths[0])]
        at = table.column_names.index(name)
        table = table.remove_column(at)
        for part, called in enumerate(groups[name]):
            table = table.add_column(at + part, called, pa.array(parts[:, part]))
    return table, groups


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.set_axis([str(name).strip() for name in frame.columns], axis=1)


def _read_npz(path: Path, encoding: str | None) -> Table:
    del encoding
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path.name} is not an .npz file. Write it with numpy.savez.")
    try:
        # Unpickling would run code that the file brings along.
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: _native(archive[name]) for name in archive.files}
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{path.name} is not an .npz of numbers, text or dates: {error}") from error
    single = [name for name, array in arrays.items() if array.ndim == 0]
    arrays = {name: array for name, array in arrays.items() if array.ndim > 0}
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        sizes = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise DataError(f"{path.name}: the arrays have unequal numbers of rows: {sizes}.")
    parts: list[pd.DataFrame] = []
    groups: dict[str, list[str]] = {}
    for name, array in arrays.items():
        flat = array.reshape(len(array), math.prod(array.shape[1:]))
        groups[name] = [name] if array.ndim == 1 else [f"{name}_{i}" for i in range(flat.shape[1])]
        parts.append(pd.DataFrame(flat, columns=groups[name]))
    if not parts:
        raise DataError(f"{path.name} holds no array with rows.")
    notes = (f"Single values in the file were left out: {listed(single)}.",) if single else ()
    return Table(pd.concat(parts, axis=1), groups, notes=notes)


def _native(array: np.ndarray) -> np.ndarray:
    """Return an array in this machine's byte order, bytes as text."""
    if array.dtype.kind == "S":
        return np.char.decode(array, "utf-8")
    return array.astype(array.dtype.newbyteorder("="))


READERS: dict[str, Callable[[Path, str | None], Table]] = {
    ".csv": _read_text,
    ".tsv": _read_text,
    ".tab": _read_text,
    ".txt": _read_text,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": _read_parquet,
    ".pq": _read_parquet,
    ".xlsx": _read_excel,
    ".npz": _read_npz,
}
"""How each file ending is read."""


def _known_endings() -> str:
    *others, last = READERS
    return f"{', '.join(others)} or {last}"
