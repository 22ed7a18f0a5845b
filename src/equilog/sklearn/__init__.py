"""Classifiers for scikit-learn: trained with any loss of the registry, and deciding for any metric."""

try:
    from equilog.sklearn.classifier import LogBalancedClassifier
    from equilog.sklearn.decision import DecisionClassifierCV
except ModuleNotFoundError as error:
    package = (error.name or "").partition(".")[0]
    if package not in ("sklearn", "scipy", "numpy"):
        raise
    raise ModuleNotFoundError(
        f'equilog.sklearn needs {package}, which is not installed: pip install "equilog[sklearn]".', name=package
    ) from error

__all__ = ["DecisionClassifierCV", "LogBalancedClassifier"]
