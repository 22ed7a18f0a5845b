"""Classes of one row, which can be trained on or tested on but not both."""

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from equilog.compare.data.dataset import Dataset
from equilog.error_text import listed

Rare = Literal["merge", "drop"]

FEWEST = 2
"""Rows that a class needs."""

MERGED = "(rare)"
"""The class that rare ones are merged into."""


def without_rare(dataset: Dataset, how: Rare) -> Dataset:
    """Return the data set without classes of a single row.

    Args:
        dataset: with rare classes or without.
        how: "merge" makes them one class, together with the next rarest where they are too few even so; "drop" leaves
            their rows out, and a rare label of several as a whole.
    """
    if dataset.task == "soft":
        return dataset
    if dataset.task == "multilabel":
        return _labels(dataset, how)
    for at in range(len(dataset.target_names)):
        dataset = _merged(dataset, at) if how == "merge" else _dropped(dataset, at)
    return dataset


def _rare_first(codes: NDArray[np.int64], classes: int) -> tuple[NDArray[np.int64], NDArray[np.intp], int]:
    counts = np.bincount(codes, minlength=classes)
    return counts, np.argsort(counts, kind="stable"), int((counts < FEWEST).sum())


def _merged(dataset: Dataset, at: int) -> Dataset:
    names = dataset.class_names[at]
    codes = dataset.target[:, at].astype(np.int64)
    counts, order, rare = _rare_first(codes, len(names))
    if rare == 0:
        return dataset
    while counts[order[:rare]].sum() < FEWEST:
        rare += 1
    merged = np.sort(order[:rare])
    kept = np.setdiff1d(np.arange(len(names)), merged)
    new = np.full(len(names), len(kept))
    new[kept] = np.arange(len(kept))
    target = dataset.target.copy()
    target[:, at] = new[codes]
    into = MERGED if MERGED not in names else f"{MERGED} {rare}"
    return replace(
        dataset,
        target=target,
        class_names=_with(dataset, at, (*(names[code] for code in kept), into)),
        notes=(*dataset.notes, f'{rare} classes of "{dataset.target_names[at]}" were merged into "{into}", '
               f"{int(counts[merged].sum())} rows: {listed(names[code] for code in merged)}."),
    )  # fmt: skip


def _dropped(dataset: Dataset, at: int) -> Dataset:
    while True:
        names = dataset.class_names[at]
        codes = dataset.target[:, at].astype(np.int64)
        counts, _, rare = _rare_first(codes, len(names))
        if rare == 0:
            return dataset
        kept = np.flatnonzero(counts >= FEWEST)
        rows = np.isin(codes, kept)
        target = dataset.target[rows]
        target[:, at] = np.searchsorted(kept, codes[rows])
        dataset = replace(
            dataset.of_rows(rows),
            target=target,
            class_names=_with(dataset, at, tuple(names[code] for code in kept)),
            notes=(*dataset.notes, f'Rows of classes of "{dataset.target_names[at]}" with a single row were '
                   f"left out: {listed(names[code] for code in np.flatnonzero(counts < FEWEST))}."),
        )  # fmt: skip


def _labels(dataset: Dataset, how: Rare) -> Dataset:
    names = np.asarray(dataset.class_names[0], dtype=object)
    counts = dataset.target.sum(axis=0)
    rare = counts < FEWEST
    if not rare.any():
        return dataset
    target, kept = dataset.target[:, ~rare], tuple(names[~rare])
    merged = dataset.target[:, rare].max(axis=1)
    merge = how == "merge" and merged.sum() >= FEWEST
    if merge:
        target, kept = np.column_stack([target, merged]), (*kept, MERGED)
    did = f'merged into "{MERGED}"' if merge else "left out"
    return replace(
        dataset,
        target=target,
        class_names=(kept,),
        notes=(*dataset.notes, f"Labels with a single row were {did}: {listed(names[rare])}."),
    )


def _with(dataset: Dataset, at: int, names: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    return tuple(names if place == at else other for place, other in enumerate(dataset.class_names))
