"""A column of whatever a file held, as one of three plain kinds: numbers, dates or text."""

from collections.abc import Collection, Iterable
from typing import cast

import numpy as np
import pandas as pd
from pandas.api import types

from equilog.compare.errors import DataError
from equilog.names import did_you_mean, listed

MOSTLY = 0.9
"""Share of the values that must be numbers (or dates) for the other few to count as missing."""


def plain(column: pd.Series) -> pd.Series:
    """Return the column with one of three types: numbers, dates, or stripped text; blank text is missing.

    True and False become text, for they are names, not amounts.

    Raises:
        DataError: where the values are of another type, such as lists or bytes.
    """
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return plain(column.astype(dtype.categories.dtype))
    if types.is_timedelta64_dtype(dtype):
        return cast(pd.Series, column.dt.total_seconds())
    if types.is_datetime64_any_dtype(dtype):
        return column
    if types.is_numeric_dtype(dtype) and not types.is_bool_dtype(dtype) and not types.is_complex_dtype(dtype):
        if types.is_extension_array_dtype(dtype):
            return pd.Series(column.to_numpy(np.float64, na_value=np.nan), column.index, name=column.name)
        return column
    match types.infer_dtype(column, skipna=True):
        case "string" | "boolean" | "empty" | "mixed-integer":
            text = column.map(str, na_action="ignore").astype(object).where(column.notna(), None).str.strip()
            return text.where(text != "", None)
        case "decimal" | "integer" | "floating" | "mixed-integer-float":
            return pd.to_numeric(column).astype(np.float64)
        case "date" | "datetime":
            return pd.to_datetime(column, utc=True)
        case other:
            raise DataError(
                f'Column "{column.name}" holds values of type {other}; a column must hold numbers, dates, '
                f"text or true/false. Spread it over plain columns or leave it out."
            )


def numbers(column: pd.Series) -> tuple[pd.Series, str | None]:
    """Return a plain column as numbers where it holds (nearly) nothing else, with a note if words were dropped.

    A few words among many numbers ("unknown", "n/a") are gaps in a number, so they become missing; where words
    are more than a tenth the column stays text, and the note says so if numbers still prevail.
    """
    if types.is_numeric_dtype(column.dtype) or types.is_datetime64_any_dtype(column.dtype):
        return column, None
    parsed = pd.to_numeric(column, errors="coerce")
    present, numeric = int(column.notna().sum()), int(parsed.notna().sum())
    if numeric == 0 or numeric < present / 2:
        return column, None
    if numeric == present:
        return parsed, None
    words = listed(f'"{word}"' for word in column[parsed.isna()].dropna().unique())
    counted = f'Column "{column.name}" mixes {numeric} numbers with {present - numeric} other values ({words})'
    if numeric < MOSTLY * present:
        return column, f"{counted}: taken as categories."
    return parsed, f"{counted}: these count as missing."


def as_text(column: pd.Series) -> pd.Series:
    """Return the values as text, missing ones as None; a whole number loses its ".0".

    A column of integers is read as 1.0, 2.0 as soon as one value is missing, and should keep its names.
    """
    return column.map(_name, na_action="ignore").astype(object).where(column.notna(), None)


def _name(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def require_columns(present: Collection[str], wanted: Iterable[str], source: str) -> None:
    """Check that the wanted columns are present.

    Raises:
        DataError: names those that `source` lacks, with the nearest names that it has.
    """
    missing = [column for column in wanted if column not in present]
    if missing:
        others = f" Missing too: {listed(missing[1:])}." if missing[1:] else ""
        raise DataError(f'{source} has no column "{missing[0]}". {did_you_mean(missing[0], present)}{others}')
