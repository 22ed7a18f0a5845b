"""Splits: every class on both sides, the same for all losses, and refusals where that cannot be."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from equilog.compare.data.dataset import Dataset
from equilog.compare.data.named import load
from equilog.compare.data.splits import require_splittable, split_rows
from equilog.compare.errors import DataError

KINDS = ("multiclass", "columns", "multilabel", "soft")


def one_column(codes: list[int] | NDArray[np.int64], classes: tuple[str, ...]) -> Dataset:
    rows = pd.DataFrame({"row": np.arange(len(codes))})
    return Dataset("rows.csv", "multiclass", rows, np.asarray(codes)[:, None], ("kind",), (classes,))


def rows_of_each(dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many of these rows each class of each target has."""
    target = dataset.target[rows]
    if dataset.task == "multilabel":
        return target.sum(axis=0)
    codes = target.argmax(axis=1)[:, None] if dataset.task == "soft" else target
    return np.concatenate(
        [np.bincount(column, minlength=len(names)) for column, names in zip(codes.T, dataset.class_names, strict=True)]
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fraction", [0.05, 0.25, 0.8])
def test_every_row_is_on_one_side_and_every_class_on_both(kinds, kind, fraction):
    dataset = kinds[kind]
    whole = rows_of_each(dataset, np.arange(len(dataset.features)))
    for seed in range(5):
        train, test = split_rows(dataset, fraction, seed)
        np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(len(dataset.features)))
        splittable = whole > 1
        assert (rows_of_each(dataset, train)[splittable] > 0).all()
        assert (rows_of_each(dataset, test)[splittable] > 0).all()
        # Each class may be a row off its share, and several targets round apart.
        assert len(test) == pytest.approx(fraction * len(dataset.features), abs=len(whole))


@pytest.mark.parametrize("name", ["yeast", "greek"])
def test_real_targets_that_share_their_rows_keep_every_class_on_both_sides(name):
    dataset = load(name)
    for seed in range(5):
        train, test = split_rows(dataset, 0.25, seed)
        assert (rows_of_each(dataset, train) > 0).all()
        assert (rows_of_each(dataset, test) > 0).all()
        assert len(test) / len(dataset.features) == pytest.approx(0.25, abs=0.01)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(2, 40), min_size=2, max_size=8),
    fraction=st.floats(0.05, 0.9),
    seed=st.integers(0, 2**31 - 1),
)
def test_classes_of_two_rows_and_more_are_split_in_proportion(counts, fraction, seed):
    dataset = one_column(np.repeat(np.arange(len(counts)), counts), tuple("abcdefgh"[: len(counts)]))
    require_splittable(dataset)
    train, test = split_rows(dataset, fraction, seed)
    trained, tested = rows_of_each(dataset, train), rows_of_each(dataset, test)
    assert (trained >= 1).all()
    assert (tested >= 1).all()
    assert (abs(tested - fraction * np.array(counts)) < 1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_always_gives_the_same_split_and_another_seed_another(kinds, kind):
    first, again, other = (split_rows(kinds[kind], 0.25, seed)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_every_row_is_tested_on_as_often_as_its_share():
    dataset = one_column([0] * 8 + [1] * 4, ("a", "b"))
    times = np.zeros(12)
    for seed in range(600):
        times[split_rows(dataset, 0.25, seed)[1]] += 1
    # 600 draws of probability 1/4 have a standard deviation of 10.6.
    np.testing.assert_allclose(times, 150, atol=45)


def test_thinning_is_for_training_rows_alone():
    dataset = load("digits-lt")
    train, test = split_rows(dataset, 0.25, 3)
    whole_train, same_test = split_rows(replace(dataset, imbalance=None), 0.25, 3)
    np.testing.assert_array_equal(test, same_test)
    assert set(train) < set(whole_train)
    counts = rows_of_each(dataset, train)
    assert counts[9] == round(counts[0] / dataset.imbalance)
    whole = rows_of_each(dataset, np.arange(len(dataset.features)))
    np.testing.assert_allclose(rows_of_each(dataset, test), whole / 4, atol=1)


def test_a_class_with_one_row_is_refused_by_name():
    with pytest.raises(DataError, match=r'rows\.csv: "b", "d" of kind has fewer than 2 rows.*--rare merge'):
        require_splittable(one_column([0, 0, 0, 1, 2, 2, 3], ("a", "b", "c", "d")))


def test_a_label_with_one_row_is_refused_by_name(kinds):
    rare = kinds["multilabel"].target.copy()
    rare[:, 1] = np.arange(len(rare)) == 7
    with pytest.raises(DataError, match='"large" of properties has fewer than 2 rows'):
        require_splittable(replace(kinds["multilabel"], target=rare))


def test_a_label_that_only_one_row_lacks_is_no_obstacle(kinds):
    common = kinds["multilabel"].target.copy()
    common[:, 1] = np.arange(len(common)) != 7
    dataset = replace(kinds["multilabel"], target=common)
    require_splittable(dataset)
    for seed in range(5):
        assert all((rows_of_each(dataset, side) > 0).all() for side in split_rows(dataset, 0.25, seed))


def test_a_distribution_needs_no_rows_of_its_own_but_some_to_test_on(kinds):
    dataset = kinds["soft"]
    likeliest = dataset.target.argmax(axis=1)
    _, firsts = np.unique(likeliest, return_index=True)
    lone = np.concatenate([firsts, np.flatnonzero(likeliest == 0)[1:3]])
    require_splittable(replace(dataset, features=dataset.features.iloc[lone], target=dataset.target[lone]))
    with pytest.raises(DataError, match=r"soft\.csv has too few rows"):
        require_splittable(replace(dataset, features=dataset.features.iloc[firsts], target=dataset.target[firsts]))
