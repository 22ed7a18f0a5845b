"""What a fitted rule is: from probabilities to classes or labels, on arrays and on tensors of any device."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from equilog.decisions.inputs import Array
from equilog.decisions.recalibration import FLOOR, Recalibration, log_probabilities


class Decision(Protocol):
    """Decides rows."""

    def scores(self, probability: Any) -> Any:
        """Return of checked probabilities the scores (n, C) whose largest decides, or (n, L), above 0 for yes."""

    def decide(self, probability: Any) -> Any:
        """Return the classes (n,) or the labels (n, L) of checked probabilities, int64 and of their kind."""


class LargestScore:
    """The class with the largest score, the first where several are."""

    def scores(self, probability: Any) -> Any:
        """Return (n, C)."""
        raise NotImplementedError

    def decide(self, probability: Any) -> Any:
        """Return classes (n,)."""
        return self.scores(probability).argmax(1)


@dataclass(frozen=True)
class ByOffsets(LargestScore):
    """argmax log p + offset."""

    offsets: Array

    def scores(self, probability: Any) -> Any:
        """Return log p + offset (n, C)."""
        if isinstance(probability, torch.Tensor):
            return probability.clamp(min=FLOOR).log() + probability.new_tensor(self.offsets)
        scores = log_probabilities(probability)
        scores += self.offsets
        return scores

    def decide(self, probability: Any) -> Any:
        """Return classes (n,); argmax needs no logarithms."""
        return super().decide(probability) if self.offsets.any() else probability.argmax(1)


@dataclass(frozen=True)
class ByGains(LargestScore):
    """argmax of the expected gain, of probabilities corrected before."""

    recalibration: Recalibration
    gains: Array

    def scores(self, probability: Any) -> Any:
        """Return expected gains (n, C)."""
        slope, shift = float(self.recalibration.slope), self.recalibration.shift
        if isinstance(probability, torch.Tensor):
            logits = slope * probability.clamp(min=FLOOR).log() + probability.new_tensor(shift)
            return logits.softmax(1) @ probability.new_tensor(self.gains)
        return np.exp(self.recalibration.of_classes(log_probabilities(probability))) @ self.gains


@dataclass(frozen=True)
class ByThresholds:
    """p > threshold, label by label."""

    thresholds: Array

    def scores(self, probability: Any) -> Any:
        """Return p less its threshold (n, L)."""
        if isinstance(probability, torch.Tensor):
            return probability - probability.new_tensor(self.thresholds)
        return probability - self.thresholds

    def decide(self, probability: Any) -> Any:
        """Return labels (n, L) of 0 and 1."""
        yes = self.scores(probability) > 0
        return yes.long() if isinstance(yes, torch.Tensor) else yes.astype(np.int64)
