"""Small tables with unequal classes: digits, image segments, solar flares, and two overlapping clouds.

All come inside packages: scikit-learn's digits, river's ImageSegments (Brodley 1990), SolarFlare (Bradshaw 1989) and
Bananas. Each seed splits the rows anew: 60 % to train on, 15 % to choose learning rate and weight decay on, 25 % to
test on, class by class. Where the classes are equal the training rows are thinned to a long tail in an order of the
classes that the seed shuffles; the other rows stay as they are.
"""

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import pandas as pd
import torch
from benchmarks.quality.task import Rows, Split, Task
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import OneHotEncoder
from torch import Tensor, nn

from equilog.compare.data.bundled import package
from equilog.compare.data.long_tail import thin_to_long_tail

Table = tuple[NDArray[np.float32], NDArray[np.int64]]


def digits() -> Table:
    """1,797 images of 8 x 8 pixels, ten classes."""
    pixels, codes = load_digits(return_X_y=True)
    return pixels.astype(np.float32), codes.astype(np.int64)


def segments() -> Table:
    """2,310 patches of outdoor images in 18 measurements, seven classes."""
    frame, target = _river("ImageSegments")
    return frame.to_numpy(np.float32), target.astype("category").cat.codes.to_numpy(np.int64)


def flares() -> Table:
    """1,066 regions of the sun: none, one, two, or more flares of class C within a day; 884 of them have none."""
    frame, target = _river("SolarFlare")
    names = [name for name in frame if not pd.api.types.is_numeric_dtype(frame[name])]
    letters = OneHotEncoder(sparse_output=False).fit_transform(frame[names])
    counts = target["c-class-flares"].clip(upper=3).to_numpy(np.int64)
    return np.hstack([frame.drop(columns=names), letters]).astype(np.float32), counts


def bananas() -> Table:
    """5,300 points of the plane in two overlapping clouds."""
    frame, target = _river("Bananas")
    return frame.to_numpy(np.float32), target.to_numpy(bool).astype(np.int64)


def _river(name: str) -> tuple[pd.DataFrame, pd.Series]:
    rows = list(getattr(package("river.datasets", name), name)())
    features = pd.DataFrame([row for row, _ in rows])
    targets = [target for _, target in rows]
    return features, pd.DataFrame(targets) if isinstance(targets[0], dict) else pd.Series(targets)


_read = cache(lambda read: read())


def split(seed: int, read: Callable[[], Table], imbalance: float | None) -> Split:
    """Return the split of a seed; `imbalance` thins the training rows."""
    features, codes = _read(read)
    classes = int(codes.max()) + 1
    if imbalance:
        codes = np.random.default_rng(seed).permutation(classes)[codes]
    rows, test = train_test_split(np.arange(len(codes)), test_size=0.25, stratify=codes, random_state=seed)
    train, valid = train_test_split(rows, test_size=0.2, stratify=codes[rows], random_state=seed)
    if imbalance:
        train = train[thin_to_long_tail(codes[train], imbalance, seed)]
    mean, deviation = features[train].mean(0), features[train].std(0)
    scaled = torch.from_numpy((features - mean) / np.where(deviation > 0, deviation, 1.0)).float()
    target = torch.tensor(codes)

    def as_drawn(index: NDArray[np.int64]) -> Tensor | None:
        return torch.from_numpy(thin_to_long_tail(codes[index], imbalance, seed)) if imbalance else None

    return Split(
        *(Rows(scaled[index], (target[index],)) for index in map(torch.from_numpy, (train, valid, test))),
        classes=(classes,),
        valid_as_drawn=as_drawn(valid),
        test_as_drawn=as_drawn(test),
    )


def network(split: Split, hidden: int = 64) -> nn.Module:
    """Two layers."""
    return nn.Sequential(
        nn.Linear(split.train.features.shape[1], hidden),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(hidden, *split.classes),
    )


_task = partial(
    Task,
    kind="multiclass",
    question="What does each loss do for rare classes of small tables?",
    model=network,
    settings=(
        *("cross-entropy", "logit-adjusted", "balanced-softmax", "weighted-cross-entropy", "focal", "ldam-drw"),
        *("class-batch-none", "class-1-auto", "class-4-auto", "class-16-auto", "class-batch-auto", "class-16-auto-nll"),
    ),
    metric="balanced_accuracy",
    epochs=50,
    batch_size=64,
    learning_rates=(2e-3, 6e-3, 2e-2, 6e-2),
    tuned_on=3,
    correlation=0.25,
)

TASKS = [
    _task("digits-50", load=partial(split, read=digits, imbalance=50), imbalance=50, quick=True),
    _task("segments-50", load=partial(split, read=segments, imbalance=50), imbalance=50),
    _task("flares", load=partial(split, read=flares, imbalance=None), imbalance=884 / 33),
    _task("bananas-50", load=partial(split, read=bananas, imbalance=50), epochs=20, imbalance=50),
]
