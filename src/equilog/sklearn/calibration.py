"""How far soft targets are from what the model says."""

import torch
from torch import Tensor
from torch.nn import functional as F

from equilog.calibration import Calibration


def divergence(calibration: Calibration, logits: Tensor, target: Tensor) -> Tensor:
    """Return KL(target || posterior) per row (N,) in nats, for class probabilities (N, C)."""
    entropy: Tensor = -torch.special.xlogy(target, target).sum(1)
    scores = calibration.scores(logits, "posterior")
    return F.cross_entropy(scores, target.to(scores), reduction="none") - entropy
