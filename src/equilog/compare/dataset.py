"""A table ready to be compared on: features as they came, targets as arrays, and what was noticed on the way."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from equilog.registry import Task


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
