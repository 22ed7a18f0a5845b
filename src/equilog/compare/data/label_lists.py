"""Cells that list labels: "drama; comedy", "['drama', 'comedy']", a JSON array, or a list as Parquet holds them."""

import ast
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from equilog.compare.data.columns import as_text, name_of, plain

SEPARATORS = ";|,"
"""What separates labels, in the order of preference: the first that occurs in the column separates all its cells."""

BRACKETED = re.compile(r"\s*[\[({](.*)[\])}]\s*", re.DOTALL)


def holds_lists(column: pd.Series) -> bool:
    """Return whether the cells are lists and not text."""
    if isinstance(column.dtype, pd.ArrowDtype):
        return bool(pa.types.is_nested(column.dtype.pyarrow_dtype))
    present = column.dropna()
    return column.dtype == object and len(present) > 0 and all(isinstance(cell, LISTS) for cell in present)


LISTS = (list, tuple, set, np.ndarray)


def labels_of_cells(column: pd.Series) -> list[list[str]]:
    """Return the labels of each cell, none where it is empty, missing or [].

    Example:
        >>> labels_of_cells(pd.Series(["['drama', 'comedy']", "[]", '["war"]', None]))
        [['drama', 'comedy'], [], ['war'], []]
        >>> labels_of_cells(pd.Series(["1,2", "2", ""]))
        [['1', '2'], ['2'], []]
    """
    if holds_lists(column):
        return [_texts(cell) if isinstance(cell, LISTS) else [] for cell in column.astype(object)]
    plain(column)  # refuses what is neither text nor a number
    text = as_text(column).fillna("")
    bare = text[~text.map(lambda cell: BRACKETED.fullmatch(cell) is not None)]
    separator = next((mark for mark in SEPARATORS if bare.str.contains(mark, regex=False).any()), ";")
    return [_labels(cell, separator) for cell in text]


def label_separator(classes: Sequence[str]) -> str | None:
    """Return what separates the labels in names that look like lists of each other, or None where they do not.

    Example:
        >>> label_separator(["action", "action|drama", "drama", "drama|war"])
        '|'
        >>> label_separator(["Oslo, Norway", "Rome, Italy", "Bonn"]) is None
        True
    """
    for mark in SEPARATORS:
        lists = [_texts(name.split(mark)) for name in classes if mark in name]
        labels = {label for several in lists for label in several}
        if len(lists) > 1 and len(labels & set(classes)) > len(labels) / 2:
            return mark
    return None


def _labels(cell: str, separator: str) -> list[str]:
    inside = BRACKETED.fullmatch(cell)
    if inside is None:
        return _texts(cell.split(separator))
    # What numpy prints has no commas, and Python would join the words.
    printed = re.search(r"""(?<=['"])\s+(?=['"])""", cell)
    for read in () if printed else (json.loads, ast.literal_eval):
        try:
            value = read(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(value, LISTS):
            return _texts(value)
    if quoted := re.findall(r"""(['"])(.*?)\1""", inside[1]):
        return _texts(words for _, words in quoted)
    return _texts(re.split(r"[;|,]", inside[1]))


def _texts(labels: Iterable[Any]) -> list[str]:
    """Return the labels as text, each once, empty ones left out."""
    names = (name_of(label).strip() for label in labels if label is not None)
    return list(dict.fromkeys(name for name in names if name))
