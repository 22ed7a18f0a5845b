"""The decision rule as users meet it."""

import warnings
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike

from equilog.decisions.crossfit import DecisionReport, learn_and_report
from equilog.decisions.decide import ByGains, ByOffsets, ByThresholds, Decision
from equilog.decisions.inputs import (
    Array,
    ArrayOrTensor,
    as_classes,
    as_labels,
    as_numpy,
    as_probabilities,
    as_weights,
)
from equilog.decisions.learn import Gains, Learner, Offsets, Sample, Thresholds
from equilog.decisions.metrics import METRICS, cost_of_labels, metrics

MetricLike = str | ArrayLike | torch.Tensor | Callable[[Array], Any]


class DecisionRule:
    r"""From probabilities to the classes or labels that are best for a metric.

    $$ \hat y(x) = \arg\max_k\; \log p_k(x) + o_k $$

    for metrics by name; $\arg\max_k \sum_j p'_j(x)\, G_{jk}$ for costs (G minus them) and for functions of the
    confusion matrix; $p_l(x) > \theta_l$ for yes/no labels.

    With labels, `fit` first corrects the probabilities by a regularised likelihood, then looks for the rule that is
    best for a truth mixed of the labels and the corrected probabilities: of a class of m rows the labels are
    m / (m + 50), so that few rows shrink the rule towards that of the probabilities, and many leave it to the labels.
    Where cross-fitting sees no gain, argmax is kept. Without labels the probabilities are taken at their word (the
    plug-in rule), so they must be calibrated.

    Args:
        metric: what is to be large, or a matrix of costs, whose mean is to be small.
            By name: "balanced_accuracy" (the mean recall), "macro_f1", "f_beta" (macro), "jaccard" (macro), "g_mean"
            (the geometric mean of the recalls), "worst_recall", "mcc" (Matthews' correlation), "micro_f1" (for classes
            the accuracy), "recall_at_precision" (of class 1 of two, or of each label, with at least `precision`).
            Of yes/no labels each is the mean over them, recalls being those of yes and of no; micro F1 pools them.
            Costs: (C, C), true classes as rows and predicted ones as columns; of labels (2, 2), for each of them.
            A function of the confusion matrix (C, C) of row counts, true classes as rows; of labels, of their tables
            (L, 2, 2). It is called C^2 + 1 times in each of 20 steps, and should be smooth.
        beta: weight of the recall in "f_beta", above 0.
        precision: the least for "recall_at_precision", in (0, 1].
        multilabel: the columns are yes/no labels. None goes by the dimensions of y, and without y by classes.
        cv: folds of cross-fitting, at least 2; without labels, or with more than 20,000 rows, there are two.

    Attributes:
        offsets_: (C,) log weights, to be added to log p (or to logits); None for costs, functions and labels.
        thresholds_: (L,) for labels, else None.
        gains_: (C, C) for costs and functions where a gain is seen, else None.
        report_: a `DecisionReport`; without labels its metrics are those expected by the probabilities.
        n_columns_: C or L.

    Limits: a class without labelled rows keeps the offset that its probabilities give it; a label that no row or every
    row has keeps threshold 1/2; both are warned of. No rule is random, so the worst recall may be below what a
    randomised rule would get. `fit` takes time linear in n: 100,000 rows and 100 classes a few seconds.

    Source: the form of the rules Narasimhan et al., ICML 2015, and Koyejo et al., NeurIPS 2014; the search after
    Schultheis et al., NeurIPS 2023, class by class; costs Elkan, "The foundations of cost-sensitive learning", IJCAI
    2001. The correction, the regularisation and keeping argmax are this project's.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> y = rng.choice(3, size=2000, p=[0.9, 0.07, 0.03])
        >>> scores = 1.5 * np.eye(3)[y] + rng.normal(size=(2000, 3)) + np.log([0.9, 0.07, 0.03])
        >>> p = np.exp(1.5 * scores) / np.exp(1.5 * scores).sum(1, keepdims=True)
        >>> rule = DecisionRule("balanced_accuracy").fit(p[:1000], y[:1000])
        >>> rule.report_.kept, rule.offsets_.shape
        ('rule', (3,))
        >>> def mean_recall(decided):
        ...     return np.mean([(decided[y[1000:] == k] == k).mean() for k in range(3)])
        >>> bool(mean_recall(rule.predict(p[1000:])) > mean_recall(p[1000:].argmax(1)) + 0.1)
        True
    """

    offsets_: Array | None
    thresholds_: Array | None
    gains_: Array | None
    report_: DecisionReport
    n_columns_: int

    def __init__(
        self,
        metric: MetricLike,
        *,
        beta: float = 1.0,
        precision: float = 0.9,
        multilabel: bool | None = None,
        cv: int = 5,
    ) -> None:
        self.metric = metric
        self.beta = beta
        self.precision = precision
        self.multilabel = multilabel
        self.cv = cv

    def fit(
        self,
        probabilities: ArrayOrTensor,
        y: ArrayOrTensor | None = None,
        *,
        sample_weight: ArrayOrTensor | None = None,
    ) -> Self:
        """Learn the rule.

        Args:
            probabilities: (n, C), rows summing to 1, or (n, L) of yes; of rows that the classifier was not trained on.
            y: (n,) class numbers 0 to C-1, or (n, L) of 0 and 1; None for the plug-in rule.
            sample_weight: (n,), at least 0; a row of weight 2 counts as two rows.

        Returns:
            Itself.

        Raises:
            ValueError, TypeError: an argument is not as described.

        Warns:
            UserWarning: classes or labels without rows; it names them.
        """
        name = "DecisionRule.fit"
        target = None if y is None else as_numpy(y)
        multilabel = self.multilabel
        if multilabel is None:
            multilabel = target is not None and target.ndim == 2
        values = as_numpy(as_probabilities(name, probabilities, multilabel=multilabel)).astype(np.float64, copy=False)
        learner = self._learner(values.shape[1], multilabel)
        if target is not None:
            target = (as_labels if multilabel else as_classes)(name, target, *values.shape)
        weight = as_weights(name, sample_weight, len(values))
        kept = weight > 0
        sample = Sample(values, target, weight)
        sample = sample if kept.all() else sample.rows(kept)
        if len(sample.weight) < 2:
            raise ValueError(f"{name}: two rows of weight above 0 are the least to learn from; got {int(kept.sum())}.")
        if sample.target is not None and not multilabel and (sample.frequency() > 0).sum() < 2:
            raise ValueError(
                f"{name}: y must have rows of two classes at least, of weight above 0; got class "
                f"{sample.target[0]} alone."
            )
        self._name_the_missing(sample, multilabel)
        decision, self.report_ = learn_and_report(learner, sample, self.cv)
        self._decision: Decision = decision
        self._multilabel = multilabel
        self.n_columns_ = values.shape[1]
        costs = isinstance(learner, Gains)
        self.offsets_ = decision.offsets if isinstance(decision, ByOffsets) and not costs else None
        self.thresholds_ = decision.thresholds if isinstance(decision, ByThresholds) else None
        self.gains_ = decision.gains if isinstance(decision, ByGains) else None
        return self

    def predict(self, probabilities: ArrayOrTensor) -> Any:
        """Decide rows.

        Args:
            probabilities: (n, C) or (n, L), columns as in `fit`.

        Returns:
            Class numbers (n,) or labels (n, L) of 0 and 1, int64: a tensor on its device where one came, else an array.

        Raises:
            ValueError, TypeError: not such probabilities.
            AttributeError: `fit` was not called.
        """
        return self._decision_of("predict").decide(self._checked("predict", probabilities))

    def scores(self, probabilities: ArrayOrTensor) -> Any:
        """Return the scores by which rows are decided.

        Args:
            probabilities: (n, C) or (n, L), columns as in `fit`.

        Returns:
            (n, C), whose largest decides: log p + offsets_, or expected gains; (n, L) p - thresholds_, above 0 for yes.
            A tensor on its device where one came, else an array.

        Raises:
            ValueError, TypeError: not such probabilities.
            AttributeError: `fit` was not called.
        """
        return self._decision_of("scores").scores(self._checked("scores", probabilities))

    def _decision_of(self, function: str) -> Decision:
        if not hasattr(self, "_decision"):
            raise AttributeError(f"DecisionRule.{function}: the rule is not fitted; call fit(probabilities, y) first.")
        return self._decision

    def _checked(self, function: str, probabilities: ArrayOrTensor) -> Any:
        values = as_probabilities(f"DecisionRule.{function}", probabilities, multilabel=self._multilabel)
        if values.shape[1] != self.n_columns_:
            raise ValueError(
                f"DecisionRule.{function}: probabilities must have the {self.n_columns_} columns of fit; "
                f"got {values.shape[1]}."
            )
        return values

    def _learner(self, columns: int, multilabel: bool) -> Learner:
        name = "DecisionRule"
        if not (isinstance(self.beta, (int, float)) and self.beta > 0):
            raise ValueError(f"{name}: beta must be a number above 0; got {self.beta!r}.")
        if not (isinstance(self.precision, (int, float)) and 0 < self.precision <= 1):
            raise ValueError(f"{name}: precision must be a number in (0, 1]; got {self.precision!r}.")
        if not (isinstance(self.cv, int) and self.cv >= 2):
            raise ValueError(f"{name}: cv must be a number of folds, 2 at least; got {self.cv!r}.")
        if isinstance(self.metric, str):
            if self.metric not in METRICS:
                raise ValueError(f"{name}: metric must be one of {', '.join(METRICS)}; got {self.metric!r}.")
            if self.metric == "recall_at_precision" and not multilabel and columns != 2:
                raise ValueError(
                    f"{name}: recall_at_precision is for two classes, of which the second counts, or for labels; got "
                    f"{columns} classes. For a class of many give its column alone, (n, 1), with y (n, 1) of 0 and 1."
                )
            metric = metrics(self.beta, self.precision)[self.metric]
            return Thresholds(metric, None) if multilabel else Offsets(metric)
        if callable(self.metric):
            return Thresholds(None, self.metric) if multilabel else Gains(None, self.metric)
        costs = as_numpy(self.metric)
        size = 2 if multilabel else columns
        if costs.shape != (size, size) or costs.dtype.kind not in "fiub" or not np.isfinite(costs).all():
            raise ValueError(
                f"{name}: metric must be a name, a function, or a matrix of finite costs ({size}, {size}), true "
                f"classes as rows and predicted ones as columns; got {costs.dtype} of shape {costs.shape}."
            )
        costs = costs.astype(np.float64)
        if multilabel and not (costs[0, 1] > costs[0, 0] and costs[1, 0] > costs[1, 1]):
            raise ValueError(
                f"{name}: a wrong answer must cost more than the right one; got {costs.tolist()}, the rows being "
                "no and yes."
            )
        return Thresholds(cost_of_labels(costs), None) if multilabel else Gains(costs, None)

    @staticmethod
    def _name_the_missing(sample: Sample, multilabel: bool) -> None:
        if sample.target is None:
            return
        share = sample.frequency()
        missing = np.flatnonzero((share == 0) | ((share == 1) & multilabel))
        if len(missing):
            what, keeps = ("labels", "threshold 1/2") if multilabel else ("classes", "its probabilities' offset")
            warnings.warn(
                f"DecisionRule.fit: {what} {missing.tolist()} have no rows"
                f"{' of one answer' if multilabel else ''} in y, so each keeps {keeps}. Fit on rows that have them "
                "to do better.",
                UserWarning,
                stacklevel=3,
            )
