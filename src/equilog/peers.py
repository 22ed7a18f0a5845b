"""Losses of other authors, by their published formulas, for comparison."""

from torch import Tensor
from torch.nn import functional as F

from equilog.criterion import Criterion


class CrossEntropy(Criterion):
    """torch's cross-entropy, one value a row, weighted by `sample_weight` and averaged over the rows."""

    def forward(self, logits: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> Tensor:
        """Return the mean cross-entropy in nats."""
        loss = F.cross_entropy(logits, target, reduction="none")
        return loss.mean() if sample_weight is None else (sample_weight * loss).mean()
