"""Repeated random splits into training and test rows that keep every class on both sides."""

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedShuffleSplit

from equilog.compare.dataset import Dataset
from equilog.compare.errors import DataError, listed


def split_rows(
    dataset: Dataset, test_fraction: float, random_state: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the training rows, thinned where the data set asks for it, and the test rows.

    Each row is stratified by its rarest class: its class where it has one, the rarest of its labels or of its target
    columns' classes where it has several, its likeliest class where the target is soft.

    Args:
        dataset: what to split.
        test_fraction: share of the rows to test on, in (0, 1).
        random_state: seed of the split.
    """
    strata = _strata(dataset)
    splitter = StratifiedShuffleSplit(1, test_size=test_fraction, random_state=random_state)
    train, test = next(splitter.split(strata, strata))
    return dataset.training_rows(np.sort(train), random_state), np.sort(test)


def require_splittable(dataset: Dataset, test_fraction: float) -> None:
    """Raise DataError unless every class can be in the training rows and in the test rows, whatever the seed."""
    rows = len(dataset.features)
    tested = int(np.ceil(test_fraction * rows))
    groups = len(np.unique(_strata(dataset)))
    if min(tested, rows - tested) < groups:
        raise DataError(
            f"{dataset.name} has {rows} rows, too few to put each of {groups} classes into {rows - tested} training "
            f"rows and {tested} test rows. Add rows, or merge classes."
        )
    for name, classes, members in zip(dataset.target_names, dataset.class_names, _members(dataset), strict=True):
        rare = [f'"{label}"' for label, count in zip(classes, members.sum(0), strict=True) if count < 2]
        if rare and dataset.task != "soft":
            raise DataError(
                f"{dataset.name}: {listed(rare)} of {name} has fewer than 2 rows, and every class needs one to train "
                "on and one to test on. Leave those rows out, or merge the class with another."
            )


def _members(dataset: Dataset) -> list[NDArray[np.bool_]]:
    """Return for each target name which rows belong to which of its classes, (n, C)."""
    if dataset.task == "multiclass":
        return [
            codes[:, None] == np.arange(len(names))
            for codes, names in zip(dataset.target.T, dataset.class_names, strict=True)
        ]
    if dataset.task == "soft":
        return [dataset.target.argmax(1)[:, None] == np.arange(dataset.target.shape[1])]
    return [dataset.target > 0]


def _strata(dataset: Dataset) -> NDArray[np.int64]:
    """Return (n,) the rarest class of each row, classes too rare to stratify by put together."""
    members = np.concatenate(_members(dataset), 1)
    frequency = members.sum(0)
    rarest: NDArray[np.int64] = np.where(members, frequency, len(members) + 1).argmin(1)
    # A row without any label stands with others of its kind.
    rarest = np.where(members.any(1), rarest, members.shape[1])
    sizes = np.bincount(rarest, minlength=members.shape[1] + 1)
    if (sizes == 1).any():
        # What is left of a class whose other rows have a rarer one still: with the commonest.
        rarest = np.where(sizes[rarest] == 1, sizes.argmax(), rarest)
    return rarest
