"""The plainest remedy for rare labels: binary cross-entropy, and a threshold chosen after training."""

import torch
from torch import Tensor

from equilog.criterion import Kind
from equilog.peers.multilabel import BinaryCrossEntropy

CANDIDATES = 199
"""Thresholds tried, at equal steps of the trained logits' distribution."""


class TunedThreshold(BinaryCrossEntropy):
    """Binary cross-entropy whose one threshold for all labels is the best for macro-F1 on the rows trained on.

    Training is that of `BinaryCrossEntropy`, and sigmoid(x) stays the posterior. `observe` picks, from the quantiles of
    the logits, the threshold with the largest mean over the labels of F1 = 2 TP / (2 TP + FP + FN); labels without a
    positive are left out. Before it the threshold is 0.
    """

    threshold: Tensor
    """0-d, the logit above which a label is predicted."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.zeros(()))

    @torch.no_grad()
    def observe(self, logits: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> None:
        """Choose the threshold from logits (N, L) of the trained model, targets (N, L) and weights (N,)."""
        weight = torch.ones_like(logits[:, 0]) if sample_weight is None else sample_weight.to(logits)
        positives = weight @ target.to(logits)
        present = positives > 0
        if not bool(present.any()):
            return
        candidates = (
            logits.flatten()
            .double()
            .quantile(torch.linspace(0, 1, CANDIDATES, device=logits.device).double(), interpolation="midpoint")
        )

        def macro_f1(threshold: Tensor) -> Tensor:
            predicted = (logits > threshold).to(logits)
            hits, calls = weight @ (predicted * target.to(logits)), weight @ predicted
            return (2 * hits / (calls + positives).clamp(min=1e-12))[present].mean()

        best = torch.stack([macro_f1(candidate) for candidate in candidates]).argmax()
        self.threshold.copy_(candidates[best])

    def scores(self, logits: Tensor, kind: Kind = "balanced") -> Tensor:
        """Return the logits, less the threshold where they are to decide."""
        return logits - self.threshold if kind == "balanced" else logits
