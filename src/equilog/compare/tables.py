"""Files to tables: CSV, TSV, Parquet and NPZ, with every fault said in the terms of the file."""

import csv
import math
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow

from equilog.compare.columns import numbers, plain, require_columns
from equilog.compare.dataset import Dataset
from equilog.compare.errors import DataError
from equilog.compare.targets import encode
from equilog.names import listed
from equilog.registry import Task

MISSING = ["", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "#N/A"]
"""Cells of a text file that count as missing. "None" is not among them: it is a common name of a class."""


@dataclass(frozen=True)
class _Table:
    frame: pd.DataFrame
    groups: dict[str, list[str]] = field(default_factory=dict)
    """Arrays of an NPZ file that became several columns, so that --target may name the array."""
    notes: tuple[str, ...] = ()


def load_table(path: str | Path, *, target: Sequence[str], multilabel: bool = False, soft: bool = False) -> Dataset:
    """Read a CSV, TSV, Parquet or NPZ file and set its target columns apart from the features.

    Args:
        path: the file. A .csv or .txt may be separated by comma, semicolon (then 1,5 is a number), tab or bar.
            In an .npz every array is a column, or several where it has more dimensions; X and y are the
            features and the target unless others are named.
        target: columns to predict. Each has its own classes, unless one of the next two is set.
        multilabel: the target columns hold 0/1 or true/false, a label each; or one column lists the labels of
            each row, separated by ; | or a comma.
        soft: the two or more target columns hold probabilities or votes of the classes they are named after.

    Raises:
        DataError: names the file, column and row at fault and says what to do.
    """
    if multilabel and soft:
        raise DataError("The targets are either labels (--multilabel) or probabilities (--soft), not both.")
    task: Task = "multilabel" if multilabel else "soft" if soft else "multiclass"
    path = Path(path)
    table = _read(path)
    columns = _target_columns(table, list(target), path.name)
    labels, rows = encode(table.frame[columns], task)
    features, notes = _features(table.frame.drop(columns=columns)[rows])
    if features.columns.empty:
        raise DataError(f"{path.name} has no column besides the target: there is nothing to predict it from.")
    return Dataset(
        name=path.name,
        task=task,
        features=features.reset_index(drop=True),
        target=labels.values,
        target_names=labels.target_names,
        class_names=labels.class_names,
        notes=(*table.notes, *labels.notes, *notes),
    )


def read_features(path: str | Path) -> pd.DataFrame:
    """Read a file as `load_table` does, all columns being features: the rows to predict for.

    Raises:
        DataError: as `load_table`.
    """
    return _features(_read(Path(path)).frame)[0]


def _read(path: Path) -> _Table:
    if not path.exists():
        raise DataError(f"{path}: no such file.")
    if not path.is_file():
        raise DataError(f"{path} is not a file. Name one {_known_endings()} file.")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f'{path.name}: files ending in "{path.suffix}" are not read. Use {_known_endings()}.')
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path.name} is empty.")
        table = reader(path)
    except OSError as error:
        raise DataError(f"{path.name} cannot be read: {error.strerror or error}.") from error
    frame = table.frame
    if frame.columns.has_duplicates:
        twice = frame.columns[frame.columns.duplicated()].unique()
        raise DataError(f"{path.name} has more than one column named {listed(twice)}. Give each its own name.")
    if frame.empty:
        raise DataError(f"{path.name} has no rows.")
    return table


def _features(frame: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    notes: list[str] = []
    columns: dict[str, pd.Series] = {}
    for name in frame.columns:
        columns[name], note = numbers(plain(frame[name]))
        if note is not None:
            notes.append(note)
    features = pd.DataFrame(columns, index=frame.index)
    _require_finite(features.select_dtypes("number"))
    return features, tuple(notes)


def _require_finite(frame: pd.DataFrame) -> None:
    infinite = np.isinf(frame.to_numpy(np.float64))
    if infinite.any():
        row, column = np.argwhere(infinite)[0]
        raise DataError(
            f'Column "{frame.columns[column]}" holds an infinite number in row {frame.index[row] + 1} '
            f"({int(infinite.sum())} in all). Leave such cells empty or give them a finite value."
        )


def _target_columns(table: _Table, target: list[str], source: str) -> list[str]:
    if not target and "y" in (*table.groups, *table.frame.columns) and source.lower().endswith(".npz"):
        target = ["y"]
    if not target:
        raise DataError(
            f"Say which column of {source} is to be predicted: --target COLUMN. "
            f"It has {listed(table.frame.columns, 12)}."
        )
    columns = list(dict.fromkeys(column for name in target for column in table.groups.get(name, [name])))
    require_columns(table.frame.columns, columns, source)
    return columns


def _read_text(path: Path) -> _Table:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, separator = _header(file.readline(), path)
        with warnings.catch_warnings():
            # Without this, cells that have no column are dropped and only a warning is given.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path,
                sep=separator,
                # Where semicolons separate, the comma is free for decimals and usually means them.
                decimal="," if separator == ";" else ".",
                index_col=False,
                encoding="utf-8-sig",
                keep_default_na=False,
                na_values=MISSING,
                low_memory=False,
            )
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from error
    except pd.errors.ParserWarning as error:
        raise DataError(
            f"{path.name}: rows have more cells than the {len(header)} of the header. Name every column."
        ) from error
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{path.name} is empty.") from error
    except (pd.errors.ParserError, csv.Error) as error:
        reason = str(error).removeprefix("Error tokenizing data. C error: ").strip()
        raise DataError(f"{path.name} is not a regular table: {reason}.") from error
    return _Table(frame)


def _header(line: str, path: Path) -> tuple[list[str], str]:
    separators = "\t" if path.suffix.lower() in {".tsv", ".tab"} else ",;\t|"
    cells = {separator: next(csv.reader([line], delimiter=separator), []) for separator in separators}
    separator = max(separators, key=lambda separator: len(cells[separator]))
    header = [cell.strip() for cell in cells[separator]]
    # pandas would rename the second of two equal names, and nobody would learn of it.
    twice = {name for name in header if name and header.count(name) > 1}
    if twice:
        raise DataError(
            f"{path.name} has more than one column named {listed(sorted(twice))}. "
            "Give each its own name; if the first line is data, add a line of names above it."
        )
    return header, separator


def _read_parquet(path: Path) -> _Table:
    try:
        frame = pd.read_parquet(path)
    except (pyarrow.ArrowException, ValueError) as error:
        raise DataError(f"{path.name} is not a Parquet file that can be read: {error}") from error
    if frame.index.names != [None]:
        frame = frame.reset_index()
    return _Table(frame.set_axis(frame.columns.astype(str), axis=1).reset_index(drop=True))


def _read_npz(path: Path) -> _Table:
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path.name} is not an .npz file. Write it with numpy.savez.")
    try:
        # Unpickling would run code that the file brings along.
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
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
    return _Table(pd.concat(parts, axis=1), groups, notes)


READERS: dict[str, Callable[[Path], _Table]] = {
    ".csv": _read_text,
    ".tsv": _read_text,
    ".tab": _read_text,
    ".txt": _read_text,
    ".parquet": _read_parquet,
    ".pq": _read_parquet,
    ".npz": _read_npz,
}
"""How each file ending is read."""


def _known_endings() -> str:
    *others, last = READERS
    return f"{', '.join(others)} or {last}"
