"""Sentences as numbers, and the network that reads them: what the tasks on words share."""

from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from equilog.compare.errors import DataError

PARTS = 9
"""Strings that a token is told by."""


class Word(Protocol):
    """A token of any corpus."""

    @property
    def parts(self) -> list[str]:
        """The `PARTS` strings that the token is told by."""
        ...


def packaged(distribution: str, name: str, extra: str = "data") -> Path:
    """Return the file whose path ends so in an installed distribution, without importing it.

    Raises:
        DataError: where it is not installed, with the command that installs it.
    """
    try:
        found = [file for file in files(distribution) or () if file.match(name)]
    except PackageNotFoundError as error:
        raise DataError(f"{name} needs the package {distribution}: pip install 'equilog[{extra}]'") from error
    return Path(str(found[0].locate()))


def frequent(values: Iterable[str], least: int) -> list[str]:
    """Return the values that occur at least so often, the most frequent first."""
    return [value for value, count in Counter(values).most_common() if count >= least]


class Vocabulary:
    """Numbers for the parts of tokens that training sentences show twice or more; 0 is padding, 1 all others."""

    def __init__(self, training: Iterable[Sequence[Word]]) -> None:
        known = frequent((part for sentence in training for token in sentence for part in token.parts), 2)
        self.number = {part: number for number, part in enumerate(known, start=2)}

    def padded(self, chosen: Sequence[Sequence[Word]], length: int) -> Tensor:
        """Return the parts of every token, (N, length, PARTS) int64."""
        rows = [[[self.number.get(part, 1) for part in token.parts] for token in sentence] for sentence in chosen]
        return torch.tensor([[*row, *[[0] * PARTS] * (length - len(row))] for row in rows])


class Reader(nn.Module):
    """The sum of the embeddings of a token's parts, and two convolutions over the sentence."""

    def __init__(self, parts: int, width: int = 32, hidden: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(parts, width, padding_idx=0)
        # The sum of nine embeddings then starts at a deviation of 0.3, where a learning rate suits all layers alike.
        self.embedding.weight.data.mul_(0.1)
        self.near = nn.Conv1d(width, hidden, 5, padding=2)
        self.far = nn.Conv1d(hidden, hidden, 3, padding=1)
        self.dropout = nn.Dropout(0.3)

    def forward(self, parts: Tensor) -> Tensor:
        """(N, T, PARTS) numbers of parts -> (N, hidden, T)."""
        words = self.dropout(self.embedding(parts).sum(2)).mT
        # Without a bias beyond its end, a sentence's logits do not depend on how long the others are.
        near = self.dropout(torch.relu(self.near(words))) * (parts[:, :, :1] != 0).mT
        return near + self.dropout(torch.relu(self.far(near)))


class Tagger(nn.Module):
    """A linear layer for each head over what is read at each position.

    It runs on the longest sentence of the batch and gives logits (N, C, T) for all positions, 0 beyond.
    """

    def __init__(self, parts: int, classes: Sequence[int], width: int = 32, hidden: int = 64) -> None:
        super().__init__()
        self.reader = Reader(parts, width, hidden)
        self.heads = nn.Conv1d(hidden, sum(classes), 1)
        self.classes = tuple(classes)

    def forward(self, parts: Tensor) -> tuple[Tensor, ...]:
        """(N, T, PARTS) numbers of parts -> a tensor of logits for each head."""
        positions = parts.shape[1]
        parts = parts[:, : int((parts[:, :, 0] != 0).sum(1).max())]
        logits = self.heads(self.reader(parts))
        return nn.functional.pad(logits, (0, positions - logits.shape[2])).split(self.classes, 1)
