"""A scikit-learn classifier, linear or multilayer perceptron, trained with any loss of the registry."""

try:
    from equilog.sklearn.classifier import LogBalancedClassifier
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("sklearn", "skorch", "scipy", "numpy"):
        raise
    raise ModuleNotFoundError(
        f'equilog.sklearn needs {error.name}, which is not installed: pip install "equilog[sklearn]".', name=error.name
    ) from error

__all__ = ["LogBalancedClassifier"]
