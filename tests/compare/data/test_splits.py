"""Splits: every class on both sides, the same for all losses, and refusals where that cannot be."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from equilog.compare.data.dataset import Dataset, SplitColumn
from equilog.compare.data.named import load
from equilog.compare.data.splits import require_splittable, split_rows, splits_of
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
    [(train, test)] = splits_of(dataset, 1).rows
    [(whole_train, same_test)] = splits_of(replace(dataset, imbalance=None), 1).rows
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


def grouped(dataset: Dataset, values: NDArray[np.int64], by: str = "group") -> Dataset:
    return replace(dataset, split_column=SplitColumn(by, "patient", np.asarray(values)))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_folds_test_every_row_once_a_round_with_every_class_in_proportion(kinds, kind):
    dataset = kinds[kind]
    splits = splits_of(dataset, 2, folds=3)
    assert splits.summary == {"by": "random", "column": None, "folds": 3, "count": 6, "test_fraction": 1 / 3}
    for rounds in (splits.rows[:3], splits.rows[3:]):
        np.testing.assert_array_equal(
            np.sort(np.concatenate([test for _, test in rounds])), np.arange(len(dataset.features))
        )
    whole = rows_of_each(dataset, np.arange(len(dataset.features)))
    for train, test in splits.rows:
        assert len(train) + len(test) == len(dataset.features)
        assert (rows_of_each(dataset, train) > 0).all()
        # Strata are whole within a row; columns that are not the rarest of a row are balanced by chance alone.
        if kind in ("multiclass", "soft"):
            np.testing.assert_allclose(rows_of_each(dataset, test), whole / 3, atol=1)
    assert not np.array_equal(splits.rows[0][1], splits.rows[3][1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{"folds": 4}, {"test_fraction": 0.3}, {"test_fraction": 0.8}])
def test_a_group_is_never_on_both_sides(kinds, kind, options):
    # Every fifth row at least is of another group than the row before it, so groups cross the classes.
    n = len(kinds[kind].features)
    dataset = grouped(kinds[kind], np.random.default_rng(0).permutation(n) % 40)
    splits = splits_of(dataset, 2, **options)
    assert len(splits) == (8 if "folds" in options else 2)
    for train, test in splits.rows:
        assert not set(dataset.split_column.values[train]) & set(dataset.split_column.values[test])
        assert len(train) + len(test) == n
    nearest = {0.3: 1 / 3, 0.8: 4 / 5}.get(options.get("test_fraction"), 1 / 4)
    assert splits.test_fraction == pytest.approx(nearest, abs=0.05)
    assert splits.summary["by"] == "group"
    assert splits.summary["column"] == "patient"


def test_time_trains_on_earlier_rows_and_tests_on_later_ones_whole_moments_at_a_time():
    times = np.random.default_rng(0).permutation(np.repeat(np.arange(60), 5))
    dataset = grouped(one_column(np.arange(300) % 2, ("a", "b")), times, "time")
    splits = splits_of(dataset, 5)
    assert [len(test) for _, test in splits.rows] == [50] * 5
    for at, (train, test) in enumerate(splits.rows):
        assert times[train].max() < times[test].min()
        np.testing.assert_array_equal(np.unique(times[test]), np.arange(10 * (at + 1), 10 * (at + 2)))
    assert splits.test_fraction == pytest.approx(np.mean([1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6]))
    # 20 rows would begin in the middle of a moment, so each window begins with the moment.
    uneven = splits_of(grouped(one_column(np.arange(300) % 2, ("a", "b")), times // 4, "time"), 2, 0.1)
    assert [len(test) for _, test in uneven.rows] == [20, 40]
    [(train, test)] = splits_of(dataset, 1).rows
    assert len(test) == 75


@pytest.mark.parametrize(
    ("values", "by", "options", "message"),
    [
        ([0] * 6 + [1] * 6, "group", {}, 'all rows of "a", "c" of kind are of one group of "patient"'),
        ([*range(4), *range(4), *range(4)], "group", {"folds": 5}, "there are 4 groups only"),
        (range(12), "time", {"folds": 3}, "With --time, say --seeds N"),
        (range(12), "time", {"test_fraction": 0.3}, "5 windows of 30% with rows before the first"),
        ([0] * 6 + [1] * 6, "time", {}, "12 rows of 2 different times cannot be cut into 5 windows"),
        (range(12), "time", {}, 'split 0 trains on 2 rows, of which none is "b", "c" of kind'),
        (None, "", {"folds": 7}, "no class of rows.csv has so many rows"),
        (None, "", {"folds": 3, "test_fraction": 0.3}, "Leave --test-fraction out"),
        (None, "", {"test_fraction": float("nan")}, "--test-fraction must lie between 0 and 1; got nan"),
    ],
)
def test_splits_that_cannot_be_are_refused_with_the_remedy(values, by, options, message):
    dataset = one_column([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2], ("a", "b", "c"))
    if values is not None:
        dataset = grouped(dataset, np.array(values), by)
    with pytest.raises(DataError, match=message):
        splits_of(dataset, 5, **options)


ROWS = "x,patient,day,y\n" + "".join(
    f"{at / 7},{'' if at == 3 else 'p' * (at % 5 + 1)},{'' if at < 2 else f'2024-01-{at + 1:02d}'},{'ab'[at % 2]}\n"
    for at in range(30)
)


def test_the_column_that_splits_is_no_feature_and_rows_without_it_are_left_out(tmp_path):
    (tmp_path / "rows.csv").write_text(ROWS)

    def loaded(**by: str) -> Dataset:
        return load(str(tmp_path / "rows.csv"), target=["y"], **by)  # type: ignore[arg-type]

    by_group, by_time = loaded(group="patient"), loaded(time="day")
    assert list(by_group.features) == ["x", "day"]
    assert set(by_group.columns) == {"x", "day"}
    assert by_group.split_column.values.max() == 4
    assert len(by_group.features) == len(by_group.target) == len(by_group.split_column.values) == 29
    assert '1 of 30 rows have no "patient"' in by_group.notes[-2]
    assert 'Rows of one "patient" are never on both sides' in by_group.notes[-1]
    assert list(by_time.features) == ["x", "patient"]
    np.testing.assert_array_equal(by_time.split_column.values, np.arange(28))
    assert "the column is no feature" in by_time.notes[-1]
    for by, message in [
        ({"group": "patients"}, 'has no column "patients". Did you mean patient?'),
        ({"time": "y"}, 'target left out, has no column "y"'),
        ({"time": "patient"}, '--time patient: "p" and other cells are neither dates nor numbers'),
        ({"time": "day", "group": "patient"}, "either by groups .* or by time"),
    ]:
        with pytest.raises(DataError, match=message):
            loaded(**by)


def test_one_group_and_no_other_feature_are_refused(tmp_path):
    (tmp_path / "rows.csv").write_text("x,site,y\n" + "1,A,a\n2,A,b\n" * 5)
    with pytest.raises(DataError, match="--group site: all rows are of one group"):
        load(str(tmp_path / "rows.csv"), target=["y"], group="site")
    (tmp_path / "rows.csv").write_text("site,y\n" + "A,a\nB,b\n" * 5)
    with pytest.raises(DataError, match='no column besides the target and "site"'):
        load(str(tmp_path / "rows.csv"), target=["y"], group="site")
