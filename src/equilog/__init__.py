"""Loss functions for classification that balance themselves."""

from equilog._version import __version__
from equilog.functional import log_balanced_cross_entropy, multilabel_cross_entropy

__all__ = ["__version__", "log_balanced_cross_entropy", "multilabel_cross_entropy"]
