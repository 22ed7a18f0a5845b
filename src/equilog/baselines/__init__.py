"""Losses of other authors, by their published formulas, for comparison."""

from equilog.baselines.multiclass import (
    LDAM,
    BalancedSoftmax,
    ClassBalanced,
    CrossEntropy,
    Focal,
    GeneralizedCrossEntropy,
    LogitAdjusted,
    WeightedCrossEntropy,
)
from equilog.baselines.multilabel import Asymmetric, BinaryCrossEntropy, TwoWay
from equilog.baselines.threshold import TunedThreshold

__all__ = [
    "LDAM",
    "Asymmetric",
    "BalancedSoftmax",
    "BinaryCrossEntropy",
    "ClassBalanced",
    "CrossEntropy",
    "Focal",
    "GeneralizedCrossEntropy",
    "LogitAdjusted",
    "TunedThreshold",
    "TwoWay",
    "WeightedCrossEntropy",
]
