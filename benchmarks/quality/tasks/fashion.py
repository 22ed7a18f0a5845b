"""Garments of Fashion-MNIST made unequal: imbalance 10 to 200, small networks, small batches, wrong labels.

5,000 test images, the same for every seed; each seed draws its own training and validation rows from the 60,000
others. The 28 x 28 pixels are averaged to 14 x 14, which costs a network of this size little and makes it four times
as fast. Training rows fall from 1,000 of the first class to 1,000 / imbalance of the last; the order of the classes is
shuffled by the seed, so that no garment is rare by decree. Validation rows are balanced, 100 a class, as is the custom
where learning rates are chosen for long tails: with a rare class of five rows there would be nothing to choose by.
"""

import gzip
import math
from functools import cache, partial

import numpy as np
import torch
from benchmarks.quality.settings import PEERS
from benchmarks.quality.task import Rows, Split, Task
from torch import Tensor, nn
from torch.nn import functional as F

from equilog.compare.data.bundled import FASHION_FOLDER
from equilog.compare.data.long_tail import thin_to_long_tail
from equilog.compare.errors import DataError

CLASSES = 10
HEAD = 1000
"""Training rows of the most frequent class."""
DECAYS = (1e-2, 3e-1)
VALID = 100
"""Validation rows of each class."""
TESTED = 5000
"""Test rows, the first of their file, whose order is random."""


@cache
def images(part: str) -> tuple[Tensor, Tensor]:
    """Return the images (n, 196) scaled to mean 0 and deviation 1 and the classes (n,) of "train" or "t10k"."""

    def values(name: str, header: int) -> Tensor:
        path = FASHION_FOLDER / name
        try:
            with gzip.open(path) as file:
                return torch.from_numpy(np.frombuffer(file.read(), np.uint8, offset=header).copy())
        except OSError as error:
            raise DataError(
                f"{path} cannot be opened. On Debian or Ubuntu: apt install dataset-fashion-mnist"
            ) from error

    pixels = values(f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28).float() / 255
    # Mean and deviation of the training pixels after averaging.
    features = (F.avg_pool2d(pixels, 2).flatten(1) - 0.286) / 0.328
    return features, values(f"{part}-labels-idx1-ubyte.gz", 8).long()


def draw(seed: int, imbalance: float, *, head: int = HEAD, flipped: float = 0.0) -> Split:
    """Return the split of a seed, its training classes falling by `imbalance` and a share of their labels wrong.

    A flipped label is any other class, each as likely. Validation and test labels stay right.
    """
    features, original = images("train")
    test_features, test_original = (part[:TESTED] for part in images("t10k"))
    rng = np.random.default_rng(seed)
    rank = torch.from_numpy(rng.permutation(CLASSES))  # the place of each garment in the order from frequent to rare
    codes, test_codes = rank[original], rank[test_original]
    shuffled = torch.from_numpy(rng.permutation(len(codes)))
    of_class = [shuffled[codes[shuffled] == c] for c in range(CLASSES)]
    valid = torch.cat([rows[:VALID] for rows in of_class])
    candidates = torch.cat([rows[VALID : VALID + head] for rows in of_class])
    train = candidates[thin_to_long_tail(codes[candidates].numpy(), imbalance, seed)]
    labels = codes[train]
    if flipped:
        wrong = torch.from_numpy(rng.random(len(labels)) < flipped)
        other = (labels + torch.from_numpy(rng.integers(1, CLASSES, len(labels)))) % CLASSES
        labels = torch.where(wrong, other, labels)
    return Split(
        train=Rows(features[train], (labels,)),
        valid=Rows(features[valid], (codes[valid],)),
        test=Rows(test_features, (test_codes,)),
        classes=(CLASSES,),
        valid_as_drawn=torch.from_numpy(thin_to_long_tail(codes[valid].numpy(), imbalance, seed)),
        test_as_drawn=torch.from_numpy(thin_to_long_tail(test_codes.numpy(), imbalance, seed)),
    )


def mlp(split: Split, hidden: int = 128) -> nn.Module:
    """Two layers."""
    return nn.Sequential(nn.Linear(split.train.features.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))


def cnn(split: Split, channels: int = 16) -> nn.Module:
    """Two layers of convolutions and a linear one, for square images of one colour."""
    side = math.isqrt(split.train.features.shape[1])
    return nn.Sequential(
        nn.Unflatten(1, (1, side, side)),
        nn.Conv2d(1, channels, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(channels, 2 * channels, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(2 * channels * (side // 4) ** 2, *split.classes),
    )


POOLS = ("class-4-none", "class-16-none", "class-64-none", "class-batch-none")
PRIORS = ("class-1-auto", "class-4-auto", "class-16-auto", "class-64-auto", "class-batch-auto")
INNERS = (
    *("class-batch-none-nll", "class-batch-none-divergence"),
    *("class-16-auto-nll", "class-16-auto-divergence"),
)
FEW = (
    *("cross-entropy", "logit-adjusted", "balanced-softmax", "weighted-cross-entropy", "ldam-drw"),
    *("class-batch-none", "class-1-auto", "class-4-auto", "class-16-auto", "class-batch-auto", "class-16-auto-nll"),
)
EVERY = (
    *PEERS,
    *POOLS,
    *PRIORS,
    *("class-16-known", "class-stream-none", "class-stream-auto"),
    *("pair-batch-none", "pair-batch-auto", "class-16-auto-half", "truncated-4-known"),
    *INNERS,
)
SMALL = (
    *("cross-entropy", "balanced-softmax", "class-batch-none", "class-stream-none"),
    *("class-16-auto", "class-batch-auto", "class-stream-auto"),
)
CONVOLUTIONS = (
    *("cross-entropy", "logit-adjusted", "balanced-softmax", "ldam-drw"),
    *("class-batch-none", "class-16-auto", "class-batch-auto", "class-16-auto-nll"),
)
NOISE = (
    *("cross-entropy", "balanced-softmax", "generalized", "focal"),
    *("class-4-none", "class-16-none", "class-batch-none", "class-batch-none-half"),
    *("class-1-auto", "class-4-auto", "class-16-auto", "class-batch-auto", "class-16-auto-half"),
    "truncated-4-known",
    *INNERS,
)

_task = partial(
    Task,
    kind="multiclass",
    model=mlp,
    metric="balanced_accuracy",
    epochs=15,
    learning_rates=(3e-3, 1e-2, 3e-2, 1e-1),
    # At imbalance 10 a seed draws 4,000 of 60,000 rows.
    correlation=0.05,
)

TASKS = [
    *(
        _task(
            f"fashion-{imbalance}",
            question="What does each loss do for rare classes?",
            load=partial(draw, imbalance=imbalance),
            settings=EVERY if imbalance == 100 else FEW,
            weight_decays=DECAYS if imbalance == 100 else DECAYS[:1],
            tuned_on=3,
            imbalance=imbalance,
            quick=imbalance == 100,
        )
        for imbalance in (100, 10, 50, 200)
    ),
    *(
        _task(
            f"fashion-noise-{percent}",
            question="What do wrong labels do to a loss that is exponential inside, and what helps?",
            load=partial(draw, imbalance=10, head=500, flipped=percent / 100),
            settings=NOISE,
            tuned_on=3,
            learning_rates=(1e-3, 3e-3, 1e-2, 3e-2),
            imbalance=10,
            quick=percent == 40,
        )
        for percent in (40, 20)
    ),
    *(
        _task(
            f"fashion-batches-of-{size}",
            question="How do small batches do, and what does the stream repair?",
            load=partial(draw, imbalance=100),
            settings=SMALL,
            epochs=epochs,
            batch_size=size,
            learning_rates=rates,
            imbalance=100,
        )
        for size, epochs, rates in (
            (8, 4, (6e-4, 2e-3, 6e-3)),
            (32, 8, (2e-3, 6e-3, 2e-2)),
            (512, 30, (6e-3, 2e-2, 6e-2)),
        )
    ),
    _task(
        "fashion-cnn-100",
        question="Is it the same for a network of convolutions?",
        load=partial(draw, imbalance=100),
        model=cnn,
        settings=CONVOLUTIONS,
        learning_rates=(4e-3, 1e-2, 3e-2),
        imbalance=100,
    ),
]
