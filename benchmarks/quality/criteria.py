"""Losses that only the study needs."""

import torch
from torch import Tensor

from equilog.article import truncated
from equilog.baselines import LDAM, ClassBalanced
from equilog.baselines.class_counts import along_classes, log_prior
from equilog.calibration.base import Kind
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
