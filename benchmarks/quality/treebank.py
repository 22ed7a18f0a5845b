"""Turkish sentences whose words are tagged by hand, read from the package turkish-treebanks.

Kayadelen, Öztürel & Bohnet, "A Gold Standard Dependency Treebank for Turkish", LREC 2020 (Apache 2.0): 2,541 sentences
of web pages and 2,310 of Wikipedia. A word that grammar takes apart, a verb made into a noun say, is several tokens.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import torch
from torch import Tensor, nn

from equilog.compare.errors import DataError

PARTS = 9
"""What is looked at in a token: itself, its last 1 to 5 letters, its first and first 3, and its shape."""


@dataclass(frozen=True)
class Token:
    """A line of a CoNLL-U file."""

    form: str
    tag: str
    features: tuple[tuple[str, str], ...]
    """(attribute, value), in the order of the file; an attribute may come twice."""

    def value(self, attribute: str) -> str:
        """Return the attribute's value, the first where there are several, or "none"."""
        return next((value for name, value in self.features if name == attribute), "none")

    @property
    def parts(self) -> list[str]:
        """The `PARTS` strings that the token is told by."""
        word = self.form.lower()
        ends = [f"{length}-{word[-length:]}" for length in range(1, 6)]
        shape = f"{self.form[0].isupper()} {self.form.isalnum()} {any(letter.isdigit() for letter in word)}"
        return [word, *ends, f"{word[:1]}-", f"{word[:3]}-", shape]


@cache
def sentences(name: str, longest: int) -> tuple[tuple[Token, ...], ...]:
    """Return the sentences of "web" or "wiki" of at most `longest` tokens.

    Raises:
        DataError: where the package is not installed.
    """
    blocks = _file(f"{name}.conllu").read_text(encoding="utf-8").split("\n\n")
    lines = ([line.split("\t") for line in block.splitlines() if line[:1].isdigit()] for block in blocks)
    return tuple(tuple(map(_token, rows)) for rows in lines if 0 < len(rows) <= longest)


def _file(name: str) -> Path:
    # Importing the package would ask for protobuf, which the files do without.
    try:
        found = [file for file in files("turkish-treebanks") or () if file.name == name]
    except PackageNotFoundError as error:
        raise DataError("The treebank needs a package: pip install 'equilog[data]'") from error
    return Path(str(found[0].locate()))


def _token(columns: Sequence[str]) -> Token:
    _, form, _, _, tag, features, *_ = columns
    pairs = (tuple(feature.split("=", 1)) for feature in features.split("|") if feature != "_")
    return Token(form, tag, tuple((name, value) for name, value in pairs))


def frequent(values: Iterable[str], least: int) -> list[str]:
    """Return the values that occur at least so often, the most frequent first."""
    return [value for value, count in Counter(values).most_common() if count >= least]


class Vocabulary:
    """Numbers for the parts of tokens that training sentences show twice or more; 0 is padding, 1 all others."""

    def __init__(self, training: Iterable[Sequence[Token]]) -> None:
        known = frequent((part for sentence in training for token in sentence for part in token.parts), 2)
        self.number = {part: number for number, part in enumerate(known, start=2)}

    def padded(self, chosen: Sequence[Sequence[Token]], length: int) -> Tensor:
        """Return the parts of every token, (N, length, PARTS) int64."""
        rows = [[[self.number.get(part, 1) for part in token.parts] for token in sentence] for sentence in chosen]
        return torch.tensor([[*row, *[[0] * PARTS] * (length - len(row))] for row in rows])


class Tagger(nn.Module):
    """The sum of the embeddings of a token's parts, two convolutions over the sentence, a linear layer for each head.

    It runs on the longest sentence of the batch and gives logits (N, C, T) for all positions, 0 beyond.
    """

    def __init__(self, parts: int, classes: Sequence[int], width: int = 32, hidden: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(parts, width, padding_idx=0)
        # The sum of nine embeddings then starts at a deviation of 0.3, where a learning rate suits all layers alike.
        self.embedding.weight.data.mul_(0.1)
        self.near = nn.Conv1d(width, hidden, 5, padding=2)
        self.far = nn.Conv1d(hidden, hidden, 3, padding=1)
        self.dropout = nn.Dropout(0.3)
        self.heads = nn.Conv1d(hidden, sum(classes), 1)
        self.classes = tuple(classes)

    def forward(self, parts: Tensor) -> tuple[Tensor, ...]:
        """(N, T, PARTS) numbers of parts -> a tensor of logits for each head."""
        positions = parts.shape[1]
        parts = parts[:, : int((parts[:, :, 0] != 0).sum(1).max())]
        words = self.dropout(self.embedding(parts).sum(2)).mT
        # Without a bias beyond its end, a sentence's logits do not depend on how long the others are.
        near = self.dropout(torch.relu(self.near(words))) * (parts[:, :, :1] != 0).mT
        logits = self.heads(near + self.dropout(torch.relu(self.far(near))))
        return nn.functional.pad(logits, (0, positions - logits.shape[2])).split(self.classes, 1)
