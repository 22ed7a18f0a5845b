"""Targets that are distributions: ten people's ratings of a word, a teacher's probabilities, smoothed labels."""

from dataclasses import replace
from functools import cache, partial

import numpy as np
import torch
from benchmarks.quality.task import Rows, Split, Task
from benchmarks.quality.tasks.fashion import CLASSES, cnn, draw, mlp
from benchmarks.quality.train import answers, fit
from torch import nn
from torch.nn import functional as F

from equilog.compare.data.bundled import vader
from equilog.compare.data.dataset import Dataset
from equilog.compare.data.features import make_preprocessor

TEMPERATURE = 2.0
"""What the teacher's logits are divided by, so that it says more than its first choice (Hinton et al. 2015)."""

SMOOTHING = 0.1
MIXING = 0.4


@cache
def lexicon() -> Dataset:
    """Return the words and their ratings."""
    return vader()


def draw_ratings(seed: int) -> Split:
    """Return the split of a seed: 4,000 words to train on, 1,000 to choose by, the rest to test on."""
    dataset = lexicon()
    order = np.random.default_rng(seed).permutation(len(dataset.target))
    train, valid, test = np.split(order, (4000, 5000))
    preprocessor, _ = make_preprocessor(dataset.features.iloc[train])
    preprocessor.fit(dataset.features.iloc[train])

    def rows(index: np.ndarray) -> Rows:
        features = preprocessor.transform(dataset.features.iloc[index])
        return Rows(torch.from_numpy(features), (torch.from_numpy(dataset.target[index]).float(),))

    return Split(rows(train), rows(valid), rows(test), (dataset.target.shape[1],))


def rating_network(split: Split, hidden: int = 64) -> nn.Module:
    """Two layers."""
    inputs = split.train.features.shape[1]
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(0.5), nn.Linear(hidden, split.classes[0]))


def linear(split: Split) -> nn.Module:
    """One layer, which cannot say what the teacher says."""
    return nn.Linear(split.train.features.shape[1], split.classes[0])


@cache
def teacher(seed: int) -> nn.Module:
    """Return the network of convolutions that the students of a seed learn from, trained on 8,000 garments."""
    with torch.random.fork_rng():
        model, _ = fit(TEACHER, TEACHER.load(seed), "cross-entropy", seed, learning_rate=5e-3, weight_decay=1e-2)
    return model


def draw_taught(seed: int, imbalance: float, head: int) -> Split:
    """Return garments with what the teacher says of them; all that a student learns from is the teacher's too."""
    split = draw(seed, imbalance, head=head)

    def taught(rows: Rows) -> Rows:
        (logits,) = answers(teacher(seed), rows)
        return Rows(rows.features, ((logits / TEMPERATURE).softmax(1),))

    return replace(split, train=taught(split.train), valid=taught(split.valid), test=taught(split.test))


def draw_smoothed(seed: int, imbalance: float) -> Split:
    """Return unequal garments whose training labels are smoothed; validation and test labels are not."""
    split = as_distributions(draw(seed, imbalance))
    (hard,) = split.train.targets
    smoothed = (1 - SMOOTHING) * hard + SMOOTHING / CLASSES
    return replace(split, train=Rows(split.train.features, (smoothed,)))


def draw_mixed(seed: int, imbalance: float) -> Split:
    """Return unequal garments, and beside every training row a mixture of two (Zhang et al. 2018, arXiv 1710.09412).

    So half of the training rows have one class and half have two, their shares by Beta(0.4, 0.4).
    """
    split = as_distributions(draw(seed, imbalance))
    rows, (hard,) = split.train.features, split.train.targets
    rng = np.random.default_rng(seed)
    other = torch.from_numpy(rng.permutation(len(rows)))
    share = torch.from_numpy(rng.beta(MIXING, MIXING, (len(rows), 1))).float()
    mixed = [share * values + (1 - share) * values[other] for values in (rows, hard)]
    return replace(split, train=Rows(torch.cat((rows, mixed[0])), (torch.cat((hard, mixed[1])),)))


def as_distributions(split: Split) -> Split:
    """Return a split whose targets are distributions."""

    def hard(rows: Rows) -> Rows:
        return Rows(rows.features, (F.one_hot(rows.targets[0], CLASSES).float(),))

    return replace(split, train=hard(split.train), valid=hard(split.valid), test=hard(split.test))


TEACHER = Task(
    name="teacher",
    kind="multiclass",
    question="What does the teacher know?",
    load=partial(draw, imbalance=1, head=800),
    model=cnn,
    settings=("cross-entropy",),
    metric="accuracy",
    epochs=6,
    batch_size=64,
)

OURS = (
    *("class-16-none", "class-batch-none", "class-batch-none-offset", "class-batch-none-uncompensated"),
    *("pair-16-none", "pair-batch-none"),
)
INNERS = tuple(f"class-{pool}-none-{inner}" for inner in ("nll", "divergence", "power") for pool in (16, "batch"))

_distilled = partial(
    Task,
    kind="soft",
    settings=("cross-entropy", *OURS, *INNERS),
    metric="kl",
    epochs=15,
    batch_size=64,
    learning_rates=(3e-3, 1e-2, 3e-2),
    correlation=0.1,
)

_unequal = partial(
    Task,
    kind="soft",
    model=mlp,
    settings=(
        *("cross-entropy", "logit-adjusted", "balanced-softmax", "weighted-cross-entropy"),
        *OURS,
        *("class-4-auto", "class-16-auto", "class-batch-auto", "pair-batch-auto"),
        *INNERS,
        *("class-16-auto-nll", "class-16-auto-divergence", "class-16-auto-power"),
    ),
    metric="accuracy",
    epochs=15,
    learning_rates=(3e-3, 1e-2, 3e-2),
    imbalance=50,
    correlation=0.05,
)

TASKS = [
    Task(
        name="ratings",
        kind="soft",
        question="Ten people's ratings of a word, -4 to 4, told from its letters: which loss comes nearest to them?",
        load=draw_ratings,
        model=rating_network,
        settings=("cross-entropy", "class-1-none", *OURS, *INNERS),
        metric="kl",
        epochs=12,
        batch_size=64,
        learning_rates=(2e-3, 8e-3, 3e-2),
        correlation=0.35,
        quick=True,
    ),
    _distilled(
        name="distil-cnn",
        question="A student that can say all that its teacher says: which loss comes nearest?",
        load=partial(draw_taught, imbalance=1, head=200),
        model=cnn,
        settings=("cross-entropy", "class-16-none", "class-batch-none", "pair-batch-none", *INNERS),
        weight_decays=(1e-2,),
    ),
    _distilled(
        name="distil-mlp",
        question="A student of two layers: which loss comes nearest to the teacher?",
        load=partial(draw_taught, imbalance=1, head=300),
        model=mlp,
        quick=True,
    ),
    _distilled(
        name="distil-linear",
        question="A student that cannot say what its teacher says: which loss comes nearest?",
        load=partial(draw_taught, imbalance=1, head=300),
        model=linear,
    ),
    _distilled(
        name="distil-mlp-50",
        question="A student that sees fifty times more of one garment than of another: which loss comes nearest?",
        load=partial(draw_taught, imbalance=50, head=1000),
        model=mlp,
        imbalance=50,
    ),
    _unequal(
        name="smoothing-50",
        question="Unequal classes and smoothed labels: which loss finds the rare ones?",
        load=partial(draw_smoothed, imbalance=50),
        version=2,
    ),
    _unequal(
        name="mixup-50",
        question="Unequal classes, every second training row a mixture of two: which loss finds the rare ones?",
        load=partial(draw_mixed, imbalance=50),
        settings=(
            *("cross-entropy", "logit-adjusted", "balanced-softmax", "weighted-cross-entropy"),
            *("class-batch-none", "class-4-auto", "class-16-auto"),
            *(f"class-16-auto-{inner}" for inner in ("nll", "divergence", "power")),
        ),
        epochs=10,
    ),
]
