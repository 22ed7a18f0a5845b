"""What training code may ask of a loss: its value, the labels its scores mean, and their probabilities."""

from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal["balanced", "posterior"]
"""Which probabilities: as the loss decides ("balanced") or of the data as drawn ("posterior")."""


def check_kind(where: str, kind: str) -> None:
    """Raise ValueError unless `kind` is one of `Kind`."""
    if kind not in ("balanced", "posterior"):
        raise ValueError(f'{where}: kind must be "balanced" or "posterior"; got {kind!r}.')


class Criterion(nn.Module):
    """Base class of the loss modules: a value in `forward`, and the meaning of the logits in `scores`.

    A loss that adds a prior to the logits, weights the classes or couples the rows moves what the bare logits
    mean. `scores` undoes that, so that everything after it (labels, probabilities, calibration) is the same
    for every loss: `softmax(scores)`, or `sigmoid(scores)` where `multilabel` is true.
    """

    multilabel: bool = False
    """Whether the entries of a row of logits are separate yes/no labels rather than one choice."""

    def forward(self, logits: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> Tensor:
        """Return the loss of `logits` (N, C, ...) against `target`, a scalar unless reduction is "none"."""
        raise NotImplementedError

    def scores(self, logits: Tensor, kind: Kind = "balanced") -> Tensor:
        """Return scores of the logits' shape whose softmax (or sigmoid) is the probability of this kind."""
        del kind
        return logits

    def observe(self, logits: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> None:
        """Take note of trained logits and their targets, for a loss whose posterior depends on them."""

    def probabilities(self, logits: Tensor, kind: Kind = "balanced", temperature: float = 1.0) -> Tensor:
        """Return probabilities of the logits' shape: softmax over dimension 1, or sigmoid where multi-label.

        `temperature` divides the scores; above 1 it makes the probabilities less sure and never changes which
        class comes first.
        """
        check_kind(type(self).__name__, kind)
        scores = self.scores(logits, kind) / temperature
        return scores.sigmoid() if self.multilabel else scores.softmax(-1 if scores.dim() == 1 else 1)

    def predict(self, logits: Tensor) -> Tensor:
        """Return the class index with the largest balanced score (N, ...), or 0/1 per label where multi-label."""
        scores = self.scores(logits, "balanced")
        if self.multilabel:
            return (scores > 0).to(torch.int64)
        return scores.argmax(-1 if scores.dim() == 1 else 1)
