"""Target columns to arrays: classes, labels, or a distribution over classes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.preprocessing import MultiLabelBinarizer

from equilog.baselines.registry import Task
from equilog.compare.data.columns import as_text, plain
from equilog.compare.data.gaps import MISSING, is_marker
from equilog.compare.data.label_lists import holds_lists, labels_of_cells
from equilog.compare.data.numerals import Mark, decimal_marks, numbers
from equilog.compare.errors import DataError
from equilog.error_text import listed

MANY_NUMBERS = 20
"""More different numbers than this in a target need a second look: they may be a quantity."""

TRUE_OR_FALSE = {
    "0": 0, "1": 1, "false": 0, "true": 1, "no": 0, "yes": 1, "n": 0, "y": 1, "f": 0, "t": 1, "off": 0, "on": 1,
}  # fmt: skip
"""What the cells of a label column may say, in lower case."""


@dataclass(frozen=True)
class EncodedTarget:
    """Target columns as a `Dataset` holds them; the fields mean what they mean there."""

    values: NDArray[np.int64] | NDArray[np.float64]
    target_names: tuple[str, ...]
    class_names: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def encode(frame: pd.DataFrame, task: Task, decimal: Mark = ".") -> tuple[EncodedTarget, NDArray[np.bool_]]:
    """Turn the target columns into arrays.

    Args:
        frame: (n, k) the target columns as they were read.
        task: what they mean.
        decimal: the decimal mark in text that does not show which it is.

    Returns:
        The arrays over the rows that have their target, and (n,) which rows these are.

    Raises:
        DataError: names the column (and row, counted from 1 without the header) that does not fit the task.
    """
    if task == "multilabel" and len(frame.columns) == 1 and not _is_true_or_false(frame.iloc[:, 0]):
        # An empty list of labels is an answer, an empty cell elsewhere is none.
        return _label_lists(frame.iloc[:, 0]), np.ones(len(frame), dtype=bool)
    for name in frame.columns:
        if holds_lists(frame[name]):
            raise DataError(
                f'Target "{name}" holds lists: with --multilabel, as the only target, it lists the labels of each row.'
            )
    frame = pd.DataFrame({name: _names(frame[name]) for name in frame.columns})
    frame = frame.apply(_without_gaps, decimal=decimal) if task != "multilabel" else frame
    present = frame.notna().all(axis=1)
    if not present.any():
        raise DataError(f"No row has all of its target: {listed(frame.columns)}. Fill the cells or name other columns.")
    rows = frame[present]
    encoded = (
        _classes(rows) if task == "multiclass" else _labels(rows) if task == "multilabel" else _votes(rows, decimal)
    )
    if not present.all():
        named = listed(f'"{name}"' for name in frame.columns[frame.isna().any()])
        note = f"{int((~present).sum())} of {len(frame)} rows have no {named} and were left out."
        encoded = replace(encoded, notes=(note, *encoded.notes))
    return encoded, present.to_numpy()


def _names(column: pd.Series) -> pd.Series:
    """Return the cells as they stand, blanks around them off: 007 is not 7, and every digit of a number counts."""
    read = plain(column)
    text = as_text(read if isinstance(read.dtype, pd.DatetimeTZDtype) else column).str.strip()
    return text.where(text != "")


def _without_gaps(text: pd.Series, decimal: Mark) -> pd.Series:
    """Return a target without the cells that stand for a gap where all others are numbers; NA among names is a name."""
    marker = is_marker(text)
    others = text[text.notna() & ~marker]
    if others.empty or numbers(others, decimal).isna().any():
        return text
    return text.where(~marker)


def _classes(frame: pd.DataFrame) -> EncodedTarget:
    codes, names, notes = [], [], []
    for column in frame.columns:
        text = frame[column]
        classes = ordered(text.unique())
        if len(classes) == 1:
            raise DataError(
                f'Target "{column}" has one class only ({classes[0]}); there is nothing to tell '
                "apart. Name another column or add rows of other classes."
            )
        _refuse_quantity(text, classes)
        notes += [
            f'"{marker}" is taken for a class of "{column}", with {int((text == marker).sum())} rows. Leave cells '
            "empty that have none."
            for marker in MISSING
            if marker in classes
        ]
        codes.append(pd.Categorical(text, categories=classes).codes)
        names.append(tuple(classes))
    return EncodedTarget(np.stack(codes, axis=1).astype(np.int64), tuple(frame.columns), tuple(names), tuple(notes))


def ordered(names: Iterable[str]) -> list[str]:
    """Return names in the order of numbers where all are numbers, else of text.

    Example:
        >>> ordered(["10", "2", "1"]), ordered(["10", "2", "x"])
        (['1', '2', '10'], ['10', '2', 'x'])
    """
    text = pd.Series(sorted(names), dtype="str")
    values = numbers(text, ".")
    return text.tolist() if values.isna().any() else text[values.argsort(kind="stable")].tolist()


def _refuse_quantity(column: pd.Series, classes: Sequence[str]) -> None:
    if len(classes) <= MANY_NUMBERS:
        return
    values = numbers(pd.Series(classes, dtype="str"), ".")
    numeric = bool(values.notna().all())
    fractional = numeric and bool((values % 1 != 0).any())
    if fractional or len(classes) > len(column) / 2:
        what = "a quantity" if numeric else "a name or free text"
        remedy = "Sort it into ranges (pandas.cut) or name" if numeric else "Name"
        raise DataError(
            f'Target "{column.name}" has {len(classes)} different values in {len(column)} rows: it looks like {what}, '
            f"not like classes. {remedy} a column whose values recur."
        )


def _true_or_false(names: pd.Series) -> pd.Series:
    answers = names.str.lower().str.replace(r"\.0+$", "", regex=True)
    # -1 is "no" beside 1; with 0 beside them it could mean anything.
    known = {**TRUE_OR_FALSE, "-1": 0} if not answers.isin(["0"]).any() else TRUE_OR_FALSE
    return answers.map(known)


def is_true_or_false(names: Sequence[str]) -> bool:
    """Return whether classes of these names are a yes and a no."""
    return bool(_true_or_false(pd.Series(names, dtype="str")).notna().all())


def _is_true_or_false(column: pd.Series) -> bool:
    return not holds_lists(column) and bool(_true_or_false(_names(column).dropna()).notna().all())


def _labels(frame: pd.DataFrame) -> EncodedTarget:
    values = frame.apply(_true_or_false)
    if values.isna().any(axis=None):
        row, column = np.argwhere(values.isna().to_numpy())[0]
        raise DataError(
            f'Label column "{frame.columns[column]}" holds "{frame.iloc[row, column]}" in row {frame.index[row] + 1}; '
            "with --multilabel a column must hold 0/1, -1/1, yes/no or true/false, or be the only one and list the "
            "labels of each row, separated by ; | or a comma."
        )
    name = frame.columns[0] if len(frame.columns) == 1 else "labels"
    return _used_labels(values.to_numpy(np.int64), list(frame.columns), name)


def _label_lists(column: pd.Series) -> EncodedTarget:
    """Return the labels of a column that lists those of each row."""
    name = str(column.name)
    lists = labels_of_cells(column)
    labels = ordered({label for labels in lists for label in labels})
    values = MultiLabelBinarizer(classes=labels).fit_transform(lists)
    encoded = _used_labels(values.astype(np.int64).reshape(len(lists), len(labels)), labels, name)
    empty = sum(not labels for labels in lists)
    if not empty:
        return encoded
    note = f'{empty} of {len(lists)} rows have an empty "{name}": taken as having none of the labels.'
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


def _votes(frame: pd.DataFrame, decimal: Mark) -> EncodedTarget:
    if len(frame.columns) < 2:
        raise DataError(
            f'--soft needs two or more target columns, one a class; got only "{frame.columns[0]}". '
            "Name them all: --target A --target B."
        )
    marks = decimal_marks({str(name): column for name, column in frame.items()}, decimal)
    read = pd.DataFrame({column: numbers(frame[column], marks[column]) for column in frame.columns})
    for column in frame.columns:
        words = frame[column][read[column].isna()]
        if not words.empty:
            raise DataError(
                f'Target "{column}" holds "{words.iloc[0]}" in row {words.index[0] + 1}; with --soft it must hold '
                "probabilities or votes, that is numbers not below 0."
            )
    values = read.to_numpy(np.float64)
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
