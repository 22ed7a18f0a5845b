"""Columns of a table -> inputs of a model, each kind of column by a pipeline of its own, a few rows at a time."""

from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.pipeline import Pipeline

from equilog.compare.data.splits import Rows

BLOCK = 16_384
"""Rows that are transformed at once."""

CELLS = 2**19
"""Cells that a pipeline is fitted to at once, or one column: scikit-learn's copy what they are given several times."""


class Preprocessor(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """What scikit-learn's ColumnTransformer does, without holding the inputs of all rows twice or while it is fitted.

    Args:
        parts: a name, a pipeline to a dense float32 array, and the columns that it takes: one name where it takes a
            series, or a list of them, which it must take each by itself.
    """

    def __init__(self, parts: Sequence[tuple[str, Pipeline, str | list[str]]]) -> None:
        self.parts = parts

    def fit(self, X: pd.DataFrame, y: object = None, rows: Rows | None = None) -> Self:
        """Fit a copy of each pipeline on its columns of the rows, those of all if none are named."""
        del y
        kept = np.arange(len(X)) if rows is None else rows
        self.parts_ = [
            (name, clone(pipeline).fit(X[some].iloc[kept]), some)
            for name, pipeline, columns in self.parts
            for some in _a_few_at_a_time(columns, CELLS // max(1, len(kept)) or 1)
        ]
        return self

    def blocks(self, X: pd.DataFrame, rows: Rows) -> Iterator[NDArray[np.float32]]:
        """Yield the inputs of some of these rows after the other."""
        for start in range(0, max(len(rows), 1), BLOCK):
            block = X.iloc[rows[start : start + BLOCK]]
            yield np.hstack([pipeline.transform(block[columns]) for _, pipeline, columns in self.parts_])

    def transform(self, X: pd.DataFrame) -> NDArray[np.float32]:
        """Return the inputs (n, d) of the rows."""
        return np.concatenate(list(self.blocks(X, np.arange(len(X)))))

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """Return the name of each input."""
        del input_features
        names = [f"{part}__{name}" for part, pipeline, _ in self.parts_ for name in pipeline.get_feature_names_out()]
        return np.asarray(names, dtype=object)


def _a_few_at_a_time(columns: str | list[str], most: int) -> Iterator[str | list[str]]:
    if isinstance(columns, str):
        yield columns
    else:
        yield from (columns[start : start + most] for start in range(0, len(columns), most))
