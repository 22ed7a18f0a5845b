"""Words of the Greek New Testament: nine choices of grammar a row, as one tensor of logits.

Every set has its own classes, "none" among them. Side by side that is 51 classes, of which those of the other
attributes are at minus infinity and take no part. No class is in two sets of a row, so a pool of one row is
cross-entropy; 144 sets are 16 rows.
"""

from functools import cache

import numpy as np
import torch
from benchmarks.quality.task import Rows, Split, Task
from torch import Tensor, nn

from equilog.compare.data.dataset import Dataset
from equilog.compare.data.features import make_preprocessor
from equilog.compare.data.greek import greek
from equilog.compare.data.splits import split_rows


@cache
def words() -> Dataset:
    """Return the 6,000 words and their nine attributes."""
    return greek()


def draw(seed: int) -> Split:
    """Return the split of a seed: three fifths to train on, a tenth to choose by, three tenths to test on."""
    dataset = words()
    rest, test = split_rows(dataset, 0.3, seed)
    valid, train = np.split(np.random.default_rng(seed).permutation(rest), [len(dataset.target) // 10])
    preprocessor, _ = make_preprocessor(dataset.features.iloc[train])
    preprocessor.fit(dataset.features.iloc[train])
    sizes = [len(names) for names in dataset.class_names]
    target = dataset.target + np.cumsum([0, *sizes[:-1]])

    def rows(index: np.ndarray) -> Rows:
        features = preprocessor.transform(dataset.features.iloc[index])
        return Rows(torch.from_numpy(features), (torch.from_numpy(target[index]),))

    return Split(rows(train), rows(valid), rows(test), (sum(sizes),))


class Grammar(nn.Module):
    """Two layers; logits (N, C, 9), minus infinity where a class is not one of the attribute's."""

    other: Tensor

    def __init__(self, inputs: int, sizes: list[int], hidden: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(0.3), nn.Linear(hidden, sum(sizes))
        )
        owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        self.register_buffer("other", owner[:, None] != torch.arange(len(sizes)))

    def forward(self, features: Tensor) -> Tensor:
        """(N, inputs) -> (N, C, 9)."""
        return self.layers(features)[:, :, None].masked_fill(self.other, -torch.inf)


def network(split: Split) -> nn.Module:
    """Return the network for a split."""
    return Grammar(split.train.features.shape[1], [len(names) for names in words().class_names])


TASKS = [
    Task(
        name="greek",
        kind="multiclass",
        question="Nine choices of grammar for each word, 51 classes in all: which loss finds the rare forms?",
        load=draw,
        model=network,
        settings=(
            "cross-entropy", "logit-adjusted", "balanced-softmax", "weighted-cross-entropy", "class-balanced", "ldam",
            "class-16-none", "class-64-none", "class-144-none", "class-batch-none", "class-stream-none",
            "class-144-auto", "class-batch-auto",
        ),
        metric="macro_f1",
        epochs=12,
        batch_size=64,
        imbalance=600,
        correlation=0.3,
    ),
]  # fmt: skip
