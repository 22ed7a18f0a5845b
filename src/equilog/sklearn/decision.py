"""Any scikit-learn classifier with the decision that is best for a metric."""

from numbers import Integral, Real
from typing import Any, Self, cast

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, _fit_context, clone
from sklearn.model_selection import check_cv
from sklearn.utils import _safe_indexing, check_array, column_or_1d, get_tags
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, _routing_enabled, process_routing
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import _check_method_params, check_is_fitted, has_fit_parameter, indexable

from equilog.decisions import DecisionReport, DecisionRule
from equilog.decisions.inputs import Array
from equilog.decisions.metrics import METRICS


def _has(method: str) -> Any:
    def check(self: Any) -> bool:
        getattr(getattr(self, "estimator_", self.estimator), method)
        return True

    return check


class DecisionClassifierCV(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier that decides for a metric, by a `DecisionRule` learnt in cross-validation.

    Clones of the classifier are trained on all folds but one and say the probabilities of that one; on all rows' so
    gained probabilities the rule is learnt. Then the classifier is trained on all rows. What TunedThresholdClassifierCV
    is for two classes, for any number of them and for yes/no labels.

    Args:
        estimator: any classifier with `predict_proba`: a pipeline, gradient boosting, `LogBalancedClassifier`.
        metric: a metric, costs or a function, as `DecisionRule` has them; classes are in the order of `classes_`.
        beta: of "f_beta".
        precision: of "recall_at_precision", in (0, 1].
        cv: folds, a splitter of scikit-learn, an iterable of (train, test) rows that has every row in one test part at
            most, or "prefit": `estimator` is trained already and `fit` learns the rule alone, from other rows.
        n_jobs: folds trained at once, as in joblib.

    Attributes:
        estimator_: the classifier trained on all rows, or the one that was, for "prefit".
        rule_: the `DecisionRule`.
        report_: its `DecisionReport`.
        classes_: the classes; for labels their numbers.
        n_features_in_, feature_names_in_: where `estimator_` has them.

    Limits: with fewer rows of a class than folds some fold trains without it; its probability is 0 there. Rows that no
    test part has are trained on, but the rule does not learn from them.

    Example:
        >>> from sklearn.datasets import make_classification
        >>> from sklearn.ensemble import HistGradientBoostingClassifier
        >>> X, y = make_classification(400, n_classes=3, n_informative=4, weights=[0.8, 0.15], random_state=0)
        >>> model = DecisionClassifierCV(HistGradientBoostingClassifier(max_iter=20), metric="balanced_accuracy")
        >>> model.fit(X, y).predict(X[:2]).shape, model.report_.gain > 0
        ((2,), True)
    """

    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012
        "estimator": [HasMethods(["fit", "predict_proba"])],
        "metric": [StrOptions(set(METRICS)), "array-like", callable],
        "beta": [Interval(Real, 0, None, closed="neither")],
        "precision": [Interval(Real, 0, 1, closed="right")],
        "cv": ["cv_object", StrOptions({"prefit"})],
        "n_jobs": [Integral, None],
    }

    def __init__(
        self,
        estimator: Any,
        *,
        metric: Any = "balanced_accuracy",
        beta: float = 1.0,
        precision: float = 0.9,
        cv: Any = 5,
        n_jobs: int | None = None,
    ) -> None:
        self.estimator = estimator
        self.metric = metric
        self.beta = beta
        self.precision = precision
        self.cv = cv
        self.n_jobs = n_jobs

    @_fit_context(prefer_skip_nested_validation=False)  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any, sample_weight: Any = None, **params: Any) -> Self:
        """Train the classifier and learn the rule.

        Args:
            X: as the classifier takes it.
            y: (n,) classes of any kind, or (n, L) labels of 0 and 1.
            sample_weight: (n,), for the rule, and for the classifier where its `fit` has it (under metadata routing:
                where it was requested).
            params: passed to `fit` of the classifier; under metadata routing to whom they were requested by, the
                splitter included (`groups`).

        Raises:
            ValueError: an argument or parameter is not as described.
        """
        if y is None:
            raise ValueError("DecisionClassifierCV.fit requires y to be passed, but the target y is None.")
        X, y, sample_weight = indexable(X, y, sample_weight)
        check_array(y, ensure_2d=False, accept_sparse=True, dtype=None, input_name="y")
        check_classification_targets(y)
        multilabel = type_of_target(y) == "multilabel-indicator"
        if not multilabel:
            y = column_or_1d(y, warn=True)
        to_fit, to_split = self._routed(sample_weight, params)
        if isinstance(self.cv, str):
            check_is_fitted(self.estimator)
            self.estimator_ = self.estimator
            probability, seen = _probability(self.estimator, X), np.arange(len(_dense(y)))
        else:
            splits = list(check_cv(self.cv, y, classifier=True).split(X, y, **to_split))
            self.estimator_ = clone(self.estimator).fit(X, y, **to_fit)
            parts = Parallel(n_jobs=self.n_jobs)(
                delayed(_apart)(clone(self.estimator), X, y, train, test, to_fit, self._columns(multilabel))
                for train, test in splits
            )
            seen = np.concatenate([test for _, test in splits])
            if len(np.unique(seen)) < len(seen):
                raise ValueError(
                    "DecisionClassifierCV.fit: cv must have every row in one test part at most, so that each has one "
                    f"probability; got {len(seen) - len(np.unique(seen))} rows more. Take KFold or ShuffleSplit(1)."
                )
            probability = np.concatenate(parts)
        self.rule_ = DecisionRule(self.metric, beta=self.beta, precision=self.precision, multilabel=multilabel).fit(
            probability,
            self._codes(_dense(y), multilabel)[seen],
            sample_weight=None if sample_weight is None else np.asarray(sample_weight)[seen],
        )
        self.report_: DecisionReport = self.rule_.report_
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.estimator_, name):
                setattr(self, name, getattr(self.estimator_, name))
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Return classes (n,), or labels (n, L) of 0 and 1."""
        check_is_fitted(self, "rule_")
        decided = self.rule_.predict(_probability(self.estimator_, X))
        return cast(NDArray[Any], decided if decided.ndim == 2 else self.classes_[decided])

    @available_if(_has("predict_proba"))  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Any:
        """Return what the classifier returns; its largest need not be the class predicted."""
        check_is_fitted(self, "rule_")
        return self.estimator_.predict_proba(X)

    @available_if(_has("predict_log_proba"))  # type: ignore[untyped-decorator]
    def predict_log_proba(self, X: Any) -> Any:
        """Return what the classifier returns."""
        check_is_fitted(self, "rule_")
        return self.estimator_.predict_log_proba(X)

    def decision_function(self, X: Any) -> Any:
        """Return the scores that decide: (n, C); (n,), above 0 for the second of two; (n, L), above 0 for yes."""
        check_is_fitted(self, "rule_")
        scores = self.rule_.scores(_probability(self.estimator_, X))
        two_classes = scores.shape[1] == 2 and self.rule_.thresholds_ is None
        return scores[:, 1] - scores[:, 0] if two_classes else scores

    @property
    def classes_(self) -> Any:
        """The classes, or the numbers of the labels."""
        labels = self.rule_.thresholds_ if hasattr(self, "rule_") else None
        return self.estimator_.classes_ if labels is None else np.arange(len(labels))

    def get_metadata_routing(self) -> MetadataRouter:
        """Return who gets which metadata: the classifier in `fit`, the splitter in `split`."""
        return (
            MetadataRouter(owner=self)
            .add_self_request(self)
            .add(estimator=self.estimator, method_mapping=MethodMapping().add(caller="fit", callee="fit"))
            .add(splitter=self.cv, method_mapping=MethodMapping().add(caller="fit", callee="split"))
        )

    def __sklearn_tags__(self) -> Any:
        """Return the tags of scikit-learn: what the classifier takes, so does this."""
        tags, of_estimator = super().__sklearn_tags__(), get_tags(self.estimator)
        tags.input_tags = of_estimator.input_tags
        tags.classifier_tags = of_estimator.classifier_tags or tags.classifier_tags
        tags.target_tags = of_estimator.target_tags
        return tags

    def _routed(self, sample_weight: Any, params: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what goes to `fit` of the classifier and to `split` of the splitter."""
        weights = {} if sample_weight is None else {"sample_weight": sample_weight}
        if _routing_enabled():
            routed = process_routing(self, "fit", **weights, **params)
            return dict(routed.estimator.fit), dict(routed.splitter.split)
        if weights and has_fit_parameter(self.estimator, "sample_weight"):
            return {**params, **weights}, {}
        return params, {}

    def _columns(self, multilabel: bool) -> NDArray[Any] | None:
        return None if multilabel else self.estimator_.classes_

    def _codes(self, y: NDArray[Any], multilabel: bool) -> NDArray[Any]:
        if multilabel:
            return y
        return np.searchsorted(self.classes_, y)


def _dense(y: Any) -> NDArray[Any]:
    return np.asarray(y.toarray() if hasattr(y, "toarray") else y)


def _probability(estimator: Any, X: Any) -> Array:
    """Return (n, C), or of yes (n, L), where a classifier of labels may return a list of (n, 2)."""
    found = estimator.predict_proba(X)
    if isinstance(found, list):
        return np.column_stack([label[:, 1] for label in found])
    return np.asarray(found, np.float64)


def _apart(
    estimator: Any,
    X: Any,
    y: Any,
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    params: dict[str, Any],
    classes: NDArray[Any] | None,
) -> Array:
    """Return the probabilities of some rows by a classifier trained on others, a column for each of all classes."""
    params = _check_method_params(X, params, indices=train)
    estimator.fit(_safe_indexing(X, train), _safe_indexing(y, train), **params)
    probability = _probability(estimator, _safe_indexing(X, test))
    if classes is None or len(estimator.classes_) == len(classes):
        return probability
    every = np.zeros((len(test), len(classes)))
    every[:, np.searchsorted(classes, estimator.classes_)] = probability
    return every
