"""Repeated random splits into training and test rows that keep every class on both sides."""

import numpy as np
from numpy.typing import NDArray

from equilog.compare.data.dataset import Dataset
from equilog.compare.errors import DataError
from equilog.error_text import listed


def split_rows(
    dataset: Dataset, test_fraction: float, random_state: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the training rows, thinned where the data set asks for it, and the test rows, both ascending.

    Class by class, the rarest first, as many of its rows as are still missing from the test rows are drawn from
    those not yet placed, and the others go to the training rows. Of a single target every class of two rows or more
    is thus on both sides, in proportion; several target columns (or labels) share their rows, so a class of very few
    may miss one side. A label's absence is a class of its own; soft targets go by their likeliest class.

    Args:
        dataset: what to split.
        test_fraction: share of the rows to test on, in (0, 1).
        random_state: seed of the split.

    Source: Sechidis, Tsoumakas & Vlahavas, On the Stratification of Multi-Label Data, ECML PKDD 2011, whose
    iterative stratification this is in one pass.
    """
    members = np.concatenate(_strata(dataset), axis=1)
    rows = members.sum(axis=0)
    wanted = np.clip(np.rint(test_fraction * rows), 1, rows - 1).astype(np.int64)
    order = np.random.default_rng(random_state).permutation(len(members))
    tested, placed = np.zeros((2, len(members)), dtype=bool)
    for stratum in np.argsort(rows, kind="stable"):
        free = order[members[order, stratum] & ~placed[order]]
        missing = wanted[stratum] - np.count_nonzero(tested & members[:, stratum])
        tested[free[: max(missing, 0)]] = True
        placed[free] = True
    return dataset.training_rows(np.flatnonzero(~tested), random_state), np.flatnonzero(tested)


def require_splittable(dataset: Dataset) -> None:
    """Raise DataError where a class has too few rows to be in the training rows and in the test rows."""
    for name, classes, members in zip(dataset.target_names, dataset.class_names, _members(dataset), strict=True):
        rows = members.sum(axis=0)
        if dataset.task == "soft":
            if rows.max() < 2:
                raise DataError(f"{dataset.name} has too few rows to train on some and test on others. Add rows.")
            continue
        rare = [f'"{label}"' for label, count in zip(classes, rows, strict=True) if count < 2]
        if rare:
            raise DataError(
                f"{dataset.name}: {listed(rare)} of {name} has fewer than 2 rows, and every class needs one to train "
                "on and one to test on. --rare merge makes such classes one, --rare drop leaves their rows out."
            )


def _members(dataset: Dataset) -> list[NDArray[np.bool_]]:
    """Return for each target name which rows belong to which of its classes, (n, C)."""
    if dataset.task == "multilabel":
        return [dataset.target > 0]
    codes = dataset.target.argmax(axis=1)[:, None] if dataset.task == "soft" else dataset.target
    return [
        column[:, None] == np.arange(len(classes)) for column, classes in zip(codes.T, dataset.class_names, strict=True)
    ]


def _strata(dataset: Dataset) -> list[NDArray[np.bool_]]:
    members = _members(dataset)
    return [*members, *(~labels for labels in members)] if dataset.task == "multilabel" else members
