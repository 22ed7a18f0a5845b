"""Which rows each split trains on and tests on: drawn at random, in folds, by groups or by time.

scikit-learn's splitters make the folds. They stratify by one column, which here is the rarest class of each row.
Random splits are drawn by `split_rows`, which keeps the classes of several columns in proportion, and windows of time
are cut where two moments meet, while `TimeSeriesSplit` cuts between rows of the same moment.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from equilog.compare.data.dataset import Dataset
from equilog.compare.data.label_lists import label_separator
from equilog.compare.errors import DataError
from equilog.error_text import listed

Rows = NDArray[np.int64]

TEST_FRACTION = 0.25
"""Share of the rows to test on where nobody says another."""


class SplitSummary(TypedDict):
    """How the rows were split."""

    by: Literal["random", "group", "time"]
    column: str | None
    """The column of the groups or times."""
    folds: int | None
    """Folds a round; None where each split is drawn anew."""
    count: int
    test_fraction: float
    """Of the rows of a split, the mean share that it tests on."""


@dataclass(frozen=True)
class Splits:
    """The training and test rows of each split, ascending, and how they came about."""

    rows: tuple[tuple[Rows, Rows], ...]
    summary: SplitSummary

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def test_fraction(self) -> float:
        """The mean share of the rows that a split tests on."""
        return self.summary["test_fraction"]


def splits_of(dataset: Dataset, seeds: int, test_fraction: float | None = None, folds: int | None = None) -> Splits:
    """Return the splits of a comparison.

    Args:
        dataset: what to split; its `split_column` says whether by groups or by time.
        seeds: how many splits are drawn at random, rounds of folds are made, or windows of time are tested on.
        test_fraction: share of the rows to test on, in (0, 1); a quarter if None. Groups come whole, so with them it
            is the nearest of 1/2, 1/3, 1/4 and so on (or what these leave of 1), and the splits take turns to test on
            each such part. Windows of time have no rows in common; `seeds` + 1 parts of equal size if None, but no
            larger than a quarter.
        folds: every row is tested on in one of so many folds a round.

    Raises:
        DataError: the options or the data do not allow it, or a split would train without one of the classes.
    """
    require_splittable(dataset)
    if test_fraction is not None and not 0 < test_fraction < 1:
        raise DataError(f"--test-fraction must lie between 0 and 1; got {test_fraction:g}.")
    if folds is not None and test_fraction is not None:
        raise DataError(f"--folds {folds} tests on 1/{folds} of the rows in each fold. Leave --test-fraction out.")
    column = dataset.split_column
    if column is not None and column.by == "time":
        if folds is not None:
            raise DataError("--folds would train on later rows than it tests on. With --time, say --seeds N.")
        rows = _windows(dataset, column.values, seeds, test_fraction or min(TEST_FRACTION, 1 / (seeds + 1)))
    elif column is not None:
        rows = _of_groups(dataset, column.values, seeds, test_fraction or TEST_FRACTION, folds)
    elif folds is not None:
        rows = [pair for seed in range(seeds) for pair in _folds(dataset, None, folds, seed)]
    else:
        rows = [split_rows(dataset, test_fraction or TEST_FRACTION, seed) for seed in range(seeds)]
    if column is not None:
        _require_every_class(dataset, rows)
        share = float(np.mean([len(test) / (len(train) + len(test)) for train, test in rows]))
    else:
        share = 1 / folds if folds is not None else test_fraction or TEST_FRACTION
    return Splits(
        tuple((dataset.training_rows(train, at), test) for at, (train, test) in enumerate(rows)),
        {
            "by": "random" if column is None else column.by,
            "column": None if column is None else column.name,
            "folds": folds,
            "count": len(rows),
            "test_fraction": share,
        },
    )


def split_rows(dataset: Dataset, test_fraction: float, random_state: int) -> tuple[Rows, Rows]:
    """Return training rows and test rows drawn at random, both ascending.

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
    return np.flatnonzero(~tested), np.flatnonzero(tested)


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
            mark = label_separator(classes) if dataset.task == "multiclass" else None
            raise DataError(
                f"{dataset.name}: {listed(rare)} of {name} has fewer than 2 rows, and every class needs one to train "
                "on and one to test on. "
                + (f'If they list labels, separated by "{mark}", say --multilabel. ' if mark else "")
                + "--rare merge makes such classes one, --rare drop leaves their rows out."
            )


def _folds(dataset: Dataset, groups: Rows | None, folds: int, seed: int) -> list[tuple[Rows, Rows]]:
    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    strata = _rarest_class(dataset)
    if folds > np.bincount(strata).max():
        raise DataError(f"--folds {folds}: no class of {dataset.name} has so many rows. Take fewer folds.")
    with warnings.catch_warnings():
        # Of a class of fewer rows than folds some folds test nothing, which the metrics allow for.
        warnings.simplefilter("ignore", UserWarning)
        return list(splitter(folds, shuffle=True, random_state=seed).split(strata, strata, groups))


def _of_groups(
    dataset: Dataset, groups: Rows, seeds: int, test_fraction: float, folds: int | None
) -> list[tuple[Rows, Rows]]:
    count = int(groups.max()) + 1
    if folds is not None and folds > count:
        raise DataError(f"--folds {folds}: there are {count} groups only, and each is in one fold. Take fewer folds.")
    _require_two_groups(dataset, groups)
    parts = folds or min(count, round(1 / min(test_fraction, 1 - test_fraction)))
    splits = seeds if folds is None else seeds * folds
    rounds = [pair for seed in range(-(-splits // parts)) for pair in _folds(dataset, groups, parts, seed)]
    # Above one half it is the training rows that are one part.
    return [
        (test, train) if test_fraction > 0.5 and folds is None else (train, test) for train, test in rounds[:splits]
    ]


def _windows(dataset: Dataset, times: Rows, seeds: int, test_fraction: float) -> list[tuple[Rows, Rows]]:
    """Return for each of the last windows of time its rows, and all before it."""
    order = np.argsort(times, kind="stable")
    size = round(test_fraction * len(order))
    starts = len(order) - size * np.arange(seeds, 0, -1)
    # Rows of one moment belong together: a window begins with the first of them.
    edges = np.searchsorted(times[order], times[order][np.maximum(starts, 0)])
    if size < 1 or starts[0] <= 0 or edges[0] == 0 or (np.diff(edges) == 0).any():
        raise DataError(
            f"{dataset.name}: {len(order)} rows of {times.max() + 1} different times cannot be cut into {seeds} "
            f"windows of {test_fraction:.0%} with rows before the first. Fewer --seeds or a smaller --test-fraction do."
        )
    ends = [*edges[1:], len(order)]
    return [(np.sort(order[:start]), np.sort(order[start:end])) for start, end in zip(edges, ends, strict=True)]


def _require_two_groups(dataset: Dataset, groups: Rows) -> None:
    if dataset.task == "soft":
        return
    assert dataset.split_column is not None
    for target, classes, members in zip(dataset.target_names, dataset.class_names, _members(dataset), strict=True):
        alone = [f'"{name}"' for name, of in zip(classes, members.T, strict=True) if len(np.unique(groups[of])) < 2]
        if alone:
            raise DataError(
                f"{dataset.name}: all rows of {listed(alone)} of {target} are of one group of "
                f'"{dataset.split_column.name}", which cannot be trained on and tested on. Leave these rows out, or '
                "make the class one with another."
            )


def _require_every_class(dataset: Dataset, rows: Sequence[tuple[Rows, Rows]]) -> None:
    """Raise DataError where a split trains without one of the classes, which nothing could then predict."""
    if dataset.task == "soft":
        return
    for at, (train, _) in enumerate(rows):
        for target, classes, members in zip(dataset.target_names, dataset.class_names, _members(dataset), strict=True):
            there = np.asarray(members[train].any(axis=0))
            lacking = [f'"{name}"' for name, any_row in zip(classes, there, strict=True) if not any_row]
            if lacking:
                raise DataError(
                    f"{dataset.name}: split {at} trains on {len(train)} rows, of which none is {listed(lacking)} of "
                    f"{target}. Fewer --seeds or a smaller --test-fraction leave more rows to train on; or leave out "
                    "the rows of that class."
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


def _rarest_class(dataset: Dataset) -> Rows:
    """Return the number of each row's rarest class, of whichever target or label; all of those without one alike."""
    members = np.concatenate(_members(dataset), axis=1)
    rare_first = members[:, np.argsort(members.sum(axis=0), kind="stable")]
    strata: Rows = np.where(rare_first.any(axis=1), rare_first.argmax(axis=1), rare_first.shape[1])
    return strata
