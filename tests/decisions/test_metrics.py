"""The metrics against scikit-learn's, and their sums by groups of rows."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import (
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    fbeta_score,
    jaccard_score,
    matthews_corrcoef,
    multilabel_confusion_matrix,
    precision_score,
    recall_score,
)

from equilog.decisions.judge import Judge, OfClasses, OfConfusion, OfLabels, OfTables
from equilog.decisions.metrics import METRICS, cost_of_labels, metrics

Codes = NDArray[np.int64]


def value(judge: Judge, decided: Codes, truth: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
    """The metric of rows summed in four groups."""
    group = np.arange(len(weight)) % 4
    return judge.value(judge.sums(decided, truth, weight, group, 4).sum(0))


@pytest.fixture
def rows() -> tuple[Codes, Codes, NDArray[np.float64]]:
    """Classes, decisions and weights of 200 rows, the third class never decided on."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, size=200)
    decided = np.where(rng.random(200) < 0.6, y, rng.integers(0, 4, size=200))
    return y, np.where(decided == 2, 0, decided), rng.random(200)


def least_and_product(y: Codes, decided: Codes, weight: NDArray[np.float64]) -> tuple[float, float]:
    recalls = recall_score(y, decided, average=None, sample_weight=weight)
    return float(recalls.min()), float(np.exp(np.log(np.maximum(recalls, 1e-3)).mean()))


def test_metrics_of_classes_are_those_of_scikit_learn(rows: tuple[Codes, Codes, NDArray[np.float64]]) -> None:
    y, decided, weight = rows
    least, product = least_and_product(y, decided, weight)
    expected = {
        "balanced_accuracy": balanced_accuracy_score(y, decided, sample_weight=weight),
        "macro_f1": f1_score(y, decided, average="macro", sample_weight=weight),
        "micro_f1": f1_score(y, decided, average="micro", sample_weight=weight),
        "f_beta": fbeta_score(y, decided, beta=2.0, average="macro", sample_weight=weight),
        "jaccard": jaccard_score(y, decided, average="macro", sample_weight=weight),
        "mcc": matthews_corrcoef(y, decided, sample_weight=weight),
        "worst_recall": least,
        "g_mean": product,
    }
    for name, number in expected.items():
        # Rounding: sums of 200 products in another order.
        assert value(OfClasses(metrics(2.0, 0.9)[name]), decided, np.eye(4)[y], weight) == pytest.approx(
            number, rel=1e-12
        ), name
    assert set(expected) | {"recall_at_precision"} == set(METRICS)


def test_metrics_of_labels_are_those_of_scikit_learn_averaged() -> None:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, size=(150, 3))
    decided = np.where(rng.random((150, 3)) < 0.7, y, 1 - y)
    weight = np.ones(150)
    recalls = np.array([[(decided[y[:, k] == a, k] == a).mean() for a in (0, 1)] for k in range(3)])
    columns = list(zip(y.T, decided.T, strict=True))
    expected = {
        "balanced_accuracy": np.mean([balanced_accuracy_score(*pair) for pair in columns]),
        "macro_f1": f1_score(y, decided, average="macro"),
        "micro_f1": f1_score(y, decided, average="micro"),
        "f_beta": fbeta_score(y, decided, beta=2.0, average="macro"),
        "jaccard": jaccard_score(y, decided, average="macro"),
        "mcc": np.mean([matthews_corrcoef(*pair) for pair in columns]),
        "worst_recall": recalls.min(),
        "g_mean": np.sqrt(recalls.prod(1)).mean(),
        "recall_at_precision": recalls[:, 1].mean(),
    }
    assert min(precision_score(y, decided, average=None)) > 0.5
    for name, number in expected.items():
        metric = metrics(2.0, 0.5)[name]
        assert value(OfLabels(metric), decided, y.astype(float), weight) == pytest.approx(number, rel=1e-12), name


def test_recall_below_the_precision_says_what_is_lacking() -> None:
    y, decided = np.array([0, 0, 1, 1]), np.array([1, 1, 1, 0])  # precision 1/3, recall 1/2
    for precision, expected in ((0.3, 0.5), (0.5, 1 / 3 - 0.5)):
        metric = metrics(1.0, precision)["recall_at_precision"]
        assert value(OfClasses(metric), decided, np.eye(2)[y], np.ones(4)) == pytest.approx(expected)
        assert value(OfLabels(metric), decided[:, None], y[:, None].astype(float), np.ones(4)) == pytest.approx(
            expected
        )


def test_classes_without_rows_are_left_out() -> None:
    y, decided = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])
    for name, expected in (("balanced_accuracy", 0.75), ("macro_f1", (2 / 3 + 1) / 2), ("worst_recall", 0.5)):
        metric = metrics(1.0, 0.9)[name]
        assert value(OfClasses(metric), decided, np.eye(3)[y], np.ones(4)) == pytest.approx(expected), name


def test_confusions_are_those_of_scikit_learn(rows: tuple[Codes, Codes, NDArray[np.float64]]) -> None:
    y, decided, weight = rows
    group = np.arange(200) % 3
    sums = OfConfusion(np.trace).sums(decided, np.eye(4)[y], weight, group, 3)
    for number, table in enumerate(sums):
        here = group == number
        expected = confusion_matrix(y[here], decided[here], sample_weight=weight[here], labels=range(4))
        np.testing.assert_allclose(table, expected, rtol=1e-12, atol=1e-12)
    labels, said = np.eye(4, dtype=int)[y], np.eye(4, dtype=int)[decided]
    tables = OfTables(np.sum).sums(said, labels.astype(float), np.ones(200), np.zeros(200, int), 1)[0]
    np.testing.assert_allclose(tables, multilabel_confusion_matrix(labels, said))


def test_cost_of_labels_is_the_mean_over_rows_and_labels() -> None:
    costs = np.array([[0.0, 1.0], [5.0, -2.0]])
    y, decided = np.array([[0, 1], [1, 1]]), np.array([[1, 1], [0, 1]])
    expected = -np.mean([costs[t, d] for t, d in zip(y.ravel(), decided.ravel(), strict=True)])
    metric = cost_of_labels(costs)
    assert value(OfLabels(metric), decided, y.astype(float), np.ones(2)) == pytest.approx(expected)
    np.testing.assert_allclose(metric.label_threshold(np.zeros(1)), 1 / (1 + 7))  # type: ignore[misc]
