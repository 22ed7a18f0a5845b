"""Losses of other authors, by their published formulas, for comparison."""

from equilog.peers.multiclass import (
    LDAM,
    BalancedSoftmax,
    ClassBalanced,
    CrossEntropy,
    Focal,
    GeneralizedCrossEntropy,
    LogitAdjusted,
    WeightedCrossEntropy,
)
from equilog.peers.multilabel import Asymmetric, BinaryCrossEntropy, TwoWay
from equilog.peers.threshold import TunedThreshold

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
