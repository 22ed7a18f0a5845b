"""Loss functions for classification that balance themselves."""

from equilog import article, optimum
from equilog._version import __version__
from equilog.accumulation import Accumulation, accumulate
from equilog.calibration import Calibration, probabilities
from equilog.core.pool_state import ClassMass
from equilog.init_bias import init_bias_
from equilog.losses.class_mass import (
    class_mass,
    class_mass_from_cross_entropy,
    linear_class_mass,
    linear_multilabel_class_mass,
    multilabel_class_mass,
)
from equilog.losses.from_cross_entropy import log_balanced_from_cross_entropy
from equilog.losses.linear import linear_log_balanced_cross_entropy
from equilog.losses.linear_multilabel import linear_multilabel_cross_entropy
from equilog.losses.multiclass import LogBalancedCrossEntropyLoss, log_balanced_cross_entropy
from equilog.losses.multilabel import MultiLabelCrossEntropyLoss, multilabel_cross_entropy

__all__ = [
    "Accumulation",
    "Calibration",
    "ClassMass",
    "LogBalancedCrossEntropyLoss",
    "MultiLabelCrossEntropyLoss",
    "__version__",
    "accumulate",
    "article",
    "class_mass",
    "class_mass_from_cross_entropy",
    "init_bias_",
    "linear_class_mass",
    "linear_log_balanced_cross_entropy",
    "linear_multilabel_class_mass",
    "linear_multilabel_cross_entropy",
    "log_balanced_cross_entropy",
    "log_balanced_from_cross_entropy",
    "multilabel_class_mass",
    "multilabel_cross_entropy",
    "optimum",
    "probabilities",
]
