"""A table ready to be compared on: features as they came, targets as arrays, and what was noticed on the way."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from equilog.baselines.registry import Task
from equilog.compare.data.kinds import Column, Kind
from equilog.compare.data.long_tail import thin_to_long_tail

UNUSED: tuple[Kind, ...] = ("constant", "identifier", "ignore")
"""Kinds of columns that no model reads."""


@dataclass(frozen=True)
class SplitColumn:
    """A column that says how the rows may be split."""

    by: Literal["group", "time"]
    name: str
    values: NDArray[np.int64]
    """(n,) the number of each row's group, or its place in time; rows of one moment have the same."""


@dataclass(frozen=True)
class Dataset:
    """Features, targets and their names."""

    name: str
    task: Task
    features: pd.DataFrame
    """(n, d) raw columns; missing values are still missing, to be handled inside each split."""
    target: NDArray[np.int64] | NDArray[np.float64]
    """multiclass: (n, k) int64 class codes, a column for each of k target columns; multilabel: (n, L) int64 of 0
    and 1; soft: (n, C) float64, each row a distribution."""
    target_names: tuple[str, ...]
    """The k target columns; one name standing for all the labels or classes where the task is another."""
    class_names: tuple[tuple[str, ...], ...]
    """For each target name, its classes (or labels) in the order of the codes."""
    notes: tuple[str, ...] = field(default=())
    """What was done to the columns that a user should know, a sentence each."""
    columns: Mapping[str, Column] | None = None
    """What the features are, where their cells have been read so; inferred from them if None."""
    imbalance: float | None = None
    """To what ratio of first class to last the training rows of every split are thinned. The test rows stay as
    they are, so that the rare classes are measured on as many rows as the others."""
    split_column: SplitColumn | None = None
    """What the splits go by; drawn at random if None."""

    @property
    def used(self) -> list[str]:
        """The names of the columns that models read."""
        kinds = self.columns or {}
        names = map(str, self.features.columns)
        return [name for name in names if name not in kinds or kinds[name].kind not in UNUSED]

    def of_rows(self, rows: NDArray[np.bool_]) -> Self:
        """Return the data set of some of its rows, (n,)."""
        if rows.all():
            return self
        by = self.split_column
        return replace(
            self,
            features=self.features[rows].reset_index(drop=True),
            target=self.target[rows],
            split_column=None if by is None else replace(by, values=by.values[rows]),
        )

    def training_rows(self, rows: NDArray[np.int64], random_state: int) -> NDArray[np.int64]:
        """Return those of a split's training rows to train on: all of them, unless `imbalance` thins them.

        Args:
            rows: (r,) indices of the training rows, those set aside for early stopping included.
            random_state: the split's own seed.
        """
        if self.imbalance is None:
            return rows
        return rows[thin_to_long_tail(self.target[rows, 0].astype(np.int64), self.imbalance, random_state)]
