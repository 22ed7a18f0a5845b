"""The baselines under test, and batches that fit them."""

import pytest
import torch
from torch import Tensor

from equilog.baselines import (
    LDAM,
    Asymmetric,
    BalancedSoftmax,
    BinaryCrossEntropy,
    ClassBalanced,
    CrossEntropy,
    Focal,
    GeneralizedCrossEntropy,
    LogitAdjusted,
    TunedThreshold,
    TwoWay,
    WeightedCrossEntropy,
)
from equilog.losses.criterion import Criterion

COUNT = torch.tensor([100, 30, 7])


MULTICLASS: dict[str, Criterion] = {
    "cross-entropy": CrossEntropy(),
    "weighted": WeightedCrossEntropy(COUNT),
    "class-balanced": ClassBalanced(COUNT, beta=0.9),
    "focal": Focal(),
    "focal, gamma below 1": Focal(gamma=0.5),
    "generalized": GeneralizedCrossEntropy(),
    "balanced softmax": BalancedSoftmax(COUNT),
    "logit-adjusted": LogitAdjusted(COUNT, tau=0.5),
    "ldam": LDAM(COUNT, max_margin=2.0, scale=1.5),
    "ldam, paper": LDAM(COUNT),
}


BY_LABEL: dict[str, Criterion] = {
    "binary cross-entropy": BinaryCrossEntropy(),
    "tuned threshold": TunedThreshold(),
    "asymmetric": Asymmetric(),
    "asymmetric, no clip": Asymmetric(clip=0.0),
    "asymmetric, gammas below 1": Asymmetric(gamma_neg=0.5, gamma_pos=0.5),
    "asymmetric, gammas below 1, no clip": Asymmetric(gamma_neg=0.5, gamma_pos=0.5, clip=0.0),
    "asymmetric, gammas 0": Asymmetric(gamma_neg=0.0, gamma_pos=0.0),
}


MULTILABEL = BY_LABEL | {"two-way": TwoWay()}


each_multiclass = pytest.mark.parametrize("criterion", MULTICLASS.values(), ids=MULTICLASS.keys())


each_by_label = pytest.mark.parametrize("criterion", BY_LABEL.values(), ids=BY_LABEL.keys())


each_baseline = pytest.mark.parametrize(
    "criterion", [*MULTICLASS.values(), *MULTILABEL.values()], ids=[*MULTICLASS.keys(), *MULTILABEL.keys()]
)


def batch(criterion: Criterion, rows: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Float64 logits of three classes or labels with targets that fit."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    shape, choices = ((rows, 3), 2) if criterion.multilabel else ((rows,), 3)
    return logits, torch.randint(choices, shape, generator=generator)
