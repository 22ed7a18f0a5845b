"""Grids of yes/no labels, one positive in hundreds or thousands: spans that are entities, pairs of words that depend.

A row is a sentence, a cell a span or an ordered pair of its words, and each cell has a label for every type. Cells that
reach beyond the end of a sentence are left out. Sentences are split anew by each seed.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from benchmarks.quality import entities, treebank
from benchmarks.quality.task import IGNORED, Rows, Split, Task
from benchmarks.quality.words import Reader, Vocabulary, Word, frequent
from torch import Tensor, nn

Marks = list[tuple[int, int, str]]
"""The true cells of a sentence: first place, second place, type."""

WORDS = 60
"""Longest sentence whose spans are asked for."""
WIDEST = 8
"""Words of the widest span."""
TOKENS = 14
"""Longest sentence whose pairs are asked for."""
LEAST = 30
"""Times that a type must occur to be a label."""


@cache
def spans(longest: int) -> Tensor:
    """Return the first and last word of every span of at most `WIDEST` words, (cells, 2)."""
    return torch.tensor([(i, j) for i in range(longest) for j in range(i, min(i + WIDEST, longest))])


@cache
def pairs(longest: int) -> Tensor:
    """Return every ordered pair of words, a word with itself among them for those that depend on none, (cells, 2)."""
    return torch.cartesian_prod(torch.arange(longest), torch.arange(longest))


def entity_marks(sentence: Sequence[Any]) -> Marks:
    """Return the entities of a sentence."""
    return [(entity.first, entity.last, entity.kind) for entity in entities.entities(tuple(sentence))]


def arc_marks(sentence: Sequence[Any]) -> Marks:
    """Return which word depends on which, and how."""
    return [(place, token.head, token.relation) for place, token in enumerate(sentence)]


def draw(
    seed: int,
    read: Callable[[], Sequence[Sequence[Word]]],
    marks: Callable[[Sequence[Any]], Marks],
    cells: Tensor,
    longest: int,
    sizes: tuple[int, int, int],
) -> Split:
    """Return the split of a seed: so many sentences to train on, to choose by and to test on."""
    everything = read()
    kinds = frequent((kind for sentence in everything for _, _, kind in marks(sentence)), LEAST)
    order = np.random.default_rng(seed).permutation(len(everything))
    chosen = [[everything[place] for place in part] for part in np.split(order, np.cumsum(sizes))[:3]]
    vocabulary = Vocabulary(chosen[0])
    place = {(int(i), int(j)): number for number, (i, j) in enumerate(cells)}
    column = {kind: number for number, kind in enumerate(kinds)}

    def rows(part: list[Sequence[Word]]) -> Rows:
        target = torch.full((len(part), len(cells), len(kinds)), IGNORED, dtype=torch.int8)
        for labels, sentence in zip(target, part, strict=True):
            labels[(cells < len(sentence)).all(1)] = 0
            for first, second, kind in marks(sentence):
                if (first, second) in place and kind in column:
                    labels[place[first, second], column[kind]] = 1
        return Rows(vocabulary.padded(part, longest), (target,))

    train, valid, test = map(rows, chosen)
    return Split(train, valid, test, (len(kinds),))


class Cells(nn.Module):
    """What is read at both words of each cell and how far they are apart, through one hidden layer.

    Logits (N, cells, L).
    """

    cells: Tensor

    def __init__(self, parts: int, cells: Tensor, labels: int, hidden: int = 64) -> None:
        super().__init__()
        self.reader = Reader(parts, hidden=hidden)
        self.first = nn.Linear(hidden, hidden)
        self.second = nn.Linear(hidden, hidden, bias=False)
        self.apart = nn.Embedding(2 * int(cells.max()) + 1, hidden)
        self.apart.weight.data.mul_(0.1)
        self.dropout = nn.Dropout(0.2)
        self.register_buffer("cells", cells)
        self.head = nn.Linear(hidden, labels)

    def forward(self, parts: Tensor) -> Tensor:
        """(N, T, PARTS) numbers of parts -> logits."""
        words = self.reader(parts).mT
        first, second = self.cells.T
        distance = self.apart(second - first + len(self.apart.weight) // 2)
        both = self.first(words)[:, first] + self.second(words)[:, second] + distance
        return self.head(self.dropout(both.relu()))


def network(split: Split, cells: Tensor) -> nn.Module:
    """Return the network for a split, its embeddings as many as the training rows need."""
    return Cells(int(split.train.features.max()) + 1, cells, split.classes[0])


SETTINGS = (
    "binary-cross-entropy-at-prior",
    *("binary-cross-entropy", "focal-labels-at-prior", "asymmetric-at-prior", "with-dice-at-prior"),
    *(f"labels-{pool}-at-prior" for pool in (1, 8, 64, "sample", "batch", "label")),
    *("labels-sample", "labels-8-auto", "labels-sample-nll-at-prior"),
)

_grid = partial(
    Task,
    kind="multilabel",
    settings=SETTINGS,
    metric="micro_f1",
    batch_size=16,
    learning_rates=(3e-3, 1e-2, 3e-2),
    seeds=3,
)

TASKS = [
    _grid(
        name="spans",
        question="Which spans of a Japanese sentence are entities, of which type: one label in thousands is yes.",
        load=partial(
            draw,
            read=partial(entities.sentences, WORDS),
            marks=entity_marks,
            cells=spans(WORDS),
            longest=WORDS,
            sizes=(300, 80, 100),
        ),
        model=partial(network, cells=spans(WORDS)),
        epochs=20,
        imbalance=2000,
        correlation=0.26,
    ),
    _grid(
        name="arcs",
        question="Which word of a Turkish sentence depends on which, and how: one label in hundreds is yes.",
        load=partial(
            draw,
            read=partial(treebank.sentences, "web", TOKENS),
            marks=arc_marks,
            cells=pairs(TOKENS),
            longest=TOKENS,
            sizes=(400, 60, 100),
        ),
        model=partial(network, cells=pairs(TOKENS)),
        epochs=12,
        imbalance=300,
        correlation=0.22,
    ),
]
