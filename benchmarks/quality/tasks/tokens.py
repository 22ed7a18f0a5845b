"""Words of sentences: which losses, and which pools, find the rare tags.

A row is a sentence, a set a word. Sentences are split anew by each seed; a pool of 16 positions holds 16 less those
that are padding. Tags seen on fewer than 40 words of the whole treebank are left out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from benchmarks.quality.task import IGNORED, Rows, Split, Task
from benchmarks.quality.treebank import Token, sentences
from benchmarks.quality.words import Tagger, Vocabulary, frequent
from torch import nn

LEAST = 40
"""Words that a tag must have to be a class."""

ATTRIBUTES = ("Case", "Possessive", "PersonNumber", "TenseAspectMood", "Polarity", "Copula")
"""The attributes with two values or more that most words of some kind have."""


@dataclass(frozen=True)
class Source:
    """Which sentences, and how many."""

    name: str
    longest: int
    train: int
    valid: int
    test: int


WEB = Source("web", longest=24, train=700, valid=400, test=800)
WIKI = Source("wiki", longest=28, train=500, valid=300, test=600)


def tag(token: Token) -> str:
    """Return the part of speech, of the 44 fine ones."""
    return token.tag


def attribute(token: Token, name: str) -> str:
    """Return the value of an attribute, "none" being one."""
    return token.value(name)


DERIVATION = partial(attribute, name="Derivation")
"""By which suffix a word was made from another; four of five words by none."""


def draw(seed: int, source: Source, read: Sequence[Callable[[Token], str]]) -> Split:
    """Return the split of a seed, with a head for each thing read off a word."""
    everything = sentences(source.name, source.longest)
    order = np.random.default_rng(seed).permutation(len(everything))
    ends = np.cumsum((source.train, source.valid, source.test))
    chosen = [[everything[place] for place in part] for part in np.split(order, ends)[:3]]
    classes = [frequent((each(token) for sentence in everything for token in sentence), LEAST) for each in read]
    codes = [{value: code for code, value in enumerate(values)} for values in classes]
    vocabulary = Vocabulary(chosen[0])

    def rows(part: Sequence[Sequence[Token]]) -> Rows:
        targets = [torch.full((len(part), source.longest), IGNORED) for _ in read]
        for target, each, code in zip(targets, read, codes, strict=True):
            for row, sentence in zip(target, part, strict=True):
                row[: len(sentence)] = torch.tensor([code.get(each(token), IGNORED) for token in sentence])
        return Rows(vocabulary.padded(part, source.longest), tuple(targets))

    train, valid, test = map(rows, chosen)
    return Split(train, valid, test, tuple(map(len, classes)))


def tagger(split: Split) -> nn.Module:
    """Return the network for the heads of a split, its embeddings as many as the training rows need."""
    return Tagger(int(split.train.features.max()) + 1, split.classes)


PEERS = ("cross-entropy", "logit-adjusted", "balanced-softmax", "weighted-cross-entropy", "class-balanced", "focal",
         "ldam")  # fmt: skip
POOLS = ("class-4-none", "class-16-none", "class-sample-none", "class-batch-none", "class-stream-none")
PRIORS = ("class-16-auto", "class-sample-auto", "class-batch-auto", "pair-batch-none")

TASKS = [
    Task(
        name="tags",
        kind="multiclass",
        question="Web sentences, 35 parts of speech: which pool finds the rare ones?",
        load=partial(draw, source=WEB, read=(tag,)),
        model=tagger,
        settings=(*PEERS, *POOLS, *PRIORS),
        metric="macro_f1",
        epochs=12,
        batch_size=16,
        learning_rates=(5e-3, 1e-2, 2e-2),
        imbalance=200,
        correlation=0.45,
        quick=True,
    ),
    Task(
        name="derivations",
        kind="multiclass",
        question="Encyclopaedia sentences, the suffix that made a word, four of five have none: which pool finds them?",
        load=partial(draw, source=WIKI, read=(DERIVATION,)),
        model=tagger,
        settings=(*PEERS, *POOLS, *PRIORS),
        metric="macro_f1",
        epochs=12,
        batch_size=16,
        learning_rates=(5e-3, 1e-2, 2e-2, 4e-2),
        imbalance=900,
        correlation=0.5,
    ),
    Task(
        name="attributes",
        kind="multiclass",
        question="Web sentences, six attributes of each word, each a choice of its own: which pool?",
        load=partial(draw, source=WEB, read=tuple(partial(attribute, name=name) for name in ATTRIBUTES)),
        model=tagger,
        settings=(
            *("cross-entropy", "logit-adjusted", "balanced-softmax"),
            *("class-16-none", "class-sample-none", "class-batch-none", "class-16-auto"),
        ),
        metric="macro_f1",
        epochs=12,
        batch_size=16,
        learning_rates=(5e-3, 1e-2, 2e-2, 4e-2),
        correlation=0.45,
    ),
]
