"""A column of whatever a file held, as one of three plain kinds: numbers, dates or text."""

from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pandas.api import types

from equilog.compare.errors import DataError
from equilog.error_text import did_you_mean, listed


def plain(column: pd.Series) -> pd.Series:
    """Return the column with one of three types: numbers, dates, or stripped text; blank text is missing.

    True and False become text, for they are names, not amounts; times of day and durations become seconds.

    Raises:
        DataError: where the values are of another type, such as lists or bytes.
    """
    dtype = column.dtype
    if isinstance(dtype, pd.ArrowDtype):
        return _plain_arrow(column, dtype.pyarrow_dtype)
    if isinstance(dtype, pd.CategoricalDtype):
        return plain(column.astype(dtype.categories.dtype))
    if isinstance(dtype, pd.StringDtype):
        return _stripped(column)
    if types.is_timedelta64_dtype(dtype):
        return cast(pd.Series, column.dt.total_seconds())
    if types.is_datetime64_any_dtype(dtype):
        return column
    if types.is_numeric_dtype(dtype) and not types.is_bool_dtype(dtype) and not types.is_complex_dtype(dtype):
        if types.is_extension_array_dtype(dtype):
            return pd.Series(column.to_numpy(np.float64, na_value=np.nan), column.index, name=column.name)
        return column
    match kind := types.infer_dtype(column, skipna=True):
        case "string" | "boolean" | "empty" | "mixed-integer":
            return _stripped(as_text(column))
        case "decimal" | "integer" | "floating" | "mixed-integer-float":
            return _whole(pd.to_numeric(column).astype(np.float64), integers=kind == "integer")
        case "date" | "datetime":
            return pd.to_datetime(column, utc=True)
        case "mixed" if column.map(lambda value: isinstance(value, str | bool | int | float), na_action="ignore").all():
            return _stripped(as_text(column))
        case _:
            odd = (type(cell).__name__ for cell in column.dropna() if not isinstance(cell, str | bool | int | float))
            raise _unusable(column, next(odd, kind))


def _plain_arrow(column: pd.Series, kind: pa.DataType) -> pd.Series:
    if pa.types.is_dictionary(kind):
        return plain(column.astype(pd.ArrowDtype(kind.value_type)))
    if pa.types.is_null(kind):
        return pd.Series(np.nan, column.index, dtype="str", name=column.name)
    if pa.types.is_boolean(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _stripped(as_text(column))
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return pd.to_datetime(column.astype(pd.ArrowDtype(pa.timestamp("us", tz=getattr(kind, "tz", None)))), utc=True)
    if pa.types.is_time(kind) or pa.types.is_duration(kind):
        unit = kind.unit if not pa.types.is_date(kind) else "s"
        ticks = column.astype(pd.ArrowDtype(pa.int32() if kind.bit_width == 32 else pa.int64()))
        return _floats(ticks) / {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}[unit]
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _whole(_floats(column), integers=pa.types.is_integer(kind))
    raise _unusable(column, str(kind))


def _floats(column: pd.Series) -> pd.Series:
    return pd.Series(column.to_numpy(np.float64, na_value=np.nan), column.index, name=column.name)


def _whole(column: pd.Series, *, integers: bool) -> pd.Series:
    """Return integers without a gap as such: those that count the rows are to be told from amounts."""
    return column.astype(np.int64) if integers and (column.abs() < 2**53).all() else column


def _unusable(column: pd.Series, kind: str) -> DataError:
    return DataError(
        f'Column "{column.name}" holds values of type {kind}; a column must hold numbers, dates, '
        f"text or true/false. Spread it over plain columns, or leave it out by --types {column.name}=ignore."
    )


def _stripped(text: pd.Series) -> pd.Series:
    stripped = text.astype("str").str.strip()
    return stripped.where(stripped != "")


def as_text(column: pd.Series) -> pd.Series:
    """Return the values as text, missing ones as NaN; a whole number loses its ".0".

    A column of integers is read as 1.0, 2.0 as soon as one value is missing, and should keep its names.
    """
    if isinstance(column.dtype, pd.StringDtype):
        return column.astype("str")
    return column.map(name_of, na_action="ignore").astype("str")


def name_of(value: Any) -> str:
    """Return a value as text, a whole number without ".0"."""
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
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


def require_finite(names: Sequence[str], values: NDArray[np.float64], rows: Sequence[int]) -> None:
    """Check that no number is infinite.

    Args:
        names: the d columns.
        values: (n, d) their numbers.
        rows: (n,) the place of each row in its file, from 0.

    Raises:
        DataError: names the first place that is.
    """
    infinite = np.isinf(values)
    if infinite.any():
        row, column = np.argwhere(infinite)[0]
        raise DataError(
            f'Column "{names[column]}" holds an infinite number in row {rows[row] + 1} '
            f"({int(infinite.sum())} in all). Leave such cells empty or give them a finite value."
        )
