"""Tables with unequal classes, all from packages: rows to train on, rows to fit decision rules on, rows to judge by.

The rows are thinned to a long tail before they are split where the classes of the source are equal, so the rows of all
three parts are drawn from the same population and a classifier's probabilities may be right for it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from benchmarks.quality.tasks import tables
from numpy.typing import NDArray
from sklearn.datasets import make_classification, make_multilabel_classification
from sklearn.decomposition import PCA

from equilog.compare.data.bundled import fashion, yeast
from equilog.compare.data.greek import all_words
from equilog.compare.data.long_tail import thin_to_long_tail

Table = tuple[NDArray[np.float32], NDArray[np.int64]]

LETTERS = 12
"""Letters that a Greek word is told by: its last four, its first two, and the last three of its neighbours."""


@dataclass(frozen=True)
class Task:
    """A table and how its rows are shared out."""

    name: str
    read: Callable[[], Table]
    train: int
    """Rows that the classifiers are trained on."""
    calibration: int
    """Most rows that decision rules are fitted on."""
    test: int
    """Most rows that they are judged by."""
    categorical: bool = False
    """Whether the features are codes of categories."""


@dataclass(frozen=True)
class Split:
    """The rows of a task in three parts, each as features and classes (n,) or labels (n, L)."""

    train: Table
    calibration: Table
    test: Table


def split(task: Task, seed: int) -> Split:
    """Return the rows of a task, shared out anew for each seed, each class in proportion."""
    features, target = _read(task.read)
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(len(target))
    if target.ndim == 1:
        # Rows in the order of their place in their class: whatever is cut off has of every class its share.
        place = np.empty(len(target))
        for code in np.unique(target):
            rows = np.flatnonzero(target[shuffled] == code)
            place[rows] = (np.arange(len(rows)) + generator.random()) / len(rows)
        shuffled = shuffled[np.argsort(place, kind="stable")]
    ends = np.cumsum([task.train, task.calibration, task.test])
    parts = [generator.permutation(rows) for rows in np.split(shuffled, ends)[:3]]
    return Split(*((features[rows], target[rows]) for rows in parts))


_read = cache(lambda read: read())


def _thinned(table: Table, imbalance: float) -> Table:
    features, codes = table
    rows = thin_to_long_tail(codes, imbalance, random_state=0)
    return features[rows], codes[rows]


def digits() -> Table:
    """Handwritten digits of 8 x 8 pixels, ten classes, 20 : 1."""
    return _thinned(tables.digits(), 20)


def segments() -> Table:
    """Patches of outdoor images, seven classes, 20 : 1."""
    return _thinned(tables.segments(), 20)


def bananas() -> Table:
    """Points of the plane in two overlapping clouds, 10 : 1."""
    return _thinned(tables.bananas(), 10)


def garments() -> Table:
    """Fashion-MNIST in 40 principal components, ten classes, 100 : 1."""
    data = fashion()
    features, codes = _thinned((data.features.to_numpy(np.float32) / 255, data.target[:, 0]), 50)
    return PCA(40, random_state=0).fit_transform(features).astype(np.float32), codes


def clouds() -> Table:
    """Twenty made-up classes whose frequencies fall like 1/k, a twentieth of the labels wrong."""
    features, codes = make_classification(
        20_000,
        n_features=20,
        n_informative=12,
        n_redundant=0,
        n_classes=20,
        n_clusters_per_class=1,
        weights=list(1 / np.arange(1, 21) / (1 / np.arange(1, 21)).sum()),
        flip_y=0.05,
        class_sep=1.2,
        random_state=0,
    )
    return features.astype(np.float32), codes.astype(np.int64)


def speech() -> Table:
    """Words of the Greek New Testament and their parts of speech, twelve classes."""
    return _greek("part of speech", least=200)


def tense() -> Table:
    """Words of the Greek New Testament and the tense of each, most having none: seven classes."""
    return _greek("tense", least=50)


def _greek(attribute: str, least: int) -> Table:
    words = all_words()
    rows = words.sample(20_000, random_state=0).fillna("")
    counts = words[attribute].value_counts()
    rows = rows[rows[attribute].isin(counts[counts >= least].index)]
    near = rows["previous"].str[-3:].str.rjust(3), rows["next"].str[-3:].str.rjust(3)
    letters = rows["word"].str[:2].str.rjust(2) + rows["word"].str[-4:].str.rjust(4) + near[0] + near[1]
    columns = np.array([list(text) for text in letters])
    codes = np.column_stack([np.unique(column, return_inverse=True)[1] for column in columns.T])
    return codes.astype(np.float32), rows[attribute].astype("category").cat.codes.to_numpy(np.int64)


def genes() -> Table:
    """Genes of yeast and the functions of each, 14 labels."""
    data = yeast()
    return data.features.to_numpy(np.float32), data.target.astype(np.int64)


def topics() -> Table:
    """Made-up documents of 20 topics, two or three each."""
    features, labels = make_multilabel_classification(
        12_000, n_features=40, n_classes=20, n_labels=2, length=30, random_state=0
    )
    return features.astype(np.float32), labels.astype(np.int64)


TASKS = (
    Task("digits", digits, 200, 200, 400),
    Task("segments", segments, 250, 200, 600),
    Task("flares", tables.flares, 400, 200, 500),
    Task("bananas", bananas, 500, 1000, 2000),
    Task("garments", garments, 1500, 1000, 2500),
    Task("speech", speech, 2000, 5000, 4000, categorical=True),
    Task("tense", tense, 2000, 5000, 4000, categorical=True),
    Task("clouds", clouds, 2000, 5000, 4000),
    Task("genes", genes, 800, 800, 817),
    Task("topics", topics, 1500, 5000, 4000),
)
"""Eight choices of one class and two of several labels."""
