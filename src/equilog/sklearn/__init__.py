"""A scikit-learn classifier, linear or multilayer perceptron, trained with any loss of the registry."""

from equilog.sklearn.classifier import LogBalancedClassifier

__all__ = ["LogBalancedClassifier"]
