"""What y may be, and that predictions are of its kind."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from sklearn.exceptions import DataConversionWarning
from tests.sklearn.toys import KINDS, Data, quick, task_of

from equilog.baselines import CrossEntropy
from equilog.baselines.registry import LOSSES, TargetCounts, losses_for
from equilog.sklearn import LogBalancedClassifier
from equilog.sklearn.targets import columns_of, detect_task


@pytest.mark.parametrize(
    ("y", "task"),
    [
        ([0, 1, 2], "multiclass"),
        (["a", "b", "a"], "multiclass"),
        ([True, False], "multiclass"),
        ([[0, 1], [1, 1]], "multilabel"),
        ([[0.0, 1.0], [1.0, 0.0]], "multilabel"),
        ([[True, False], [False, False]], "multilabel"),
        ([[0.25, 0.75], [1.0, 0.0]], "soft"),
        ([[0.333, 0.333, 0.333], [0.1, 0.2, 0.7]], "soft"),
        ([[1, 2], [0, 1]], "multiclass"),
        ([["a", "b"], ["a", "c"]], "multiclass"),
        (pd.DataFrame({"size": [1, 2, 3], "colour": ["red", "blue", "red"]}), "multiclass"),
    ],
)
def test_task_is_told_by_the_target(y: Any, task: str) -> None:
    assert detect_task(columns_of(y)) == task


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0.5, 1.5, 2.5], "Unknown label type"),
        ([[0.5, 0.9], [0.5, 0.5]], "sums range from 1 to 1.4"),
        ([[-0.5, 1.5], [0.5, 0.5]], "at least 0"),
    ],
)
def test_numbers_that_are_no_classes_are_refused(y: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quick("cross-entropy").fit(np.eye(len(y)), y)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_follow_the_kind_of_target(tasks: dict[str, Data], kind: str) -> None:
    X, y = tasks[kind]
    model = quick().fit(X, y)
    predicted, probability = model.predict(X[:7]), model.predict_proba(X[:7])
    scores = model.decision_function(X[:7])
    match kind:
        case "multiclass" | "soft":
            assert predicted.shape == (7,)
            assert probability.shape == scores.shape == (7, 10)
        case "multilabel":
            assert predicted.shape == probability.shape == scores.shape == (7, 5)
        case "columns":
            assert predicted.shape == (7, 2)
            assert [p.shape for p in probability] == [s.shape for s in scores] == [(7, 10), (7, 3)]
            assert [classes.tolist() for classes in model.classes_] == [list(range(10)), [5, 6, 7]]
    assert model.task_ == task_of(kind)
    assert len(model.history_["train_loss"]) == len(model.history_["valid_score"]) == model.n_iter_ == 5


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_the_likeliest_balanced_classes(tasks: dict[str, Data], kind: str) -> None:
    X, y = tasks[kind]
    for name in losses_for(task_of(kind)):
        model = quick(name).fit(X, y)
        probability = model.predict_proba(X)
        if kind == "multilabel":
            expected = (probability > 0.5).astype(int)
        elif kind == "columns":
            pairs = zip(model.classes_, probability, strict=True)
            expected = np.column_stack([classes[p.argmax(1)] for classes, p in pairs])
        else:
            expected = model.classes_[probability.argmax(1)]
        np.testing.assert_array_equal(model.predict(X), expected, err_msg=name)


@pytest.mark.parametrize("labels", [["no", "yes"], [3, 7], [False, True], [0.5, 1.5]])
def test_labels_of_any_type_come_back(digits: Data, labels: list[Any]) -> None:
    X, y = digits
    named = np.array(labels)[y % 2]
    if named.dtype.kind == "f":
        named = named * 2
    frame = pd.DataFrame(X, columns=[f"pixel {k}" for k in range(64)])
    model = quick("cross-entropy", max_epochs=20).fit(frame, pd.Series(named))
    assert set(model.predict(frame).tolist()) == set(named.tolist())
    assert model.score(frame, named) == np.mean(model.predict(frame) == named) > 0.8
    assert model.decision_function(frame).shape == (len(y),)
    twin = LogBalancedClassifier.from_state(*model.to_state())
    np.testing.assert_array_equal(twin.predict(frame), model.predict(frame))
    assert twin.feature_names_in_.tolist() == frame.columns.tolist()
    with pytest.raises(ValueError, match="feature names"):
        twin.predict(frame.rename(columns={"pixel 3": "pixel three"}))


def test_sparse_multi_label_matrix_is_read(tasks: dict[str, Data]) -> None:
    X, y = tasks["multilabel"]
    dense, sparse = quick().fit(X, y), quick().fit(X, csr_array(y))
    np.testing.assert_array_equal(dense.predict_proba(X), sparse.predict_proba(X))
    assert sparse.score(X, csr_array(y)) == dense.score(X, y) == np.mean((dense.predict(X) == y).all(1))


def test_columns_of_a_data_frame_keep_their_types(digits: Data) -> None:
    X, y = digits
    frame = pd.DataFrame(
        {"digit": pd.array(y, dtype="Int64"), "parity": pd.Categorical(np.where(y % 2, "odd", "even"))}
    )
    model = quick("cross-entropy", max_epochs=40).fit(X, frame)
    predicted = model.predict(X)
    assert {type(value) for value in predicted[:, 0]} == {int}
    assert set(predicted[:, 1]) == {"odd", "even"}
    hits = np.column_stack([predicted[:, 0] == y, predicted[:, 1] == frame["parity"].to_numpy()])
    assert model.score(X, frame) == pytest.approx(hits.mean())
    assert hits.mean() > 0.9


def test_each_column_has_a_loss_of_its_own(digits: Data) -> None:
    X, y = digits
    counts: list[TargetCounts] = []
    entry = LOSSES["cross-entropy"]

    def build(count: TargetCounts) -> CrossEntropy:
        counts.append(count)
        return CrossEntropy()

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LOSSES, entry.name, type(entry)(entry.name, "", entry.tasks, build, ""))
        quick(entry.name, early_stopping=False).fit(X, np.column_stack([y, y % 3 + 5]))
    assert [count.class_count.tolist() for count in counts] == [
        np.bincount(y).tolist(),
        np.bincount(y % 3).tolist(),
    ]
    assert [count.rows for count in counts] == [len(y)] * 2


def test_a_column_with_one_class_is_answered_with_it(digits: Data) -> None:
    X, y = digits
    model = quick().fit(X, np.column_stack([y, np.full(len(y), 7)]))
    assert set(model.predict(X)[:, 1]) == {7}
    np.testing.assert_array_equal(model.predict_proba(X)[1], 1)
    assert model.score(X, np.column_stack([y, np.full(len(y), 7)])) > 0.5


def test_column_vector_is_taken_as_labels_with_a_warning(digits: Data) -> None:
    X, y = digits
    with pytest.warns(DataConversionWarning, match="column-vector"):
        model = quick().fit(X, y[:, None])
    assert model.predict(X).shape == y.shape


def test_soft_targets_bring_the_divergence_down(tasks: dict[str, Data]) -> None:
    X, teacher = tasks["soft"]
    prior = teacher.mean(0)
    of_the_prior = (teacher * np.log(teacher / prior)).sum(1).mean()
    model = quick("cross-entropy", max_epochs=60).fit(X, teacher)
    probability = model.predict_proba(X, kind="posterior")
    divergence = (teacher * np.log(teacher / probability)).sum(1).mean()
    assert model.score(X, teacher) == pytest.approx(-divergence, rel=1e-5)
    assert divergence < of_the_prior / 4


def test_one_hot_rows_can_be_told_to_be_soft(digits: Data) -> None:
    X, y = digits
    as_soft = quick("cross-entropy", task="soft", early_stopping=False).fit(X, np.eye(10)[y])
    as_labels = quick("cross-entropy", early_stopping=False).fit(X, y)
    np.testing.assert_allclose(as_soft.predict_proba(X), as_labels.predict_proba(X), atol=1e-5)
