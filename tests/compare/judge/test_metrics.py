import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss
from sklearn.model_selection import train_test_split

from equilog.compare.judge.metrics import (
    BINS,
    CONFUSION_LIMIT,
    EPS,
    MAIN_METRIC,
    METRICS,
    bin_of,
    class_records,
    evaluate,
    metrics_for,
    reliability,
)

TASKS = ("multiclass", "multilabel", "soft")


@pytest.fixture(scope="module")
def digits():
    """Test labels, choices and probabilities of a weak model, so that no metric is at its bound."""
    pixels, label = load_digits(return_X_y=True)
    fit, test = train_test_split(np.arange(len(label)), test_size=0.3, random_state=0)
    few = slice(0, 40)
    model = LogisticRegression(C=0.01, max_iter=500).fit(pixels[fit][few], label[fit][few])
    assert model.classes_.size == 10
    return label[test], model.predict(pixels[test]), model.predict_proba(pixels[test])


def one_column(label, predicted, posterior):
    return evaluate("multiclass", label[:, None], predicted[:, None], [posterior])


def test_multiclass_metrics_agree_with_scikit_learn_and_the_formulas(digits):
    label, predicted, posterior = digits
    scores = one_column(*digits)
    truth = np.eye(10)[label]
    hits = label == predicted
    recalls = [hits[label == code].mean() for code in range(10)]
    f1 = [
        2 * (hits & (label == code)).sum() / ((label == code).sum() + (predicted == code).sum()) for code in range(10)
    ]
    assert scores["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(label, predicted))
    assert scores["nll"] == pytest.approx(log_loss(label, posterior))
    assert scores["macro_f1"] == pytest.approx(np.mean(f1))
    assert scores["worst_class_recall"] == pytest.approx(min(recalls))
    assert scores["accuracy"] == pytest.approx(hits.mean())
    assert scores["brier"] == pytest.approx(((posterior - truth) ** 2).sum(axis=1).mean())
    assert len({round(score, 6) for score in scores.values()}) == len(scores), "two metrics are the same number"


def test_each_task_has_its_main_metric_first_and_every_metric_is_evaluated(digits):
    label, _, posterior = digits
    labels = np.stack([label % 2, label > 4], axis=1).astype(np.int64)
    chance = np.stack([posterior[:, 1::2].sum(axis=1), posterior[:, 5:].sum(axis=1)], axis=1)
    scores = {
        "multiclass": one_column(*digits),
        "multilabel": evaluate("multilabel", labels, (chance > 0.5).astype(np.int64), chance),
        "soft": evaluate("soft", posterior[::-1], posterior.argmax(axis=1), posterior),
    }
    for task in TASKS:
        two_classes = {"average_precision", "roc_auc"} if task == "multiclass" else set()
        assert list(scores[task]) == [name for name in metrics_for(task) if name not in two_classes]
        assert next(iter(metrics_for(task))) == MAIN_METRIC[task]
    assert {name for task in TASKS for name in metrics_for(task)} == set(METRICS)


def test_metrics_of_several_targets_are_the_mean_over_the_targets(digits):
    label, predicted, posterior = digits
    odd = (label % 2, predicted % 2, np.stack([posterior[:, ::2].sum(1), posterior[:, 1::2].sum(1)], axis=1))
    both = evaluate("multiclass", np.stack([label, odd[0]], 1), np.stack([predicted, odd[1]], 1), [posterior, odd[2]])
    first, second = one_column(*digits), one_column(*odd)
    assert both == {name: pytest.approx((first[name] + second[name]) / 2) for name in first}


def test_classes_absent_from_the_test_rows_take_no_part(digits):
    label, predicted, posterior = digits
    # A class that the model also predicts where it is not.
    absent = predicted[label != predicted][0]
    kept = label != absent
    scores = one_column(label[kept], predicted[kept], posterior[kept])
    present = [code for code in range(10) if code != absent]
    recalls = [(predicted[label == code] == code).mean() for code in present]
    assert scores["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert scores["worst_class_recall"] == pytest.approx(min(recalls))
    names = [tuple(map(str, range(10)))]
    (record,) = class_records(
        "multiclass", label[:, None], label[kept][:, None], predicted[kept][:, None], ["digit"], names
    )
    assert record["recall"][absent] is None
    assert [record["recall"][code] for code in present] == pytest.approx(recalls)
    assert record["train_count"] == np.bincount(label).tolist()
    assert np.sum(record["confusion"]) == kept.sum()
    assert np.diag(record["confusion"]).sum() == (label == predicted)[kept].sum()


@pytest.mark.parametrize("task", TASKS)
def test_probability_zero_of_what_came_costs_a_finite_amount(task):
    sure, wrong = np.array([[1.0, 0.0]]), np.array([[0, 1]])
    scores = {
        "multiclass": lambda: evaluate("multiclass", [[1]], [[0]], [sure]),
        "multilabel": lambda: evaluate("multilabel", wrong, [[1, 0]], sure),
        "soft": lambda: evaluate("soft", wrong, [0], sure),
    }[task]()
    assert scores["nll"] == pytest.approx(-np.log(EPS))
    assert scores["calibration_error"] == pytest.approx(1.0)
    if task == "soft":
        assert scores["kl"] == pytest.approx(-np.log(EPS))


def test_soft_metrics_are_zero_at_the_target_and_the_entropy_splits_the_likelihood(digits):
    _, _, target = digits
    entropy = -(target * np.log(target)).sum(axis=1).mean()
    exact = evaluate("soft", target, target.argmax(axis=1), target)
    assert exact["kl"] == pytest.approx(0, abs=1e-15)
    assert exact["brier"] == 0
    assert exact["accuracy"] == exact["macro_f1"] == 1
    assert exact["nll"] == pytest.approx(entropy)
    flat = np.full_like(target, 0.1)
    rough = evaluate("soft", target, flat.argmax(axis=1), flat)
    assert rough["kl"] == pytest.approx(np.log(10) - entropy)
    assert rough["nll"] == pytest.approx(np.log(10))


def test_a_target_with_zeros_costs_nothing_where_it_is_zero():
    scores = evaluate("soft", [[1.0, 0.0, 0.0]], [0], [[1.0, 0.0, 0.0]])
    assert scores["kl"] == scores["nll"] == 0


def test_multilabel_metrics_agree_with_the_formulas():
    target = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]])
    posterior = np.array([[0.9, 0.6, 0.2], [0.3, 0.8, 0.1], [0.4, 0.7, 0.3], [0.5, 0.2, 0.1]])
    predicted = (posterior > 0.5).astype(np.int64)
    scores = evaluate("multilabel", target, predicted, posterior)
    # Label 0: one of two found, none in vain; label 1: both found, one in vain; label 2 has no positive.
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert scores["micro_f1"] == pytest.approx(2 * 3 / (4 + 4))
    # Label 0 ranks its positives 1st and 3rd; label 1 1st and 2nd.
    assert scores["map"] == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
    # Every row's labels are ahead of its others, but for none where there is nothing to rank.
    assert scores["lrap"] == 1
    likelihood = np.where(target == 1, posterior, 1 - posterior)
    assert scores["nll"] == pytest.approx(-np.log(likelihood).mean())
    assert scores["brier"] == pytest.approx(((posterior - target) ** 2).mean())


def test_metrics_that_the_test_rows_leave_undefined_are_left_out():
    scores = evaluate("multilabel", np.zeros((3, 2), int), np.zeros((3, 2), int), np.full((3, 2), 0.1))
    assert set(metrics_for("multilabel")) - set(scores) == {
        *("balanced_accuracy", "worst_class_recall", "macro_f1", "map", "mcc", "g_mean", "jaccard", "roc_auc")
    }
    assert scores["nll"] == pytest.approx(-np.log(0.9))


def test_calibration_error_is_the_gap_of_bins_that_are_all_alike():
    # 100 rows sure by 0.8, of which 70 are right: one bin, gap 0.1.
    label = (np.arange(100) >= 70).astype(np.int64)
    posterior = np.tile([0.8, 0.2], (100, 1))
    assert one_column(label, np.zeros(100, int), posterior)["calibration_error"] == pytest.approx(0.1)
    curve = reliability("multiclass", label[:, None], np.zeros((100, 1), int), [posterior])
    assert curve == {
        "confidence": [pytest.approx(0.8)],
        "accuracy": [pytest.approx(0.7)],
        "count": [100],
    }


def test_probabilities_that_come_true_as_often_as_they_say_are_calibrated():
    generator = np.random.default_rng(0)
    posterior = generator.dirichlet(np.full(4, 0.7), size=200_000)
    label = (posterior.cumsum(axis=1) > generator.random((len(posterior), 1))).argmax(axis=1)
    scores = one_column(label, posterior.argmax(axis=1), posterior)
    # A bin's frequency of n rows is off by some sqrt(p (1 - p) / n); weighted over 15 bins about 0.003.
    assert scores["calibration_error"] < 0.005
    overconfident = posterior**3 / (posterior**3).sum(axis=1, keepdims=True)
    assert one_column(label, posterior.argmax(axis=1), overconfident)["calibration_error"] > 0.1


@pytest.mark.parametrize("task", TASKS)
def test_reliability_bins_hold_all_probabilities_and_lie_in_their_bins(task, digits):
    label, predicted, posterior = digits
    target, chosen, posterior, entries = {
        "multiclass": (label[:, None], predicted[:, None], [posterior], len(label)),
        "multilabel": (np.eye(10, dtype=int)[label], np.eye(10, dtype=int)[predicted], posterior, posterior.size),
        "soft": (posterior[::-1], predicted, posterior, len(label)),
    }[task]
    curve = reliability(task, target, chosen, posterior)
    assert sum(curve["count"]) == entries
    bins = bin_of(curve["confidence"])
    assert len(set(bins)) == len(bins) <= BINS
    assert all(count > 0 for count in curve["count"])


def test_class_records_of_labels_and_of_distributions(digits):
    label, predicted, posterior = digits
    names = [tuple("abcdefghij")]
    one_hot, chosen = np.eye(10, dtype=np.int64)[label], np.eye(10, dtype=np.int64)[predicted]
    (labels,) = class_records("multilabel", one_hot, one_hot, chosen, ["labels"], names)
    (soft,) = class_records("soft", posterior, one_hot.astype(float), predicted, ["digit"], names)
    (codes,) = class_records("multiclass", label[:, None], label[:, None], predicted[:, None], ["digit"], names)
    assert labels["confusion"] is None
    assert labels["recall"] == soft["recall"] == codes["recall"]
    assert soft["confusion"] == codes["confusion"]
    assert soft["train_count"] == pytest.approx(posterior.sum(axis=0).tolist())
    assert labels["train_count"] == codes["train_count"]


def test_no_confusion_matrix_is_kept_of_very_many_classes():
    classes = CONFUSION_LIMIT + 1
    label = np.arange(classes)[:, None]
    (record,) = class_records("multiclass", label, label, label, ["word"], [[str(code) for code in range(classes)]])
    assert record["confusion"] is None
    assert record["recall"] == [1.0] * classes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["multiclass"], [0, 1], [[0], [1]], [[[1, 0], [0, 1]]]), "target must have shape"),
        ((["multiclass"], np.zeros((0, 1)), np.zeros((0, 1)), [np.zeros((0, 2))]), "at least one row"),
        ((["multiclass"], [[0], [1]], [0, 1], [[[1, 0], [0, 1]]]), r"predicted must have shape \(2, 1\)"),
        ((["multiclass"], [[0], [2]], [[0], [1]], [[[1, 0], [0, 1]]]), "target must hold class codes 0 to 1"),
        ((["multiclass"], [[0], [1]], [[0], [1]], []), "list of 1 arrays"),
        ((["multiclass"], [[0], [1]], [[0], [1]], [[[1, 0], [0.5, 0.4]]]), "each row summing to 1"),
        ((["multiclass"], [[0], [1]], [[0], [1]], [[[1, 0], [np.nan, 1]]]), "posterior must hold probabilities"),
        ((["multilabel"], [[0, 1]], [[0, 1]], [[0.5, 1.5]]), "posterior must hold probabilities"),
        ((["soft"], [[0.4, 0.4]], [0], [[0.5, 0.5]]), "target must hold probabilities"),
        ((["soft"], [[0.5, 0.5]], [[0, 1]], [[0.5, 0.5]]), r"predicted must have shape \(1,\)"),
    ],
)
def test_bad_input_is_told_by_argument(arguments, message):
    (task,), *rest = arguments
    with pytest.raises(ValueError, match=message):
        evaluate(task, *rest)


def test_float32_probabilities_are_taken_as_they_come_from_a_network(digits):
    label, predicted, posterior = digits
    narrow = one_column(label, predicted, posterior.astype(np.float32))
    assert narrow == pytest.approx(one_column(*digits), rel=1e-5)
