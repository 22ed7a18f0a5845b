"""What each column of a table is: a number, a category, a date, text, or nothing one could learn from."""

import re
from typing import Literal

import pandas as pd
from pandas.api import types

from equilog.compare.columns import MOSTLY, numbers, plain

Kind = Literal["number", "category", "date", "text", "constant", "identifier"]
"""What a column is to the preprocessing; the last two carry nothing that could be learned and are dropped."""

MOST_CATEGORIES = 32
"""Different values up to which text is a category, and categories with an input of their own."""

FEWEST_ROWS = 20
"""Rows from which a column of values that never recur is taken for an identifier rather than for chance."""

DATE_FORMATS = {
    "ISO8601": "year-month-day",
    "%d.%m.%Y": "day.month.year",
    "%m/%d/%Y": "month/day/year",
    "%d/%m/%Y": "day/month/year",
}
"""Ways of writing a date that are recognised, in the order they are tried, and their names."""

ID_NAME = re.compile(r"(?:^|[\W_])(?:id|uuid|guid|index|key)$|[a-z]I[Dd]$|^(?:ID|UUID|GUID|Id|Index|Key)$")


def column_kinds(frame: pd.DataFrame) -> dict[str, Kind]:
    """Tell what each column is.

    Text is what has more than `MOST_CATEGORIES` different values and either runs to three words or more, or
    seldom recurs; an identifier gives every row a value of its own and either counts up, is called an id or is
    made of single words with digits.

    Example:
        >>> column_kinds(pd.DataFrame({"age": [31, 40, 31], "town": ["Rome", "Oslo", None], "unit": "kg"}))
        {'age': 'number', 'town': 'category', 'unit': 'constant'}
    """
    return {str(name): _kind(numbers(plain(frame[name]))[0]) for name in frame.columns}


def date_format(column: pd.Series) -> str | None:
    """Return the key of `DATE_FORMATS` by which nearly all of a plain column reads as dates, or None."""
    if types.is_datetime64_any_dtype(column.dtype):
        return "ISO8601"
    present = column.dropna()
    for form in DATE_FORMATS:
        if pd.to_datetime(present, format=form, errors="coerce", utc=True).notna().sum() >= MOSTLY * len(present):
            return form
    return None


def is_sentences(column: pd.Series) -> bool:
    """Return whether the values of a text column run to three words or more on average."""
    return bool(column.dropna().str.count(r"\S+").mean() >= 3)


def _kind(column: pd.Series) -> Kind:
    if column.nunique(dropna=False) < 2:
        return "constant"
    if _is_identifier(column):
        return "identifier"
    if types.is_numeric_dtype(column.dtype):
        return "number"
    if date_format(column) is not None:
        return "date"
    distinct = column.nunique()
    if distinct > MOST_CATEGORIES and (is_sentences(column) or distinct > column.count() / 5):
        return "text"
    return "category"


def _is_identifier(column: pd.Series) -> bool:
    if len(column) < FEWEST_ROWS or not column.is_unique:
        return False
    if types.is_float_dtype(column.dtype) or types.is_datetime64_any_dtype(column.dtype):
        return False
    if ID_NAME.search(str(column.name)):
        return True
    if types.is_numeric_dtype(column.dtype):
        return bool(column.max() - column.min() == len(column) - 1)
    words = column.dropna()
    codes = not words.str.contains(r"\s").any() and words.str.contains(r"\d").mean() > 0.5
    return bool(codes) and date_format(column) is None
