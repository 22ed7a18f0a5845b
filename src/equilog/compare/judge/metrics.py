"""How a trained model is judged on its test rows: the metrics, the classes, the calibration."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import rel_entr, xlogy
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    f1_score,
    label_ranking_average_precision_score,
    recall_score,
    roc_auc_score,
)

from equilog.baselines.registry import Task
from equilog.compare.judge.records import ClassRecord, Reliability
from equilog.decisions import metrics as decisions
from equilog.decisions.judge import OfClasses, OfLabels

EPS = float(np.finfo(np.float64).eps)
"""The least probability a logarithm is taken of, so that a certain miss costs 36 nats rather than infinity."""

BINS = 15
"""Bins of equal width between 0 and 1 for calibration."""

CONFUSION_LIMIT = 200
"""With more classes than this no confusion matrix is kept: a run's record would grow with their square."""


@dataclass(frozen=True)
class Outcome:
    """The test rows of one target column, beside what the model said of them."""

    label: NDArray[np.int64]
    """(n,) class codes, the likeliest class where soft; (n, L) of 0 and 1 where multi-label."""
    predicted: NDArray[np.int64]
    """What the model chose, of the shape of `label`."""
    truth: NDArray[np.float64]
    """(n, C) the target as probabilities: one-hot, the labels, or the distribution itself."""
    posterior: NDArray[np.float64]
    """(n, C) what the model gives as the probabilities of the data as drawn."""

    @property
    def present(self) -> NDArray[np.int64]:
        """Classes (or labels) that some test row has: the others have no recall to speak of."""
        return _present(self.label)

    @property
    def likelihood(self) -> NDArray[np.float64]:
        """The posterior, kept away from 0."""
        return np.maximum(self.posterior, EPS)

    @property
    def believed(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Probabilities whose calibration counts, and how often each came true.

        The posterior's first choice of each row; every label's probability where multi-label.
        """
        if self.label.ndim == 2:
            return self.posterior.ravel(), self.truth.ravel()
        top = self.posterior.argmax(axis=1)[:, None]
        return (
            np.take_along_axis(self.posterior, top, axis=1).ravel(),
            np.take_along_axis(self.truth, top, axis=1).ravel(),
        )


def _present(label: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.unique(label) if label.ndim == 1 else np.flatnonzero(label.any(axis=0))


def _recalls(outcome: Outcome) -> NDArray[np.float64]:
    recalls: NDArray[np.float64] = recall_score(outcome.label, outcome.predicted, labels=outcome.present, average=None)
    return recalls


def _macro_f1(outcome: Outcome) -> float:
    if not outcome.present.size:
        return np.nan
    return float(f1_score(outcome.label, outcome.predicted, labels=outcome.present, average="macro"))


def _average_precision(outcome: Outcome) -> float:
    present = outcome.present
    if not present.size:
        return np.nan
    return float(average_precision_score(outcome.label[:, present], outcome.posterior[:, present]))


def _cross_entropy(outcome: Outcome) -> float:
    return float(-xlogy(outcome.truth, outcome.likelihood).sum(axis=1).mean())


def _binary_cross_entropy(outcome: Outcome) -> float:
    no = np.maximum(1 - outcome.posterior, EPS)
    return float(-(xlogy(outcome.truth, outcome.likelihood) + xlogy(1 - outcome.truth, no)).mean())


def _squares(outcome: Outcome) -> NDArray[np.float64]:
    return np.square(outcome.posterior - outcome.truth)


def _calibration_error(outcome: Outcome) -> float:
    bins = _reliability([outcome])
    gap = np.abs(np.subtract(bins["confidence"], bins["accuracy"]))
    return float(np.average(gap, weights=bins["count"]))


def _accuracy(outcome: Outcome) -> float:
    return float(accuracy_score(outcome.label, outcome.predicted))


def _rarer(outcome: Outcome) -> int:
    """Return which of two classes fewer test rows have, the second where both have the same number."""
    return int(2 * outcome.label.sum() <= len(outcome.label))


def _of_two_classes(score: Callable[..., float]) -> Callable[[Outcome], float]:
    """Return a score of the rarer of two classes' probability; not a number for more of them."""

    def scored(outcome: Outcome) -> float:
        if outcome.posterior.shape[1] != 2 or outcome.present.size < 2:
            return np.nan
        rarer = _rarer(outcome)
        return float(score(outcome.label == rarer, outcome.posterior[:, rarer]))

    return scored


def _label_roc_auc(outcome: Outcome) -> float:
    mixed = (outcome.label.min(axis=0) == 0) & (outcome.label.max(axis=0) == 1)
    if not mixed.any():
        return np.nan
    return float(roc_auc_score(outcome.label[:, mixed], outcome.posterior[:, mixed]))


def by_decision(name: str, **options: float) -> Callable[[Outcome], float]:
    """Return a metric of `equilog.decisions`, as its rules maximise it."""
    metric = decisions.metrics(**options)[name]

    def scored(outcome: Outcome) -> float:
        group = np.zeros(len(outcome.label), np.int64)
        judge = OfClasses(metric) if outcome.label.ndim == 1 else OfLabels(metric)
        return judge.value(judge.sums(outcome.predicted, outcome.truth, np.ones(len(group)), group, 1)[0])

    return scored


@dataclass(frozen=True)
class Metric:
    """One way to judge, under one name."""

    name: str
    title: str
    larger_is_better: bool
    meaning: str
    """One sentence for those who do not know the metric."""
    scorers: Mapping[Task, Callable[[Outcome], float]]
    """How to compute it for each task that has it."""
    shown: tuple[Task, ...] = ("multiclass", "multilabel", "soft")
    """For which tasks tables show it also where it does not decide."""
    rule: Mapping[str, Any] = field(default_factory=dict)
    """The arguments of the `DecisionRule` that is best for it; none where it goes by probabilities alone."""
    limits: tuple[float, float] = (0.0, 1.0)
    """The least and the largest value that it can have."""
    classes_share: Literal["mean", "least"] | None = None
    """Whether it is a mean over the classes, or goes by the worst of them, so that few rows of one decide much."""

    @property
    def phrase(self) -> str:
        """The title as it stands within a sentence."""
        return self.title if self.title[:2].isupper() else self.title[0].lower() + self.title[1:]


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "balanced_accuracy",
            "Balanced accuracy",
            True,
            "The mean over the classes of the share of a class's rows that are found; each class counts the same.",
            {
                "multiclass": lambda outcome: float(_recalls(outcome).mean()),
                "multilabel": by_decision("balanced_accuracy"),
            },
            rule={"metric": "balanced_accuracy"},
            shown=("multiclass",),
            classes_share="mean",
        ),
        Metric(
            "kl",
            "KL divergence",
            False,
            "How far the predicted distribution is from the target's, in nats; 0 where they agree.",
            {"soft": lambda outcome: float(rel_entr(outcome.truth, outcome.likelihood).sum(axis=1).mean())},
            limits=(0.0, np.inf),
        ),
        Metric(
            "macro_f1",
            "Macro F1",
            True,
            "The mean over the classes of F1: how many of a class's rows are found, and how often its name is right.",
            {"multiclass": _macro_f1, "multilabel": _macro_f1, "soft": _macro_f1},
            rule={"metric": "macro_f1"},
            classes_share="mean",
        ),
        Metric(
            "micro_f1",
            "Micro F1",
            True,
            "F1 over all labels of all rows at once, so that the frequent labels decide it.",
            {
                "multilabel": lambda outcome: float(
                    f1_score(outcome.label, outcome.predicted, average="micro", zero_division=0.0)
                )
            },
            rule={"metric": "micro_f1"},
        ),
        Metric(
            "worst_class_recall",
            "Worst-class recall",
            True,
            "The share of rows found of the class that is found least.",
            {
                "multiclass": lambda outcome: float(_recalls(outcome).min()),
                "multilabel": by_decision("worst_recall"),
            },
            rule={"metric": "worst_recall"},
            shown=("multiclass",),
            classes_share="least",
        ),
        Metric(
            "map",
            "Mean average precision",
            True,
            "The mean over the labels of how well their rows are ranked above the other rows.",
            {"multilabel": _average_precision},
        ),
        Metric(
            "lrap",
            "Label-ranking precision",
            True,
            "How well a row's own labels are ranked above its other labels (LRAP).",
            {
                "multilabel": lambda outcome: float(
                    label_ranking_average_precision_score(outcome.label, outcome.posterior)
                )
            },
        ),
        Metric(
            "accuracy",
            "Accuracy",
            True,
            "The share of rows whose class is found; the frequent classes decide it.",
            {"multiclass": _accuracy, "soft": _accuracy},
            rule={"metric": "micro_f1"},
        ),
        Metric(
            "mcc",
            "Matthews' correlation",
            True,
            "The correlation between predicted and true classes; 0 is no better than chance.",
            {"multiclass": by_decision("mcc"), "multilabel": by_decision("mcc")},
            shown=(),
            rule={"metric": "mcc"},
            limits=(-1.0, 1.0),
        ),
        Metric(
            "g_mean",
            "Geometric mean of recalls",
            True,
            "The geometric mean over the classes of the share of rows found: near 0 where one class is not found.",
            {"multiclass": by_decision("g_mean"), "multilabel": by_decision("g_mean")},
            shown=(),
            rule={"metric": "g_mean"},
            classes_share="mean",
        ),
        Metric(
            "jaccard",
            "Jaccard index",
            True,
            "The mean over the classes of the rows found over those found, missed or wrongly named.",
            {"multiclass": by_decision("jaccard"), "multilabel": by_decision("jaccard")},
            shown=(),
            rule={"metric": "jaccard"},
            classes_share="mean",
        ),
        Metric(
            "average_precision",
            "Average precision",
            True,
            "How well the rows of the rarer of two classes are ranked above the others.",
            {"multiclass": _of_two_classes(average_precision_score)},
        ),
        Metric(
            "roc_auc",
            "ROC AUC",
            True,
            "How often a row of a class (or with a label) is ranked above one that is not (or without).",
            {"multiclass": _of_two_classes(roc_auc_score), "multilabel": _label_roc_auc},
            shown=(),
        ),
        Metric(
            "nll",
            "NLL",
            False,
            "Negative log-likelihood of the truth under the predicted probabilities, in nats.",
            {"multiclass": _cross_entropy, "multilabel": _binary_cross_entropy, "soft": _cross_entropy},
            limits=(0.0, np.inf),
        ),
        Metric(
            "calibration_error",
            "Calibration error",
            False,
            f"How far a probability is, on average, from how often it comes true ({BINS} bins of equal width).",
            {"multiclass": _calibration_error, "multilabel": _calibration_error, "soft": _calibration_error},
        ),
        Metric(
            "brier",
            "Brier score",
            False,
            "The squared distance between the predicted probabilities and the truth.",
            {
                "multiclass": lambda outcome: float(_squares(outcome).sum(axis=1).mean()),
                "multilabel": lambda outcome: float(_squares(outcome).mean()),
                "soft": lambda outcome: float(_squares(outcome).sum(axis=1).mean()),
            },
            limits=(0.0, 2.0),
        ),
    )
}
"""Every metric by name, the most telling first."""

MAIN_METRIC: dict[Task, str] = {"multiclass": "balanced_accuracy", "multilabel": "macro_f1", "soft": "kl"}
"""The metric that decides where none is chosen, for each task."""


def metrics_for(task: Task) -> dict[str, Metric]:
    """Return the task's metrics by name, the main one first.

    Example:
        >>> list(metrics_for("soft"))
        ['kl', 'macro_f1', 'accuracy', 'nll', 'calibration_error', 'brier']
    """
    main = METRICS[MAIN_METRIC[task]]
    return {main.name: main} | {name: metric for name, metric in METRICS.items() if task in metric.scorers}


def evaluate(
    task: Task,
    target: ArrayLike,
    predicted: ArrayLike,
    posterior: ArrayLike | Sequence[ArrayLike],
    metrics: Iterable[Metric] | None = None,
) -> dict[str, float]:
    """Return metrics of n test rows by name, averaged over the target columns.

    A class or label that no test row has takes no part in the averages over classes. A metric that the test
    rows leave undefined (macro F1 of labels without a single positive, ROC AUC of three classes) is left out.

    Args:
        task: which task.
        target: multiclass (n, k) class codes for k target columns; multilabel (n, L) of 0 and 1; soft (n, C)
            distributions.
        predicted: multiclass (n, k) class codes; multilabel (n, L) of 0 and 1; soft (n,) class codes.
        posterior: multiclass k arrays (n, C_k) of probabilities; multilabel (n, L); soft (n, C). Rows of
            class probabilities must sum to 1 within 0.001 and are divided by their sum.
        metrics: what is asked; None for all of the task's own.

    Raises:
        ValueError: shapes that do not fit, no rows, codes of no class, or what is no probability.

    Example:
        >>> sure = [[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4]]
        >>> scores = evaluate("multiclass", [[0], [1], [0], [1]], [[0], [1], [0], [0]], [sure])
        >>> scores["balanced_accuracy"], scores["worst_class_recall"]
        (0.75, 0.5)
    """
    outcomes = _outcomes(task, target, predicted, posterior)
    asked = metrics_for(task) if metrics is None else {metric.name: metric for metric in metrics}
    scores = {
        name: float(np.mean([metric.scorers[task](outcome) for outcome in outcomes])) for name, metric in asked.items()
    }
    return {name: score for name, score in scores.items() if not np.isnan(score)}


def reliability(
    task: Task, target: ArrayLike, predicted: ArrayLike, posterior: ArrayLike | Sequence[ArrayLike]
) -> Reliability:
    """Return the mean probability and how often it came true, in bins, over all target columns together.

    The arguments are those of `evaluate`. The probabilities are those of the posterior's first choice in each
    row, or of every label where multi-label; where the targets are soft, how often a class comes true is its
    share of the target.
    """
    return _reliability(_outcomes(task, target, predicted, posterior))


def bin_of(confidence: ArrayLike) -> NDArray[np.int64]:
    """Return the calibration bin, 0 to 14, of each probability in [0, 1].

    Example:
        >>> bin_of([0.0, 0.5, 1.0])
        array([ 0,  7, 14])
    """
    return np.minimum(np.asarray(confidence, dtype=np.float64) * BINS, BINS - 1).astype(np.int64)


def class_records(
    task: Task,
    train_target: ArrayLike,
    target: ArrayLike,
    predicted: ArrayLike,
    target_names: Sequence[str],
    class_names: Sequence[Sequence[str]],
) -> list[ClassRecord]:
    """Return for each target column how often its classes were in the training rows and found in the test rows.

    Args:
        task: which task.
        train_target: targets of the rows trained on, of the width of `target`.
        target: as in `evaluate`.
        predicted: as in `evaluate`.
        target_names: the k target columns; one name where multi-label or soft.
        class_names: for each target name its classes, or labels, in the order of the codes.
    """
    train, chosen = np.asarray(train_target), np.asarray(predicted)
    if task == "multiclass":
        counts = [np.bincount(train[:, column], minlength=len(names)) for column, names in enumerate(class_names)]
    else:
        counts = [train.sum(axis=0)]
    columns = zip(
        target_names,
        class_names,
        counts,
        _labels(task, np.asarray(target)),
        chosen.T if task == "multiclass" else [chosen],
        strict=True,
    )
    records: list[ClassRecord] = []
    for name, names, count, label, choice in columns:
        codes, present = range(len(names)), _present(label)
        recall = dict(zip(present, recall_score(label, choice, labels=present, average=None), strict=True))
        square = label.ndim == 1 and len(names) <= CONFUSION_LIMIT
        records.append(
            {
                "target": name,
                "names": list(names),
                "train_count": [float(rows) for rows in count],
                "test_count": (
                    label.sum(axis=0) if label.ndim == 2 else np.bincount(label, minlength=len(names))
                ).tolist(),
                "recall": [float(recall[code]) if code in recall else None for code in codes],
                "confusion": confusion_matrix(label, choice, labels=codes).tolist() if square else None,
            }
        )
    return records


def _reliability(outcomes: Iterable[Outcome]) -> Reliability:
    confidence, came_true = (
        np.concatenate(parts) for parts in zip(*(outcome.believed for outcome in outcomes), strict=True)
    )
    number = bin_of(confidence)
    count = np.bincount(number, minlength=BINS)
    filled = count > 0
    return {
        "confidence": (np.bincount(number, confidence, BINS)[filled] / count[filled]).tolist(),
        "accuracy": (np.bincount(number, came_true, BINS)[filled] / count[filled]).tolist(),
        "count": count[filled].tolist(),
    }


def _labels(task: Task, target: NDArray[np.generic]) -> list[NDArray[np.int64]]:
    """Return the labels of each target column: codes, the 0/1 matrix, or the likeliest class where soft."""
    if task == "soft":
        return [target.argmax(axis=1)]
    return [target.astype(np.int64)] if task == "multilabel" else [codes.astype(np.int64) for codes in target.T]


def _outcomes(
    task: Task, target: ArrayLike, predicted: ArrayLike, posterior: ArrayLike | Sequence[ArrayLike]
) -> list[Outcome]:
    """Return one checked outcome for each target column."""
    truth, chosen = np.asarray(target), np.asarray(predicted)
    _expect("target", truth, "(rows, columns) with at least one row", truth.ndim == 2 and len(truth) > 0)
    expected = truth.shape[:1] if task == "soft" else truth.shape
    _expect("predicted", chosen, f"{expected}", chosen.shape == expected)
    labels = _labels(task, truth)
    if task != "multiclass":
        soft = task == "soft"
        probability = _probabilities("posterior", posterior, truth.shape, sum_to_one=soft)
        return [Outcome(labels[0], chosen, _probabilities("target", truth, truth.shape, sum_to_one=soft), probability)]
    of_columns = list(posterior)  # type: ignore[arg-type]
    if len(of_columns) != len(labels):
        raise ValueError(
            f"evaluate: posterior must be a list of {len(labels)} arrays, one for each column of target "
            f"{truth.shape}; got {len(of_columns)}."
        )
    outcomes = []
    for label, choice, columns in zip(labels, chosen.T, of_columns, strict=True):
        probability = _probabilities("posterior", columns, (len(label), None), sum_to_one=True)
        classes = probability.shape[1]
        for name, codes in (("target", label), ("predicted", choice)):
            if codes.min() < 0 or codes.max() >= classes:
                raise ValueError(
                    f"evaluate: {name} must hold class codes 0 to {classes - 1}, the columns of posterior; "
                    f"got {codes.min()} to {codes.max()}."
                )
        one_hot = np.zeros_like(probability)
        np.put_along_axis(one_hot, label[:, None], 1, axis=1)
        outcomes.append(Outcome(label, choice, one_hot, probability))
    return outcomes


def _probabilities(
    name: str, values: ArrayLike | Sequence[ArrayLike], shape: tuple[int, int | None], *, sum_to_one: bool
) -> NDArray[np.float64]:
    probability = np.asarray(values, dtype=np.float64)
    rows, columns = shape
    fits = probability.ndim == 2 and probability.shape[0] == rows and columns in (None, probability.shape[1])
    _expect(name, probability, f"({rows}, {columns or 'classes'})", fits)
    total = probability.sum(axis=1, keepdims=True)
    # A comparison with NaN is false, so NaN fails here too.
    if not (((probability >= 0) & (probability <= 1)).all() and (not sum_to_one or (abs(total - 1) < 1e-3).all())):
        raise ValueError(
            f"evaluate: {name} must hold probabilities between 0 and 1"
            + (", each row summing to 1" if sum_to_one else "")
            + f"; got {probability.min():g} to {probability.max():g}, row sums {total.min():g} to {total.max():g}."
        )
    return probability / total if sum_to_one else probability


def _expect(name: str, array: NDArray[np.generic], shape: str, fits: bool) -> None:
    if not fits:
        raise ValueError(f"evaluate: {name} must have shape {shape}; got {array.shape}.")
