"""Losses that only the study needs."""

import torch
from torch import Tensor
from torch.nn import functional as F

from equilog.article import truncated
from equilog.baselines import LDAM, BinaryCrossEntropy, ClassBalanced
from equilog.baselines.class_counts import along_classes, log_prior
from equilog.baselines.multilabel import MultilabelBaseline
from equilog.calibration.base import Kind
from equilog.inputs.labels import Labels
from equilog.losses.criterion import Criterion
from equilog.ops import as_compute_dtype


class Scheduled(Criterion):
    """A loss that changes in the course of training; the training loop tells it how far it is."""

    progress: float = 0.0
    """Share of the epochs that are done, in [0, 1)."""


class DeferredReweighting(Scheduled):
    """LDAM whose classes are weighted by effective numbers once 80 % of the epochs are done.

    Cao, Wei, Gaidon, Arechiga & Ma, NeurIPS 2019, arXiv 1906.07413, section 3.3 and appendix: 160 of 200 epochs. Of an
    effective number 1 / (1 - 0.9999), as there; the margin and scale are those of the registry's LDAM.
    """

    START = 0.8

    def __init__(self, class_count: Tensor) -> None:
        super().__init__()
        self.margins = LDAM(class_count, max_margin=1.0, scale=5.0)
        self.register_buffer("weight", ClassBalanced(class_count, beta=0.9999).weight)

    def forward(self, logits: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> Tensor:
        """Return the mean over the rows, weighted by class near the end of training."""
        if self.progress >= self.START:
            by_class = torch.where(target >= 0, self.weight[target.clamp(min=0)], 0.0)
            sample_weight = by_class if sample_weight is None else by_class * sample_weight
        return self.margins(logits, target, sample_weight=sample_weight)

    def scores(self, logits: Tensor, kind: Kind = "balanced") -> Tensor:
        """Return those of LDAM."""
        return self.margins.scores(logits, kind)


class Truncated(Criterion):
    """The product of the odds of one batch cut after `order`, with a known prior: `equilog.article.truncated`.

    Its posterior is not known; that of the plain softmax is given.
    """

    def __init__(self, class_count: Tensor, order: int) -> None:
        super().__init__()
        self.order = order
        self.register_buffer("log_prior", log_prior("Truncated", class_count))

    def forward(self, logits: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> Tensor:
        """Return the sum over the classes, a scalar in nats."""
        if sample_weight is not None:
            raise ValueError("Truncated: sample_weight is not supported; leave it out.")
        return truncated(logits + along_classes("Truncated", self.log_prior, logits), target, self.order)

    def scores(self, logits: Tensor, kind: Kind = "balanced") -> Tensor:
        """Return the bare logits, with the prior put back for the posterior."""
        logits = as_compute_dtype(logits)
        return logits if kind == "balanced" else logits + along_classes("Truncated", self.log_prior, logits)


class FocalLabels(MultilabelBaseline):
    """The focal loss of each label: -(1 - p_t)^2 log p_t, p_t the probability of what is true.

    Lin, Goyal, Girshick, He & Dollar, ICCV 2017, arXiv 1708.02002, of gamma 2; without alpha, which is a weight.
    """

    def per_label(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the focal loss of each label, (n,)."""
        cost = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return torch.expm1(-cost) ** 2 * cost


class WithDice(BinaryCrossEntropy):
    """Binary cross-entropy plus 1 - 2 sum p t / (sum p + sum t), the sums over the call: what is done for sparse masks.

    Milletari, Navab & Ahmadi, 3DV 2016, arXiv 1606.04797, with 1 added to both sums as is usual.
    """

    def total(self, labels: Labels) -> Tensor:
        """Return the sum of both."""
        logits, target, weight = labels.visible()
        probability = weight * logits.sigmoid()
        dice = (2 * (probability * target).sum() + 1) / (probability.sum() + (weight * target).sum() + 1)
        return super().total(labels) + 1 - dice


class SmoothAP(MultilabelBaseline):
    """One minus the average precision of each label over the batch, its ranks counted by sigmoids.

    Brown, Xie, Kalogeiton & Zisserman, ECCV 2020, arXiv 2007.12163. Of free logits the temperature is 1: they find
    their own scale. It learns an order; 0 is no threshold.
    """

    def total(self, labels: Labels) -> Tensor:
        """Return the mean over the labels that have a positive; 0 where none has."""
        logits, target, _ = (values.reshape(labels.shape) for values in labels.visible())
        above = (logits[None] - logits[:, None]).sigmoid()  # (i, j, L): j above i
        above = above * ~torch.eye(len(logits), dtype=torch.bool, device=logits.device)[:, :, None]
        precision = (1 + (above * target).sum(1)) / (1 + above.sum(1))
        positives = target.sum(0)
        of_labels = (precision * target).sum(0) / positives.clamp(min=1)
        present = positives > 0
        return ((1 - of_labels) * present).sum() / present.sum().clamp(min=1)
