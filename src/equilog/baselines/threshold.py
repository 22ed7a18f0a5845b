"""The plainest remedy for rare labels: binary cross-entropy, and a threshold chosen after training."""

import copy

import torch
from torch import Tensor

from equilog.baselines.multilabel import BinaryCrossEntropy
from equilog.calibration import Calibration
from equilog.calibration.base import Kind

CANDIDATES = 199
"""Thresholds tried at equal steps of the trained logits' distribution, and as many of the positives' alone."""


class TunedThreshold(BinaryCrossEntropy):
    """Binary cross-entropy whose one threshold for all labels is the best for macro-F1 on the rows observed.

    Training is that of `BinaryCrossEntropy`, and sigmoid(x) stays the posterior. `calibrate` picks, from the quantiles
    of the logits and of the positives' logits, the threshold with the largest mean over the labels of F1 = 2 TP / (2 TP
    + FP + FN); labels without a positive are left out. Before it the threshold is 0. Rows held out of training are the
    better ones to observe: on those it was trained on a network is surer than it will be.
    `equilog.sklearn.LogBalancedClassifier` takes those it holds out for early stopping, and where it holds out none
    those it trains on.
    """

    threshold: Tensor
    """0-d, the logit above which a label is predicted."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.zeros(()))

    @torch.no_grad()
    def calibrate(self, logits: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> Calibration:
        """Return the decisions by the threshold that logits and targets (N, L) and weights (N,) ask for."""
        chosen = copy.deepcopy(self)
        weight = torch.ones_like(logits[:, 0]) if sample_weight is None else sample_weight.to(logits)
        positives = weight @ target.to(logits)
        present = positives > 0
        if not bool(present.any()):
            return chosen.uncalibrated()
        candidates = thresholds(logits, target > 0)

        def macro_f1(threshold: Tensor) -> Tensor:
            predicted = (logits > threshold).to(logits)
            hits, calls = weight @ (predicted * target.to(logits)), weight @ predicted
            return (2 * hits / (calls + positives).clamp(min=1e-12))[present].mean()

        best = torch.stack([macro_f1(candidate) for candidate in candidates]).argmax()
        chosen.threshold.copy_(candidates[best])
        return chosen.uncalibrated()

    def scores(self, logits: Tensor, kind: Kind = "balanced") -> Tensor:
        """Return the logits, less the threshold where they are to decide."""
        return logits - self.threshold if kind == "balanced" else logits


def thresholds(logits: Tensor, positive: Tensor) -> Tensor:
    """Return the thresholds to try for logits of which some are positive, a bool tensor of their shape.

    Among the quantiles of all logits there are few or none between the positives where one label in a thousand is.
    """
    steps = torch.linspace(0, 1, CANDIDATES, device=logits.device).double()
    parts = (logits.flatten(), logits[positive])
    return torch.cat([_quantiles(part.double(), steps) for part in parts if part.numel()])


def _quantiles(values: Tensor, steps: Tensor) -> Tensor:
    """Return the quantiles halfway between neighbours, of more than the 16 million values that torch's takes."""
    ordered = values.sort().values
    place = steps * (len(ordered) - 1)
    return (ordered[place.floor().long()] + ordered[place.ceil().long()]) / 2
