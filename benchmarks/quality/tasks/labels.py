"""Several yes/no labels a row: the functions of a gene, the forms of a word."""

from functools import cache, partial

import numpy as np
import torch
from benchmarks.quality.settings import LABEL_PEERS
from benchmarks.quality.task import Rows, Split, Task
from benchmarks.quality.treebank import Token, sentences
from benchmarks.quality.words import Vocabulary, frequent
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from equilog.compare.data.bundled import yeast
from equilog.compare.data.dataset import Dataset
from equilog.compare.data.splits import split_rows

LEAST = 100
"""Words that a form must have to be a label."""

LONGEST = 34
SENTENCES = (450, 100, 200)
"""To train on, to choose by and to test on."""


@cache
def genes() -> Dataset:
    """Return the genes of yeast and the functions of each."""
    return yeast()


def draw_genes(seed: int) -> Split:
    """Return the split of a seed: half to train on, a fifth to choose by, the rest to test on."""
    dataset = genes()
    rest, test = split_rows(dataset, 0.3, seed)
    valid, train = np.split(np.random.default_rng(seed).permutation(rest), [len(dataset.target) // 5])
    numbers = dataset.features.to_numpy(np.float32)
    scaler = StandardScaler().fit(numbers[train])

    def rows(index: np.ndarray) -> Rows:
        return Rows(torch.from_numpy(scaler.transform(numbers[index])), (torch.from_numpy(dataset.target[index]),))

    return Split(rows(train), rows(valid), rows(test), (dataset.target.shape[1],))


def mlp(split: Split, hidden: int = 64) -> nn.Module:
    """Two layers."""
    inputs = split.train.features.shape[1]
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(0.3), nn.Linear(hidden, split.classes[0]))


def forms(token: Token) -> list[str]:
    """Return what is said of a token's form, such as "Case=Loc" and "Derivation=Pass".

    That a word is no name is left out: the label that it is one says the same.
    """
    return [f"{name}={value}" for name, value in token.features if (name, value) != ("Proper", "False")]


def draw_words(seed: int) -> Split:
    """Return the split of a seed: a row is a word, told by itself and its neighbours; no sentence is in two parts."""
    everything = sentences("web", LONGEST)
    labels = frequent((form for sentence in everything for token in sentence for form in forms(token)), LEAST)
    place = {label: column for column, label in enumerate(labels)}
    order = np.random.default_rng(seed).permutation(len(everything))
    chosen = [[everything[number] for number in part] for part in np.split(order, np.cumsum(SENTENCES))[:3]]
    vocabulary = Vocabulary(chosen[0])

    def rows(part: list[tuple[Token, ...]]) -> Rows:
        parts = vocabulary.padded(part, LONGEST)
        before = torch.nn.functional.pad(parts, (0, 0, 1, 0))[:, :-1]
        after = torch.nn.functional.pad(parts, (0, 0, 0, 1))[:, 1:]
        words = parts[:, :, 0] != 0
        target = torch.zeros(int(words.sum()), len(labels), dtype=torch.int64)
        tokens = (token for sentence in part for token in sentence)
        for row, token in zip(target, tokens, strict=True):
            row[[place[form] for form in forms(token) if form in place]] = 1
        return Rows(torch.stack((before, parts, after), 2)[words], (target,))

    train, valid, test = map(rows, chosen)
    return Split(train, valid, test, (len(labels),))


class Forms(nn.Module):
    """The sums of the embeddings of a word's parts and of its neighbours', and two layers."""

    def __init__(self, parts: int, labels: int, width: int = 32, hidden: int = 96) -> None:
        super().__init__()
        self.embedding = nn.Embedding(parts, width, padding_idx=0)
        # The sum of nine embeddings then starts at a deviation of 0.3, where a learning rate suits all layers alike.
        self.embedding.weight.data.mul_(0.1)
        self.layers = nn.Sequential(
            nn.Dropout(0.2), nn.Linear(3 * width, hidden), nn.ReLU(), nn.Dropout(0.2), nn.Linear(hidden, labels)
        )

    def forward(self, parts: Tensor) -> Tensor:
        """(N, 3, PARTS) numbers of parts -> logits (N, L)."""
        return self.layers(self.embedding(parts).sum(2).flatten(1))


def word_network(split: Split) -> nn.Module:
    """Return the network for a split, its embeddings as many as the training rows need."""
    return Forms(int(split.train.features.max()) + 1, split.classes[0])


SETTINGS = (
    *LABEL_PEERS,
    *("labels-sample", "labels-16", "labels-batch"),
    *("binary-cross-entropy-at-prior", "labels-sample-nll", "labels-batch-nll", "labels-sample-auto"),
)
IN_ORDER = (
    *("binary-cross-entropy", "asymmetric", "two-way", "smooth-ap"),
    *("labels-sample", "labels-batch", "labels-label", "labels-sample-nll", "labels-label-nll", "labels-label-auto"),
)

_genes = partial(
    Task,
    kind="multilabel",
    load=draw_genes,
    model=mlp,
    epochs=20,
    batch_size=64,
    learning_rates=(3e-3, 1e-2, 3e-2),
    imbalance=50,
    correlation=0.3,
    version=2,
)
_forms = partial(
    Task,
    kind="multilabel",
    load=draw_words,
    model=word_network,
    epochs=12,
    batch_size=64,
    learning_rates=(1e-3, 3e-3, 1e-2, 3e-2),
    imbalance=150,
    correlation=0.45,
    version=2,
)

TASKS = [
    _genes(
        name="yeast",
        question="14 functions of a gene, by measurements: which loss finds the rare labels, with which threshold?",
        settings=SETTINGS,
        metric="macro_f1",
        quick=True,
    ),
    _forms(
        name="forms",
        question="What is said of a Turkish word's form, 58 labels, 3 a word: which loss finds the rare ones?",
        settings=SETTINGS,
        metric="macro_f1",
    ),
    _genes(
        name="yeast-order",
        question="The functions of a gene: which loss orders the genes of each best?",
        settings=IN_ORDER,
        metric="map",
        seeds=10,
    ),
    _forms(
        name="forms-order",
        question="The forms of a word: which loss orders the words of each best?",
        settings=IN_ORDER,
        metric="map",
    ),
]
