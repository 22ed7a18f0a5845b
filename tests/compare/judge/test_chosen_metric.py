"""The metric that decides, as users name it."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, fbeta_score, matthews_corrcoef, roc_auc_score

from equilog.compare.errors import DataError
from equilog.compare.judge.chosen_metric import MetricChoice, chosen_metric, metric_named
from equilog.compare.judge.metrics import METRICS, evaluate

CLASSES = (("ham", "spam"),)
THREE = (("a", "b", "c"),)


@pytest.fixture(scope="module")
def two_classes():
    """Return targets (n, 1), of which a tenth is class 0, decisions (n, 1) and posteriors [(n, 2)]."""
    rng = np.random.default_rng(0)
    target = (rng.random(300) > 0.1).astype(np.int64)
    yes = 1 / (1 + np.exp(-(rng.normal(size=300) + 2 * target)))
    return target[:, None], (yes > 0.6).astype(np.int64)[:, None], [np.stack([1 - yes, yes], axis=1)]


def value(choice: MetricChoice, arguments) -> float:
    return evaluate("multiclass", *arguments, [choice.metric()])[choice.name]


def test_metrics_are_those_of_the_books(two_classes):
    target, predicted, [posterior] = two_classes
    expected = {
        "mcc": matthews_corrcoef(target, predicted),
        "f_beta=2": fbeta_score(target, predicted, beta=2, average="macro"),
        # Of the rarer class, whichever comes first by name.
        "average_precision": average_precision_score(1 - target, posterior[:, 0]),
        "roc_auc": roc_auc_score(target, posterior[:, 1]),
        "micro_f1": (target == predicted).mean(),
    }
    for name, number in expected.items():
        assert value(chosen_metric(name, "multiclass", CLASSES), two_classes) == pytest.approx(number), name


def test_recall_at_a_precision_is_that_of_the_rarer_class_or_what_the_precision_lacks(two_classes):
    target, predicted, _ = two_classes
    found = predicted[target == 0] == 0
    precision = (target[predicted == 0] == 0).mean()
    low, high = (chosen_metric(f"recall-at-precision={p}", "multiclass", CLASSES) for p in (precision / 2, 0.99))
    assert value(low, two_classes) == pytest.approx(found.mean())
    assert value(high, two_classes) == pytest.approx(precision - 0.99)


def test_costs_are_read_by_the_names_of_the_classes(tmp_path, two_classes):
    file = tmp_path / "costs.csv"
    file.write_text(",spam,ham\nspam,0,5\nham,1,0\n")
    choice = chosen_metric(str(file), "multiclass", CLASSES)
    assert choice == MetricChoice("cost", ((0.0, 1.0), (5.0, 0.0)))
    target, predicted, _ = two_classes
    false, missed = ((target == 0) & (predicted == 1)).mean(), ((target == 1) & (predicted == 0)).mean()
    assert value(choice, two_classes) == pytest.approx(false + 5 * missed)
    assert not choice.metric().larger_is_better


@pytest.mark.parametrize(
    ("name", "task", "classes", "message"),
    [
        ("balanced-acuracy", "multiclass", THREE, "Did you mean balanced_accuracy"),
        ("roc_auc", "multiclass", THREE, "is for two classes, or for labels; 3 are here"),
        ("map", "multiclass", CLASSES, 'no metric of multiclass targets is called "map"'),
        ("macro_f1", "soft", (), None),
        ("mcc", "soft", THREE, 'no metric of soft targets is called "mcc"'),
        ("f_beta=0", "multiclass", CLASSES, "wants a number above 0; got 0"),
        ("recall_at_precision=2", "multiclass", CLASSES, "wants a number above 0, at most 1; got 2"),
        ("mcc=2", "multiclass", CLASSES, "no metric"),
        ("nowhere.csv", "multiclass", CLASSES, "nowhere.csv cannot be read"),
        ("names.csv", "multiclass", CLASSES, "must have a row and a column for each of ham, spam"),
        ("words.csv", "multiclass", CLASSES, "must hold a finite number in every cell"),
        ("words.csv", "multiclass", (*CLASSES, *THREE), "classes of a single target"),
    ],
)
def test_what_is_no_metric_of_the_targets_is_refused(tmp_path, monkeypatch, name, task, classes, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.csv").write_text(",spam,eggs\nspam,0,5\neggs,1,0\n")
    (tmp_path / "words.csv").write_text(",spam,ham\nspam,0,much\nham,1,0\n")
    if message is None:
        assert chosen_metric(name, task, classes).metric() is METRICS[name]
        return
    with pytest.raises(DataError, match=message):
        chosen_metric(name, task, classes)


@pytest.mark.parametrize("name", [*METRICS, "f_beta=2", "recall_at_precision=0.9", "cost"])
def test_every_metric_that_results_may_name_can_be_shown(name):
    metric = metric_named(name)
    assert metric.name == name
    assert metric.title
    assert metric.meaning.endswith(".")
