"""A column that says how rows may be split: which belong together, or which came first."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api import types

from equilog.compare.data.columns import as_text, require_columns
from equilog.compare.data.dataset import Dataset, SplitColumn
from equilog.compare.errors import DataError


def set_apart(dataset: Dataset, *, group: str | None = None, time: str | None = None) -> Dataset:
    """Return the data set split by a column, which is no feature any more.

    What a row belongs to tells nothing of rows of other groups; and all later times lie beyond those trained on, where
    a model says nothing that it has learned. Rows without a value are left out, and a note says how many.

    Args:
        dataset: what was loaded.
        group: the column whose equal values belong together.
        time: the column, of dates or numbers, by which the rows are ordered.

    Raises:
        DataError: both columns are given, there is no such column, it has one value only or cannot be ordered, or it
            is the only feature.
    """
    if group is not None and time is not None:
        raise DataError("Splits are either by groups (--group) or by time (--time), not both.")
    name = group if group is not None else time
    if name is None:
        return dataset
    by: Literal["group", "time"] = "group" if group is not None else "time"
    require_columns(dataset.features.columns, [name], f"{dataset.name}, target left out,")
    column = dataset.features[name]
    if by == "time" and not (types.is_numeric_dtype(column.dtype) or types.is_datetime64_any_dtype(column.dtype)):
        raise DataError(
            f'--time {name}: "{column.dropna().iloc[0]}" and other cells are neither dates nor numbers, which could be '
            f"ordered. Write dates as year-month-day, or say --types {name}=date."
        )
    known = column.notna().to_numpy()
    values = _codes(column[known]) if by == "group" else _ranks(column[known])
    if values.max(initial=0) == 0:
        what = "group: no row could be tested on" if by == "group" else "time: no row is later than another"
        raise DataError(f"--{by} {name}: all rows are of one {what}. Leave --{by} out, or name another column.")
    if dataset.features.shape[1] == 1:
        raise DataError(f'{dataset.name} has no column besides the target and "{name}" to predict from. Add columns.')
    columns = None if dataset.columns is None else {key: col for key, col in dataset.columns.items() if key != name}
    return replace(
        replace(dataset, features=dataset.features.drop(columns=name), columns=columns).of_rows(known),
        split_column=SplitColumn(by, name, values),
        notes=(*dataset.notes, *_notes(by, name, values, int((~known).sum()), len(known))),
    )


def _codes(column: pd.Series) -> NDArray[np.int64]:
    return pd.factorize(as_text(column))[0].astype(np.int64)


def _ranks(column: pd.Series) -> NDArray[np.int64]:
    return column.rank(method="dense").to_numpy().astype(np.int64) - 1


def _notes(by: str, name: str, values: NDArray[np.int64], unknown: int, rows: int) -> list[str]:
    notes = [f'{unknown} of {rows} rows have no "{name}" and were left out.'] if unknown else []
    if by == "group":
        notes.append(
            f'Rows of one "{name}" are never on both sides of a split ({values.max() + 1} groups); the column is no '
            "feature."
        )
    else:
        notes.append(
            f'Every split trains on the earlier rows by "{name}" and tests on later ones; the column is no feature, '
            "for all later values lie beyond those trained on."
        )
    return notes
