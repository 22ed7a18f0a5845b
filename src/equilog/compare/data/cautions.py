"""What about a data set should make its user think before anything is trained on it."""

import unicodedata
from collections import defaultdict

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api import types
from sklearn.metrics import recall_score
from sklearn.tree import DecisionTreeClassifier

from equilog.compare.data.dataset import Dataset
from equilog.compare.data.label_lists import label_separator
from equilog.compare.data.numerals import numbers
from equilog.compare.data.targets import MANY_NUMBERS, is_true_or_false
from equilog.error_text import listed

GIVEN_AWAY = 0.99
"""Balanced accuracy from which one column alone is too good to be true."""

EXAMINED = 2000
"""Rows on which each column is tried alone."""

FEWEST_OTHERS = 5
"""Rows of other classes than the commonest without which any accuracy is luck."""

FEWEST = 100
"""Rows from which that says anything."""

COPIED = 0.01
"""Share of the rows from which copies of others are mentioned."""

BY_CHANCE = 10
"""Times as many copies as columns that have nothing to do with each other would make by chance."""


def cautions(dataset: Dataset) -> tuple[str, ...]:
    """Return a sentence for each thing that makes results better than they will be, or classes other than meant."""
    # The others give nothing away, and rows that differ in them alone are copies.
    features = dataset.features[dataset.used]
    return (
        *_alike_names(dataset),
        *_quantities(dataset),
        *_of_labels(dataset),
        *_copies(features),
        *_giveaways(dataset, features),
    )


def _alike_names(dataset: Dataset) -> list[str]:
    said = []
    for target, names in zip(dataset.target_names, dataset.class_names, strict=True):
        alike: dict[str, list[str]] = defaultdict(list)
        for name in names:
            alike["".join(unicodedata.normalize("NFKC", name).casefold().split())].append(name)
        groups = [" and ".join(f'"{name}"' for name in group) for group in alike.values() if len(group) > 1]
        if groups:
            said.append(f'"{target}" has classes that differ by case or blanks alone: {listed(groups)}. Are they one?')
    return said


def _quantities(dataset: Dataset) -> list[str]:
    if dataset.task != "multiclass":
        return []
    return [
        f'"{target}" has {len(names)} different numbers as classes: if it is a quantity, sort it into ranges.'
        for target, names in zip(dataset.target_names, dataset.class_names, strict=True)
        if len(names) > MANY_NUMBERS and numbers(pd.Series(names, dtype="str"), ".").notna().all()
    ]


def _of_labels(dataset: Dataset) -> list[str]:
    if dataset.task != "multiclass":
        return []
    said = [
        f'The classes of "{target}" look like lists of labels, separated by "{mark}": --multilabel takes them apart.'
        for target, names in zip(dataset.target_names, dataset.class_names, strict=True)
        if (mark := label_separator(names))
    ]
    if len(dataset.class_names) > 1 and all(is_true_or_false(names) for names in dataset.class_names):
        said.append("All targets are yes or no: --multilabel takes them for labels, of which a row has any number.")
    return said


def _copies(features: pd.DataFrame) -> list[str]:
    rows = pd.util.hash_pandas_object(features, index=False)
    copies = int(rows.duplicated().sum())
    if copies < COPIED * len(rows) or copies < BY_CHANCE * _copies_by_chance(features):
        return []
    return [
        f"{copies} of {len(rows)} rows are copies of another in every feature: some are trained on and tested on as "
        "well, which flatters every loss."
    ]


def _copies_by_chance(features: pd.DataFrame) -> float:
    """Return how many pairs of equal rows there would be if the columns had nothing to do with each other."""
    pairs = len(features) * (len(features) - 1) / 2
    sample = features.sample(min(len(features), EXAMINED), random_state=0)
    for name in sample:
        counts = sample[name].value_counts(dropna=False).to_numpy(np.float64)
        pairs *= (counts * (counts - 1)).sum() / (len(sample) * (len(sample) - 1))
    return pairs


def _giveaways(dataset: Dataset, features: pd.DataFrame) -> list[str]:
    if dataset.task == "soft" or len(features) < FEWEST:
        return []
    rows = np.random.default_rng(0).permutation(len(features))[:EXAMINED]
    sample, codes = features.iloc[rows], dataset.target[rows].astype(np.int64)
    targets = dataset.target_names if dataset.task == "multiclass" else dataset.class_names[0]
    giveaways: dict[str, list[str]] = defaultdict(list)
    for name in sample.columns:
        reached = _alone(_ranks(sample[name]), codes)
        for target, accuracy in zip(targets, reached, strict=True):
            if accuracy >= GIVEN_AWAY:
                giveaways[target].append(str(name))
    return [
        f'"{target}" can be told from {listed(columns)} alone: is it known when a prediction is due? --types '
        f"{columns[0]}=ignore leaves it out."
        for target, columns in giveaways.items()
    ]


def _ranks(column: pd.Series) -> NDArray[np.float64]:
    """Return a column as numbers that keep what order it has; values that recur little are no category."""
    if types.is_datetime64_any_dtype(column.dtype):
        column = (column - column.min()) / pd.Timedelta(days=1)
    elif not types.is_numeric_dtype(column.dtype):
        codes, names = pd.factorize(column, sort=True)
        column = pd.Series(codes if len(names) < len(column) / 4 else 0, column.index)
    values: NDArray[np.float64] = column.to_numpy(np.float64, na_value=np.nan)
    return values


def _alone(values: NDArray[np.float64], codes: NDArray[np.int64]) -> list[float]:
    """Return the balanced accuracy of one column alone, for each target, on rows that it has not seen."""
    half = len(values) // 2
    tree = DecisionTreeClassifier(min_samples_leaf=2, random_state=0)
    predicted = tree.fit(values[:half, None], codes[:half]).predict(values[half:, None]).reshape(-1, codes.shape[1])
    return [
        _balanced(known, unseen, labels)
        for known, unseen, labels in zip(codes[:half].T, codes[half:].T, predicted.T, strict=True)
    ]


def _balanced(known: NDArray[np.int64], unseen: NDArray[np.int64], predicted: NDArray[np.int64]) -> float:
    """Return the balanced accuracy over the classes that are there to be learned; 0 where that is luck."""
    seen = np.isin(unseen, known)
    counts = np.bincount(unseen[seen])
    if (counts > 0).sum() < 2 or len(unseen) - counts.max() < FEWEST_OTHERS:
        return 0.0
    return float(recall_score(unseen[seen], predicted[seen], labels=np.flatnonzero(counts), average="macro"))
