"""The transformers of our own that stand before scikit-learn's; named functions, so that skops can save them."""

from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from equilog.compare.data.columns import as_text, name_of, plain, require_finite
from equilog.compare.data.dates import ISO, to_dates
from equilog.compare.data.numerals import Mark, decimal_marks, numbers

LARGEST_SCORE = 10.0
"""Standard deviations at which numbers are cut off: a pixel that was black in all but one training row, or a
price with a wrong decimal point, would otherwise outweigh everything else in its row."""


EPOCH = pd.Timestamp("1970-01-01", tz="UTC").as_unit("us")
"""In microseconds: nanoseconds end in the year 2262."""


def to_numbers(frame: pd.DataFrame, decimal: Mark = ".") -> NDArray[np.float64]:
    """Return the columns as numbers; what is none is missing.

    Args:
        frame: (n, d) numbers, or text.
        decimal: the decimal mark in text, where its cells do not show that it is the other.
    """
    cells = {at: plain(frame.iloc[:, at]) for at in range(frame.shape[1])}
    texts = {at: column for at, column in cells.items() if isinstance(column.dtype, pd.StringDtype)}
    marks = {at: decimal_marks({"": text}, decimal)[""] for at, text in texts.items()}
    columns = [numbers(column, marks[at]) if at in texts else column for at, column in cells.items()]
    values = np.column_stack([column.to_numpy(np.float64, na_value=np.nan) for column in columns])
    require_finite(list(frame.columns), values, range(len(frame)))
    return values


def to_scores(X: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return standardised numbers in single precision, cut off at `LARGEST_SCORE`."""
    return np.clip(X, -LARGEST_SCORE, LARGEST_SCORE).astype(np.float32)


class DateParts(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Dates as numbers: days since 1970, year, month, day of the week (Monday 0) and hour; NaN where missing.

    Args:
        formats: how text is read, as `dates.to_dates` takes it.
    """

    PARTS = ("days", "year", "month", "weekday", "hour")

    def __init__(self, formats: tuple[str, ...] = (ISO,)) -> None:
        self.formats = formats

    def fit(self, X: pd.DataFrame, y: object = None) -> Self:
        """Take note of the columns' names; there is nothing to learn."""
        del y
        self.feature_names_in_ = np.asarray(X.columns, dtype=object)
        return self

    def transform(self, X: pd.DataFrame) -> NDArray[np.float64]:
        """Return (n, 5 d) parts of the d date columns (n, d)."""
        parts: list[pd.Series] = []
        for name in X.columns:
            column = plain(X[name])
            dates = to_dates(column if isinstance(column.dtype, pd.DatetimeTZDtype) else as_text(column), self.formats)
            days = (dates - EPOCH) / pd.Timedelta(days=1)
            parts += [days, dates.dt.year, dates.dt.month, dates.dt.day_of_week, dates.dt.hour]
        return np.column_stack([part.to_numpy(np.float64, na_value=np.nan) for part in parts])

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """Return the name of each column of the output."""
        del input_features
        return np.asarray([f"{name} {part}" for name in self.feature_names_in_ for part in self.PARTS], dtype=object)


class Categories(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """The number of each cell's name among those of the rows fitted, in their order; -1 where it is none of them.

    "" is the name where missing; 1, 1.0 and "1.0" have the same: whether a file's column of codes is read as whole
    numbers, decimals or text depends on the other cells.
    """

    def fit(self, X: pd.DataFrame, y: object = None) -> Self:
        """Take note of the columns and the names in them."""
        del y
        self.feature_names_in_ = np.asarray(X.columns, dtype=object)
        self.names_ = [sorted(set(names[np.unique(codes)])) for codes, names in map(_named, self._columns(X))]
        return self

    def transform(self, X: pd.DataFrame) -> NDArray[np.int64]:
        """Return the numbers (n, d)."""
        return np.column_stack(
            [
                pd.Index(known).get_indexer(pd.Index(names))[codes]
                for known, (codes, names) in zip(self.names_, map(_named, self._columns(X)), strict=True)
            ]
        )

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """Return the columns."""
        del input_features
        return self.feature_names_in_

    @staticmethod
    def _columns(X: pd.DataFrame) -> list[pd.Series]:
        return [X[name] for name in X.columns]


def as_categories(column: pd.Series) -> pd.Series:
    """Return a column of names with each kept once; one that is so already stays as it is."""
    return column if isinstance(column.dtype, pd.CategoricalDtype) else plain(column).astype("category")


def _named(column: pd.Series) -> tuple[NDArray[np.int64], NDArray[np.object_]]:
    """Return each cell's name as the place of one, and the names; the last one, at -1, is that of missing cells."""
    categories = as_categories(column).cat
    names = [*map(_name, categories.categories), ""]
    return np.asarray(categories.codes, np.int64), np.array(names, dtype=object)


def _name(cell: object) -> str:
    text = str(cell).strip()
    try:
        # As a decimal an identifier of twenty digits would lose the last ones.
        name = name_of(int(text) if text.lstrip("+-").isdecimal() else float(text))
    except ValueError:
        return text
    # Python reads 1_0 as ten, and any "NaN" as none.
    return text if "_" in text or name == "nan" else name
