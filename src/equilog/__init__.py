"""Loss functions for classification that balance themselves."""

from equilog import article, optimum
from equilog._version import __version__
from equilog.accumulation import Accumulation, accumulate
from equilog.from_cross_entropy import class_mass_from_cross_entropy, log_balanced_from_cross_entropy
from equilog.functional import class_mass, log_balanced_cross_entropy
from equilog.inference import probabilities
from equilog.linear import linear_class_mass, linear_log_balanced_cross_entropy
from equilog.linear_multilabel import linear_multilabel_class_mass, linear_multilabel_cross_entropy
from equilog.mass import ClassMass
from equilog.modules import LogBalancedCrossEntropyLoss, MultiLabelCrossEntropyLoss
from equilog.multilabel import multilabel_class_mass, multilabel_cross_entropy

__all__ = [
    "Accumulation",
    "ClassMass",
    "LogBalancedCrossEntropyLoss",
    "MultiLabelCrossEntropyLoss",
    "__version__",
    "accumulate",
    "article",
    "class_mass",
    "class_mass_from_cross_entropy",
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
