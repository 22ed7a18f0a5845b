"""Decision rules: closed forms, searches against brute force, few rows, and what is refused."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score, f1_score

from equilog.decisions import DecisionRule
from equilog.decisions.ascent import ascend
from equilog.decisions.judge import OfClasses
from equilog.decisions.learn import Offsets, Sample, label_shares
from equilog.decisions.metrics import METRICS, metrics
from equilog.decisions.recalibration import recalibrate_classes, recalibrate_labels
from equilog.decisions.thresholds import best_cut

from .populations import Array, Codes, drawn, drawn_labels

PRIOR = np.array([0.7, 0.2, 0.07, 0.03])


def metric_of(name: str, decided: Codes, y: Codes, classes: int = 4) -> float:
    judge = OfClasses(metrics(1.0, 0.9)[name])
    return judge.value(judge.sums(decided, np.eye(classes)[y], np.ones(len(y)), np.zeros(len(y), int), 1)[0])


@pytest.fixture(scope="module")
def population() -> tuple[Array, Codes]:
    return drawn(20_000, PRIOR, seed=0)


def test_balanced_accuracy_takes_the_prior_off(population: tuple[Array, Codes]) -> None:
    probability, _ = population
    rule = DecisionRule("balanced_accuracy").fit(probability)
    frequency = probability.mean(0)
    np.testing.assert_allclose(np.diff(rule.offsets_), np.diff(-np.log(frequency)), rtol=1e-10)
    np.testing.assert_array_equal(rule.predict(probability), (probability / frequency).argmax(1))


def test_micro_f1_of_right_probabilities_is_argmax(population: tuple[Array, Codes]) -> None:
    probability, _ = population
    rule = DecisionRule("micro_f1").fit(probability)
    np.testing.assert_array_equal(rule.predict(probability), probability.argmax(1))


def test_costs_are_decided_by_expected_cost(population: tuple[Array, Codes]) -> None:
    probability, y = population
    costs = np.random.default_rng(0).random((4, 4)) * (1 - np.eye(4)) * [[1], [5], [20], [50]]
    rule = DecisionRule(costs).fit(probability)
    np.testing.assert_array_equal(rule.predict(probability), (probability @ costs).argmin(1))
    assert rule.offsets_ is None
    # In the mean over the classes that may be true, as the probabilities have it.
    expected = -np.mean((probability @ costs)[np.arange(len(y)), rule.predict(probability)])
    assert rule.report_.rule == pytest.approx(expected, rel=1e-10)


def test_equal_costs_of_errors_are_argmax_and_costs_of_a_class_its_weight(population: tuple[Array, Codes]) -> None:
    probability, _ = population
    errors = 1 - np.eye(4)
    np.testing.assert_array_equal(DecisionRule(errors).fit(probability).predict(probability), probability.argmax(1))
    weight = np.array([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(
        DecisionRule(errors * weight[:, None]).fit(probability).predict(probability), (probability * weight).argmax(1)
    )


@pytest.mark.parametrize("name", ["macro_f1", "mcc", "g_mean", "jaccard", "worst_recall"])
def test_search_gets_what_brute_force_gets(name: str) -> None:
    """Against all offsets of three classes on a grid, on 3,000 rows."""
    probability, y = drawn(3000, np.array([0.8, 0.15, 0.05]), seed=1)
    log_prob, truth = np.log(probability), np.eye(3)[y]
    steps = np.arange(-1.0, 4.0, 0.25)
    best = max(
        metric_of(name, (log_prob + np.array([0, first, second])).argmax(1), y, 3)
        for first in steps
        for second in steps
    )
    metric = metrics(1.0, 0.9)[name]
    reference = -np.log(truth.mean(0)) if metric.balanced else np.zeros(3)
    free = np.ones(3, bool)
    offsets = ascend(log_prob, truth, np.ones(3000), metric.of_classes, reference - reference.mean(), free)
    # One class at a time may stop short of the best.
    assert metric_of(name, (log_prob + offsets).argmax(1), y, 3) > best - 0.003
    assert metric_of(name, log_prob.argmax(1), y, 3) < best - 0.01


def test_search_never_ends_below_its_start() -> None:
    for seed in range(20):
        probability, y = drawn(60, np.array([0.6, 0.3, 0.1]), seed, distance=0.7)
        truth = np.eye(3)[y]
        offsets = ascend(
            np.log(probability),
            truth,
            np.ones(60),
            metrics(1.0, 0.9)["macro_f1"].of_classes,
            np.zeros(3),
            np.ones(3, bool),
        )
        assert metric_of("macro_f1", (np.log(probability) + offsets).argmax(1), y, 3) >= metric_of(
            "macro_f1", probability.argmax(1), y, 3
        )


@pytest.mark.parametrize("name", ["balanced_accuracy", "macro_f1", "mcc", "g_mean", "worst_recall"])
@pytest.mark.parametrize("labelled", [False, True])
def test_rule_beats_argmax_on_other_rows(name: str, labelled: bool, population: tuple[Array, Codes]) -> None:
    probability, y = population
    fresh, truth = drawn(20_000, PRIOR, seed=2)
    rule = DecisionRule(name).fit(probability, y if labelled else None)
    gained = metric_of(name, rule.predict(fresh), truth) - metric_of(name, fresh.argmax(1), truth)
    # Right probabilities and 20,000 rows: what is left to chance is a standard error of about .01, and of
    # .002 of the difference in mcc, where rules differ in few rows; so cross-fitting may see nothing there.
    if name == "mcc" and labelled:
        assert gained > (0.002 if rule.report_.kept == "rule" else -1e-12)
        return
    assert gained > (0.1 if metrics(1.0, 0.9)[name].balanced else {"macro_f1": 0.02, "mcc": 0.003}[name])
    assert rule.report_.kept == "rule"


def test_wrong_probabilities_are_corrected_by_labels(population: tuple[Array, Codes]) -> None:
    probability, y = population
    wrong = probability**0.4 * [1.0, 4.0, 0.5, 3.0]
    wrong /= wrong.sum(1, keepdims=True)
    correction = recalibrate_classes(np.log(wrong), y, np.ones(len(y)))
    # 600 rows of the rarest class: a standard error of .05 for its log weight.
    np.testing.assert_allclose(np.exp(correction.of_classes(np.log(wrong))), probability, atol=0.05)
    right, corrected = (DecisionRule("balanced_accuracy").fit(p, y).predict(p) for p in (probability, wrong))
    assert (right == corrected).mean() > 0.97


def test_labels_have_half_a_say_in_a_class_of_fifty_rows() -> None:
    probability, y = drawn(150, np.array([0.5, 0.5]), seed=0)
    y = np.repeat([0, 1], [100, 50])
    shares = label_shares(Sample(probability, y, np.ones(150)))
    np.testing.assert_allclose(shares, [100 / 150, 50 / 100], rtol=1e-12)
    np.testing.assert_allclose(label_shares(Sample(probability, y, np.full(150, 2.0))), [200 / 250, 100 / 150])
    np.testing.assert_array_equal(label_shares(Sample(probability, None, np.ones(150))), 0.0)
    # Of a yes/no label the rarer answer counts, here no.
    np.testing.assert_allclose(label_shares(Sample(probability[:, 1:], y[::-1, None] ^ 1, np.ones(150))), 0.5)
    belief = Offsets(metrics()["mcc"]).believe(Sample(probability, y, np.ones(150)))
    np.testing.assert_allclose(belief.truth[:, 0], shares[0] * (y == 0) + (1 - shares[0]) * np.exp(belief.scores[:, 0]))


def test_label_corrections_undo_what_was_done() -> None:
    probability, y = drawn_labels(20_000, np.array([0.5, 0.1]), seed=0)
    odds = np.log(probability / (1 - probability))
    wrong = 1 / (1 + np.exp(-(0.5 * odds + [1.0, -1.0])))
    correction = recalibrate_labels(wrong, y, np.ones(len(y)))
    np.testing.assert_allclose(correction.slope, 2.0, atol=0.1)
    np.testing.assert_allclose(correction.of_labels(wrong), odds, atol=0.6)


def test_argmax_is_kept_where_nothing_is_gained() -> None:
    """Probabilities that know nothing, and so many rows of one class that no other can be told by them."""
    rng = np.random.default_rng(0)
    kept = []
    for _ in range(10):
        y = rng.choice(3, size=100, p=[0.5, 0.3, 0.2])
        noise = rng.dirichlet([5, 3, 2], size=100)
        kept.append(DecisionRule("micro_f1").fit(np.eye(3)[y] * 0.9 + noise * 0.1, y))
    for rule in kept:
        assert rule.report_.kept == "argmax"
        np.testing.assert_array_equal(rule.offsets_, 0.0)
        assert rule.report_.cross_fitted <= rule.report_.argmax == 1.0


def test_report_holds_the_metric_on_the_rows_of_fit() -> None:
    probability, y = drawn(2000, PRIOR, seed=4)
    rule = DecisionRule("balanced_accuracy").fit(probability, y)
    report = rule.report_
    assert report.argmax == pytest.approx(balanced_accuracy_score(y, probability.argmax(1)))
    assert report.rule == pytest.approx(balanced_accuracy_score(y, rule.predict(probability)))
    assert report.gain == pytest.approx(report.cross_fitted - report.argmax)
    assert report.interval[0] < report.cross_fitted < report.interval[1]
    assert report.gain_interval[0] < report.gain < report.gain_interval[1]


def test_cross_fitted_metric_and_interval_foretell_other_rows() -> None:
    inside = []
    for seed in range(20):
        probability, y = drawn(1000, PRIOR, seed=seed + 10)
        rule = DecisionRule("balanced_accuracy").fit(probability, y)
        fresh, truth = drawn(20_000, PRIOR, seed=seed + 1000)
        low, high = rule.report_.interval
        inside.append(low <= metric_of("balanced_accuracy", rule.predict(fresh), truth) <= high)
    # 95 % intervals: 15 or fewer of 20 would come by chance once in 400 times.
    assert sum(inside) >= 16


def test_weight_two_is_the_row_twice() -> None:
    probability, y = drawn(400, PRIOR, seed=5)
    weight = np.random.default_rng(0).integers(0, 3, size=400)
    weighted = DecisionRule("balanced_accuracy").fit(probability, y, sample_weight=weight)
    twice = DecisionRule("balanced_accuracy").fit(np.repeat(probability, weight, 0), np.repeat(y, weight))
    np.testing.assert_allclose(weighted.offsets_, twice.offsets_, rtol=1e-6)
    assert weighted.report_.rule == pytest.approx(twice.report_.rule)


def test_function_of_the_confusion_matrix_is_maximised() -> None:
    """Quadratic kappa of five ordered classes: saying the middle class pays, which no class weight can express."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, size=4000)
    scores = -0.5 * (np.arange(5) - y[:, None] - 1.5 * rng.normal(size=(4000, 1))) ** 2 / 1.5**2
    probability = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    distance = (np.arange(5)[:, None] - np.arange(5)) ** 2

    def kappa(confusion: Array) -> float:
        expected = confusion.sum(1)[:, None] * confusion.sum(0) / confusion.sum()
        return 1 - (distance * confusion).sum() / (distance * expected).sum()

    rule = DecisionRule(kappa).fit(probability[:2000], y[:2000])
    argmax, decided = (
        cohen_kappa_score(y[2000:], answer, weights="quadratic")
        for answer in (probability[2000:].argmax(1), rule.predict(probability[2000:]))
    )
    assert decided > argmax + 0.003
    assert rule.gains_ is not None
    assert rule.gains_.shape == (5, 5)


def test_function_that_a_name_has_is_no_better_than_the_name(population: tuple[Array, Codes]) -> None:
    probability, y = (part[:5000] for part in population)

    def recalls(confusion: Array) -> float:
        return float((np.diag(confusion) / confusion.sum(1)).mean())

    function = DecisionRule(recalls).fit(probability, y)
    name = DecisionRule("balanced_accuracy").fit(probability, y)
    assert (function.predict(probability) == name.predict(probability)).mean() > 0.99


# Labels


def test_best_cut_is_the_best_of_all_cuts() -> None:
    rng = np.random.default_rng(0)
    odds, truth = rng.normal(size=80).round(1), (rng.random(80) < 0.3).astype(float)
    metric = metrics(1.0, 0.9)["macro_f1"]
    cut = best_cut(odds, truth, np.full(80, 1e6), metric, 0.0)  # so many rows that nothing is held back
    every = [f1_score(truth, odds > at) for at in np.append(np.unique(odds) - 0.05, 9.0)]
    assert f1_score(truth, odds > cut) == pytest.approx(max(every))


def test_label_thresholds_that_are_formulas() -> None:
    probability, _ = drawn_labels(5000, np.array([0.5, 0.1, 0.02]), seed=0)
    balanced = DecisionRule("balanced_accuracy", multilabel=True).fit(probability)
    np.testing.assert_allclose(balanced.thresholds_, probability.mean(0), rtol=1e-10)
    costs = DecisionRule([[0, 1], [4, 0]], multilabel=True).fit(probability)
    np.testing.assert_allclose(costs.thresholds_, 0.2, rtol=1e-10)
    # Half of the best F1 is the threshold of F1 (Lipton et al. 2014), for micro F1 as well.
    micro = DecisionRule("micro_f1", multilabel=True).fit(probability)
    np.testing.assert_allclose(micro.thresholds_, micro.report_.rule / 2, atol=0.01)
    macro = DecisionRule("macro_f1", multilabel=True).fit(probability[:, :1])
    np.testing.assert_allclose(macro.thresholds_, macro.report_.rule / 2, atol=0.01)


def test_label_rules_beat_one_half_on_other_rows() -> None:
    frequency = np.array([0.3, 0.1, 0.05])
    probability, y = drawn_labels(4000, frequency, seed=1)
    fresh, truth = drawn_labels(4000, frequency, seed=2)
    half, decided = (
        f1_score(truth, said, average="macro")
        for said in (fresh > 0.5, DecisionRule("macro_f1").fit(probability, y).predict(fresh))
    )
    assert decided > half + 0.05


def test_recall_is_had_at_the_precision() -> None:
    probability, y = drawn(20_000, np.array([0.8, 0.2]), seed=3)
    for rule in (
        DecisionRule("recall_at_precision", precision=0.8).fit(probability, y),
        DecisionRule("recall_at_precision", precision=0.8).fit(probability[:, 1:], y[:, None]),
    ):
        fresh, truth = drawn(20_000, np.array([0.8, 0.2]), seed=4)
        said = rule.predict(fresh if rule.thresholds_ is None else fresh[:, 1:]).ravel()
        precision = truth[said == 1].mean()
        # 3,000 rows are said to be yes: a standard error of .007, and one more of the threshold's.
        assert precision == pytest.approx(0.8, abs=0.03)


def test_function_of_label_tables_finds_what_the_name_finds() -> None:
    probability, y = drawn_labels(1500, np.array([0.3, 0.05]), seed=5)

    def macro_f1(tables: Array) -> float:
        hits, errors = tables[:, 1, 1], tables[:, 0, 1] + tables[:, 1, 0]
        return float((2 * hits / np.maximum(2 * hits + errors, 1)).mean())

    function, name = (DecisionRule(metric, multilabel=True).fit(probability, y) for metric in (macro_f1, "macro_f1"))
    # 33 quantiles of the probabilities against all of them; 75 rows of the rarer label, a standard error of .02.
    assert function.report_.cross_fitted > name.report_.cross_fitted - 0.01


# Kinds of arrays, bad input


def test_tensors_decide_as_arrays_do(population: tuple[Array, Codes]) -> None:
    probability, y = (part[:3000] for part in population)
    costs = (1 - np.eye(4)) * [[1], [5], [20], [50]]
    for metric in ("macro_f1", costs):
        arrays = DecisionRule(metric).fit(probability, y)
        tensors = DecisionRule(metric).fit(torch.from_numpy(probability).requires_grad_(), torch.from_numpy(y))
        decided = tensors.predict(torch.from_numpy(probability))
        assert decided.dtype == torch.int64
        np.testing.assert_array_equal(decided.numpy(), arrays.predict(probability))
    labels, truth = drawn_labels(500, np.array([0.3, 0.1]), seed=0)
    rule = DecisionRule("macro_f1").fit(torch.from_numpy(labels), torch.from_numpy(truth))
    assert rule.predict(torch.from_numpy(labels)).equal(torch.from_numpy(rule.predict(labels)))


def test_class_without_rows_keeps_its_offset_and_is_named() -> None:
    probability, y = drawn(300, PRIOR, seed=6)
    kept = y != 2
    alone = DecisionRule("balanced_accuracy").fit(probability[kept])
    with pytest.warns(UserWarning, match=r"classes \[2\] have no rows"):
        rule = DecisionRule("balanced_accuracy").fit(probability[kept], y[kept])
    assert rule.report_.kept == "rule"
    # Twenty rows were to be expected and none came, so it is corrected to be rarer, but its weight makes up for that.
    expected = alone.offsets_[2] - alone.offsets_[0]
    assert rule.offsets_[2] - rule.offsets_[0] == pytest.approx(expected, abs=0.5)


def test_label_without_rows_keeps_one_half_and_is_named() -> None:
    probability, y = drawn_labels(300, np.array([0.3, 0.3, 0.3]), seed=6)
    y[:, 1], y[:, 2] = 0, 1
    with pytest.warns(UserWarning, match=r"labels \[1, 2\] have no rows"):
        rule = DecisionRule("macro_f1").fit(probability, y)
    np.testing.assert_array_equal(rule.thresholds_[1:], 0.5)


@pytest.mark.parametrize("rows", [2, 3, 8])
@pytest.mark.parametrize("metric", [*METRICS, "costs", "function"])
def test_a_handful_of_rows_is_no_error(metric: Any, rows: int) -> None:
    probability, y = drawn(rows, np.array([0.5, 0.5]), seed=7)
    y[:2] = 0, 1
    metric = {"costs": [[0, 1], [2, 0]], "function": np.trace}.get(metric, metric)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        rule = DecisionRule(metric).fit(probability, y)
        labels = DecisionRule(metric if metric is not np.trace else np.sum).fit(probability, np.eye(2, dtype=int)[y])
    assert rule.predict(probability).shape == (rows,)
    assert labels.predict(probability).shape == (rows, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "f1"}, "metric must be one of balanced_accuracy"),
        ({"metric": np.eye(3)}, r"matrix of finite costs \(4, 4\)"),
        ({"metric": "f_beta", "beta": 0}, "beta must be a number above 0"),
        ({"metric": "mcc", "precision": 2}, r"precision must be a number in \(0, 1\]"),
        ({"metric": "mcc", "cv": 1}, "cv must be a number of folds"),
        ({"metric": "recall_at_precision"}, "is for two classes"),
    ],
)
def test_bad_metrics_are_told(arguments: dict[str, Any], message: str) -> None:
    probability, y = drawn(20, PRIOR, seed=8)
    with pytest.raises(ValueError, match=message):
        DecisionRule(**arguments).fit(probability, y)


def test_costs_that_favour_errors_are_told() -> None:
    with pytest.raises(ValueError, match="wrong answer must cost more"):
        DecisionRule([[0, 0], [1, 0]], multilabel=True).fit([[0.5], [0.2]])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda p: p * np.nan, ValueError, "must not be NaN"),
        (lambda p: p / 2, ValueError, "must sum to 1; row [0-9]+ sums to 0.5"),
        (np.log, ValueError, "between 0 and 1"),
        (lambda p: p[:, 0], ValueError, r"shape \(n, C\)"),
        (lambda p: p[:0], ValueError, "at least one row"),
        (lambda p: p.astype(str), TypeError, "must be numbers"),
    ],
)
def test_bad_probabilities_are_told(change: Callable[[Array], Any], error: type[Exception], message: str) -> None:
    probability, y = drawn(20, np.array([0.4, 0.3, 0.2, 0.1]), seed=8)
    rule = DecisionRule("mcc").fit(probability, y)
    with pytest.raises(error, match=f"DecisionRule.fit.*{message}"):
        DecisionRule("mcc").fit(change(probability), y)
    with pytest.raises(error, match=f"DecisionRule.predict.*{message}"):
        rule.predict(change(probability))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda y: y + 1, ValueError, "from 0 to 3, since probabilities have 4 columns"),
        (lambda y: y[:5], ValueError, r"y must have shape \(20,\)"),
        (lambda y: y.astype(str), TypeError, "must hold class numbers"),
        (lambda y: 0 * y, ValueError, "rows of two classes at least"),
        (lambda y: np.eye(3)[y % 3], ValueError, "the shape of probabilities"),
        (lambda y: 2 * np.eye(4)[y], ValueError, "must hold 0 and 1"),
    ],
)
def test_bad_classes_are_told(change: Callable[[Codes], Any], error: type[Exception], message: str) -> None:
    probability, _ = drawn(20, PRIOR, seed=8)
    with pytest.raises(error, match=message):
        DecisionRule("mcc").fit(probability, change(np.arange(20) % 4))


@pytest.mark.parametrize("weight", [-np.ones(20), np.ones(3), np.zeros(20), np.full(20, np.nan)])
def test_bad_weights_are_told(weight: Array) -> None:
    probability, _ = drawn(20, PRIOR, seed=8)
    with pytest.raises(ValueError, match="sample_weight must h"):
        DecisionRule("mcc").fit(probability, np.arange(20) % 4, sample_weight=weight)


def test_an_unfitted_rule_and_other_columns_are_told() -> None:
    probability, _ = drawn(20, PRIOR, seed=8)
    with pytest.raises(AttributeError, match=r"call fit\(probabilities, y\) first"):
        DecisionRule("mcc").predict(probability)
    with pytest.raises(ValueError, match="the 4 columns of fit"):
        DecisionRule("mcc").fit(probability).predict([[0.5, 0.5]])
