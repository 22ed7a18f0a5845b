"""Target columns to arrays: classes, labels, or a distribution over classes."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api import types
from sklearn.preprocessing import MultiLabelBinarizer

from equilog.compare.columns import as_text, plain
from equilog.compare.errors import DataError
from equilog.names import listed
from equilog.registry import Task

MANY_NUMBERS = 20
"""More different numbers than this in a target need a second look: they may be a quantity."""

TRUE_OR_FALSE = {"0": 0, "1": 1, "false": 0, "true": 1}
"""What the cells of a label column may say, in lower case."""


@dataclass(frozen=True)
class EncodedTarget:
    """Target columns as a `Dataset` holds them; the fields mean what they mean there."""

    values: NDArray[np.int64] | NDArray[np.float64]
    target_names: tuple[str, ...]
    class_names: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def encode(frame: pd.DataFrame, task: Task) -> tuple[EncodedTarget, NDArray[np.bool_]]:
    """Turn the target columns into arrays.

    Args:
        frame: (n, k) the target columns as they were read.
        task: what they mean.

    Returns:
        The arrays over the rows that have their target, and (n,) which rows these are.

    Raises:
        DataError: names the column (and row, counted from 1 without the header) that does not fit the task.
    """
    frame = pd.DataFrame({name: plain(frame[name]) for name in frame.columns})
    lists = task == "multilabel" and len(frame.columns) == 1 and not _is_true_or_false(frame.iloc[:, 0])
    # An empty list of labels is an answer, an empty cell elsewhere is none.
    present = frame.notna().all(axis=1) | lists
    if not present.any():
        raise DataError(f"No row has all of its target: {listed(frame.columns)}. Fill the cells or name other columns.")
    encoded = (_label_lists if lists else ENCODERS[task])(frame[present])
    if not present.all():
        named = listed(f'"{name}"' for name in frame.columns[frame.isna().any()])
        note = f"{int((~present).sum())} of {len(frame)} rows have no {named} and were left out."
        encoded = replace(encoded, notes=(note, *encoded.notes))
    return encoded, present.to_numpy()


def _classes(frame: pd.DataFrame) -> EncodedTarget:
    codes, names = [], []
    for column in frame.columns:
        values, classes = pd.factorize(frame[column], sort=True)
        if len(classes) == 1:
            raise DataError(
                f'Target "{column}" has one class only ({as_text(pd.Series(classes))[0]}); there is nothing to tell '
                "apart. Name another column or add rows of other classes."
            )
        _refuse_quantity(frame[column], len(classes))
        codes.append(values)
        names.append(tuple(as_text(pd.Series(classes))))
    return EncodedTarget(np.stack(codes, axis=1).astype(np.int64), tuple(frame.columns), tuple(names))


def _refuse_quantity(column: pd.Series, distinct: int) -> None:
    if distinct <= MANY_NUMBERS:
        return
    numeric = types.is_numeric_dtype(column.dtype)
    fractional = numeric and bool((column % 1 != 0).any())
    if fractional or distinct > len(column) / 2:
        what = "a quantity" if numeric else "a name or free text"
        remedy = "Sort it into ranges (pandas.cut) or name" if numeric else "Name"
        raise DataError(
            f'Target "{column.name}" has {distinct} different values in {len(column)} rows: it looks like {what}, '
            f"not like classes. {remedy} a column whose values recur."
        )


def _true_or_false(column: pd.Series) -> pd.Series:
    return as_text(column).str.lower().map(TRUE_OR_FALSE)


def _is_true_or_false(column: pd.Series) -> bool:
    return bool(_true_or_false(column.dropna()).notna().all())


def _labels(frame: pd.DataFrame) -> EncodedTarget:
    values = frame.apply(_true_or_false)
    if values.isna().any(axis=None):
        row, column = np.argwhere(values.isna().to_numpy())[0]
        raise DataError(
            f'Label column "{frame.columns[column]}" holds "{frame.iloc[row, column]}" in row {frame.index[row] + 1}; '
            "with --multilabel a column must hold 0/1 or true/false, or be the only one and list the labels of each "
            "row separated by ; | or a comma."
        )
    name = frame.columns[0] if len(frame.columns) == 1 else "labels"
    return _used_labels(values.to_numpy(np.int64), list(frame.columns), name)


def _label_lists(frame: pd.DataFrame) -> EncodedTarget:
    name = frame.columns[0]
    text = as_text(frame[name]).fillna("")
    separator = next((mark for mark in ";|," if text.str.contains(mark, regex=False).any()), ";")
    binarizer = MultiLabelBinarizer()
    values = binarizer.fit_transform([{label.strip() for label in cell.split(separator)} - {""} for cell in text])
    encoded = _used_labels(values.astype(np.int64), list(binarizer.classes_), name)
    empty = int((values.sum(axis=1) == 0).sum())
    if not empty:
        return encoded
    note = f'{empty} of {len(text)} rows have an empty "{name}": taken as having none of the labels.'
    return replace(encoded, notes=(note, *encoded.notes))


def _used_labels(values: NDArray[np.int64], labels: list[str], name: str) -> EncodedTarget:
    varies = (values.min(axis=0, initial=1) == 0) & (values.max(axis=0, initial=0) == 1)
    if not varies.any():
        raise DataError(
            f'Target "{name}": every row has the same labels; there is nothing to tell apart. '
            "Name other columns or add rows."
        )
    alike = [label for label, keep in zip(labels, varies, strict=True) if not keep]
    notes = (f"Labels that all rows or none have were left out: {listed(alike)}.",) if alike else ()
    used = tuple(label for label, keep in zip(labels, varies, strict=True) if keep)
    return EncodedTarget(values[:, varies], (name,), (used,), notes)


def _distributions(frame: pd.DataFrame) -> EncodedTarget:
    if len(frame.columns) < 2:
        raise DataError(
            f'--soft needs two or more target columns, one a class; got only "{frame.columns[0]}". '
            "Name them all: --target A --target B."
        )
    for column in frame.columns:
        words = frame[column][pd.to_numeric(as_text(frame[column]), errors="coerce").isna()]
        if not words.empty:
            raise DataError(
                f'Target "{column}" holds "{words.iloc[0]}" in row {words.index[0] + 1}; with --soft it must hold '
                "probabilities or votes, that is numbers not below 0."
            )
    values = frame.to_numpy(np.float64)
    for fault, what in ((~np.isfinite(values), "an infinite number"), (values < 0, "a number below 0")):
        if fault.any():
            row, column = np.argwhere(fault)[0]
            raise DataError(
                f'Target "{frame.columns[column]}" holds {what} ({values[row, column]:g}) in row '
                f"{frame.index[row] + 1}; probabilities and votes are finite and not below 0."
            )
    total = values.sum(axis=1)
    if (total == 0).any():
        row = int(np.argmin(total))
        raise DataError(
            f"Row {frame.index[row] + 1} has 0 in every target column, so no class at all "
            f"({int((total == 0).sum())} such rows). Leave those cells empty to leave the rows out."
        )
    notes = []
    if not np.allclose(total, 1, atol=1e-6):
        notes.append(f"Target rows summed to between {total.min():g} and {total.max():g}; each was divided by its sum.")
    used = values.sum(axis=0) > 0
    if used.sum() == 1:
        raise DataError(f'Only "{frame.columns[used][0]}" has any probability; there is nothing to tell apart.')
    if not used.all():
        notes.append(f"Classes without any probability were left out: {listed(frame.columns[~used])}.")
    return EncodedTarget(values[:, used] / total[:, None], ("class",), (tuple(frame.columns[used]),), tuple(notes))


ENCODERS: dict[Task, Callable[[pd.DataFrame], EncodedTarget]] = {
    "multiclass": _classes,
    "multilabel": _labels,
    "soft": _distributions,
}
"""How the columns of each task become arrays."""
