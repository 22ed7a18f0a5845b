"""X and y of every kind of array: sparse, reversed, of the other byte order, with gaps."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import coo_array, csc_array, csr_array, csr_matrix, random_array
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler
from tests.sklearn.toys import KINDS, Data, flat, quick


@pytest.mark.parametrize("kind", KINDS)
def test_sparse_rows_are_those_made_dense(tasks: dict[str, Data], kind: str) -> None:
    X, y = tasks[kind]
    sparse = csr_array(np.where(abs(X) > 0.2, X, 0))
    dense = sparse.toarray()
    models = [quick().fit(rows, y) for rows in (dense, sparse)]
    for model, rows in zip(models, (sparse, dense), strict=True):  # each asked with the other's
        for a, b in zip(flat(model.predict_proba(rows)), flat(models[0].predict_proba(dense)), strict=True):
            np.testing.assert_array_equal(a, b)
    assert models[1].score(sparse, y) == models[0].score(dense, y)
    models[1].partial_fit(sparse, y)


@pytest.mark.parametrize("form", [csr_matrix, csc_array, coo_array])
def test_any_sparse_form_is_read(digits: Data, form: type) -> None:
    X, y = digits
    expected = quick().fit(X, y).predict_proba(X)
    np.testing.assert_array_equal(quick().fit(form(X), y).predict_proba(form(X)), expected)


def test_scaling_in_a_pipeline_keeps_rows_sparse(digits: Data) -> None:
    X, y = digits
    model = make_pipeline(MaxAbsScaler(), quick("cross-entropy", max_epochs=30, learning_rate=0.02))
    assert model.fit(csr_array(X * 1e6), y).score(csr_array(X * 1e6), y) > 0.9


def test_memory_is_that_of_a_batch() -> None:
    """400 rows of 100,000 features are 160 MB as float32; a batch of 16 is 6, and what is predicted at once 33."""
    X = random_array((400, 100_000), density=1e-4, format="csr", rng=np.random.default_rng(0))
    y = np.arange(400) % 2
    model = quick("cross-entropy", hidden_units=(), batch_size=16, max_epochs=1)
    tracemalloc.start()  # which sees numpy's memory, in which rows are made dense
    try:
        model.fit(X, y).predict(X)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 80e6  # two blocks of prediction, the second made while the first is still there, and the rest


def test_strides_and_byte_order_change_nothing(digits: Data) -> None:
    X, y = digits
    X = X.astype(np.float32)
    model = quick().fit(X, y)
    expected = model.predict_proba(X)
    backwards = X[::-1, ::-1].copy()[::-1, ::-1]
    assert min(backwards.strides) < 0
    for rows in (backwards, np.asfortranarray(X), X.astype(">f4"), X.astype(">f8"), X.astype("<f8")):
        np.testing.assert_array_equal(model.predict_proba(rows), expected)
        np.testing.assert_array_equal(quick().fit(rows, y).predict_proba(rows), expected)
    for labels in (y.astype(">i4"), y.astype(">i8"), y[::-1].copy()[::-1], y.astype(">f8")):
        twin = quick().fit(X, labels, sample_weight=np.ones(len(y), dtype=">f4"))
        np.testing.assert_array_equal(twin.predict_proba(X), expected)
        np.testing.assert_array_equal(twin.predict(X), model.predict(X))
        assert twin.score(X, labels) == model.score(X, y)


def test_read_only_rows_are_read(digits: Data) -> None:
    X, y = (values.copy() for values in digits)
    X.flags.writeable = y.flags.writeable = False  # as joblib hands them to processes
    assert quick().fit(X, y).predict(X).shape == y.shape


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (pd.Series([1, 2, None, 1, 2, None], dtype="Int64"), "y contains NaN, in 2 of 6 rows, the first of them row 2"),
        (pd.Series([True, False, None] * 2, dtype="boolean", name="bought"), "y contains NaN in column 'bought', in 2"),
        (pd.Series(["a", None, "b"] * 2), "y contains NaN, in 2 of 6 rows"),
        (pd.Series(["a", None, "b"] * 2, dtype="category"), "y contains NaN, in 2"),
        (pd.Series([0.0, np.nan, 1.0] * 2), "y contains NaN, in 2"),
        (pd.DataFrame({"a": [1, 2] * 3, "b": pd.array([1, None] * 3, dtype="Int64")}), "y contains NaN in column 'b'"),
    ],
)
def test_gaps_in_y_are_named(target: pd.Series | pd.DataFrame, message: str) -> None:
    X = np.eye(6)
    with pytest.raises(ValueError, match=f"LogBalancedClassifier: {message}"):
        quick().fit(X, target)
    model = quick("cross-entropy").fit(X, target.ffill())
    with pytest.raises(ValueError, match=f"LogBalancedClassifier: {message}"):
        model.score(X, target)
