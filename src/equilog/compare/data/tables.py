"""A file to a data set: the targets set apart, the features read by what they are."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from equilog.baselines.registry import Task
from equilog.compare.data.columns import require_columns, require_finite
from equilog.compare.data.dataset import Dataset
from equilog.compare.data.gaps import MISSING
from equilog.compare.data.kinds import ChosenKind, typed_table
from equilog.compare.data.readers import Table, read_table
from equilog.compare.data.targets import encode
from equilog.compare.errors import DataError
from equilog.error_text import listed


def load_table(
    path: str | Path,
    *,
    target: Sequence[str],
    multilabel: bool = False,
    soft: bool = False,
    encoding: str | None = None,
    kinds: Mapping[str, ChosenKind] | None = None,
) -> Dataset:
    """Read a file and set its target columns apart from the features.

    Args:
        path: a .csv, .tsv or .txt (separated by comma, semicolon, tab or bar), .jsonl, .parquet, .xlsx or .npz file;
            text also as .gz. In an .npz every array is a column, or several where it has more dimensions; X and y
            are the features and the target unless others are named.
        target: columns to predict. Each has its own classes, unless one of the next two is set.
        multilabel: the target columns hold yes/no, true/false, 0/1 or -1/1, a label each; or one column lists the
            labels of each row, separated by ; | or a comma, or as a list.
        soft: the two or more target columns hold probabilities or votes of the classes they are named after.
        encoding: of text; UTF-8, or what the first bytes say, if left out.
        kinds: what feature columns are; inferred for the others.

    Raises:
        DataError: names the file, column and row at fault and says what to do.
    """
    if multilabel and soft:
        raise DataError("The targets are either labels (--multilabel) or probabilities (--soft), not both.")
    task: Task = "multilabel" if multilabel else "soft" if soft else "multiclass"
    path = Path(path)
    table = read_table(path, encoding)
    columns = _target_columns(table, list(target), path.name)
    labels, rows = encode(table.frame[columns], task, table.decimal)
    features = table.frame.drop(columns=columns)[rows].reset_index(drop=True)
    if features.columns.empty:
        raise DataError(f"{path.name} has no column besides the target: there is nothing to predict it from.")
    require_columns(features.columns, kinds or {}, f"{path.name}, target left out,")
    typed = typed_table(_without_markers(features), decimal=table.decimal, kinds=kinds)
    amounts = typed.frame.select_dtypes("number")
    require_finite(list(amounts.columns), amounts.to_numpy(np.float64), np.flatnonzero(rows).tolist())
    return Dataset(
        name=path.name,
        task=task,
        features=typed.frame,
        target=labels.values,
        target_names=labels.target_names,
        class_names=labels.class_names,
        notes=(*table.notes, *labels.notes, *typed.notes),
        columns=typed.columns,
    )


def read_rows(path: str | Path, encoding: str | None = None) -> pd.DataFrame:
    """Read the rows to predict for, their cells as the file holds them: how to read them is what the model knows.

    Raises:
        DataError: as `load_table`.
    """
    return _without_markers(read_table(Path(path), encoding).frame)


def _without_markers(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the columns, what is missing for certain as missing."""
    text: pd.DataFrame = frame.select_dtypes("str")
    return frame.assign(**text.where(~text.apply(lambda column: column.str.strip().isin(MISSING))))


def _target_columns(table: Table, target: list[str], source: str) -> list[str]:
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
