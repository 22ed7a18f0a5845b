"""Loss functions for classification that balance themselves."""

from equilog._version import __version__
from equilog.functional import log_balanced_cross_entropy, multilabel_cross_entropy
from equilog.inference import probabilities
from equilog.modules import LogBalancedCrossEntropyLoss, MultiLabelCrossEntropyLoss

__all__ = [
    "LogBalancedCrossEntropyLoss",
    "MultiLabelCrossEntropyLoss",
    "__version__",
    "log_balanced_cross_entropy",
    "multilabel_cross_entropy",
    "probabilities",
]
