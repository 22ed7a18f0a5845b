"""One temperature for the probabilities, from rows held out of training."""

import math
from collections.abc import Sequence

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from equilog.criterion import Criterion

LOWEST, HIGHEST = 0.05, 20.0


def negative_log_likelihood(criterion: Criterion, logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """Return -log p(target) per row (N,) in nats under the posterior of `criterion`; labels of a row add up."""
    scores = criterion.scores(logits, "posterior") / temperature
    if criterion.multilabel:
        return F.binary_cross_entropy_with_logits(scores, target.to(scores), reduction="none").sum(1)
    return F.cross_entropy(scores, target.to(scores) if target.is_floating_point() else target, reduction="none")


def fit_temperature(columns: Sequence[tuple[Criterion, Tensor, Tensor]], weight: Tensor) -> float:
    """Return the temperature T that makes held-out targets likeliest.

    It minimises sum_i w_i sum_columns -log p(y_i | x_i, T) + (log2 T)² / 2. The last term is a normal prior with a
    factor of two as its standard deviation: without it a few held-out rows, all classified rightly, would drive T
    to 0.

    Args:
        columns: criterion, logits (N, C) and target of each column.
        weight: (N,) weights of the rows.
    """

    def objective(log_temperature: float) -> float:
        per_row = sum(negative_log_likelihood(*column, math.exp(log_temperature)) for column in columns)
        return float((weight * per_row).sum()) + (log_temperature / math.log(2)) ** 2 / 2

    found = minimize_scalar(objective, bounds=(math.log(LOWEST), math.log(HIGHEST)), method="bounded")
    return math.exp(found.x)


def divergence(criterion: Criterion, logits: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(target || posterior) per row (N,) in nats, for class probabilities (N, C)."""
    entropy: Tensor = -torch.special.xlogy(target, target).sum(1)
    return negative_log_likelihood(criterion, logits, target, temperature) - entropy
