"""What is trained: small tasks of the study, each with two networks."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from benchmarks.quality.task import Split, Task
from benchmarks.quality.tasks import fashion, tables
from torch import nn

TESTED = 2000
"""Garments tested on, the first of their file."""


@dataclass(frozen=True)
class Case:
    """One data set and one network."""

    data: str
    network: str
    task: Task


def fashion_rows(seed: int) -> Split:
    """Return at most 300 garments of a class, the classes falling to a hundredth, and a test set of natural classes."""
    split = fashion.draw(seed, imbalance=100, head=300)
    return replace(split, test=split.test.take(torch.arange(TESTED)))


def deep(split: Split, hidden: int = 64) -> nn.Module:
    """Four layers, with nothing that keeps a training stable."""
    return nn.Sequential(
        *(nn.Linear(split.train.features.shape[1], hidden), nn.ReLU()),
        *(nn.Linear(hidden, hidden), nn.ReLU()),
        *(nn.Linear(hidden, hidden), nn.ReLU()),
        nn.Linear(hidden, *split.classes),
    )


def _cases(
    data: str, load: Callable[[int], Split], epochs: int, networks: dict[str, Callable[[Split], nn.Module]]
) -> list[Case]:
    task = Task(
        data,
        kind="multiclass",
        question="Does the swap train where nobody tuned the learning rate?",
        load=load,
        model=tables.network,
        settings=(),
        metric="balanced_accuracy",
        epochs=epochs,
        batch_size=64,
    )
    return [Case(data, network, replace(task, model=model)) for network, model in networks.items()]


IMAGE_NETWORKS = {"MLP": tables.network, "convolutions": partial(fashion.cnn, channels=8)}
TABLE_NETWORKS = {"MLP": tables.network, "deep MLP": deep}

CASES = [
    *_cases("digits", partial(tables.split, read=tables.digits, imbalance=50), 24, IMAGE_NETWORKS),
    *_cases("fashion", fashion_rows, 10, IMAGE_NETWORKS),
    *_cases("segments", partial(tables.split, read=tables.segments, imbalance=50), 24, TABLE_NETWORKS),
    *_cases("flares", partial(tables.split, read=tables.flares, imbalance=None), 12, TABLE_NETWORKS),
    *_cases("bananas", partial(tables.split, read=tables.bananas, imbalance=50), 6, TABLE_NETWORKS),
]
"""Every data set with each of its networks."""
