"""What a user is told before anything is trained, and what is done about classes of one row."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from equilog.compare.data.cautions import cautions
from equilog.compare.data.dataset import Dataset
from equilog.compare.data.named import load
from equilog.compare.data.rare import MERGED, without_rare
from equilog.compare.data.splits import require_splittable
from equilog.compare.data.tables import load_table
from equilog.compare.errors import DataError

ROWS = 400


def table(**columns: object) -> pd.DataFrame:
    """A target of three unequal classes that a measurement hints at, and further columns."""
    rng = np.random.default_rng(0)
    codes = rng.choice(3, ROWS, p=[0.7, 0.2, 0.1])
    frame = pd.DataFrame({"size": rng.normal(size=ROWS) + codes, "weight": rng.normal(size=ROWS)})
    return frame.assign(**{"y": np.array(["low", "mid", "high"])[codes], **columns})


def dataset_of(frame: pd.DataFrame, folder: Path, **kinds: Any) -> Dataset:
    frame.to_csv(folder / "rows.csv", index=False)
    return load_table(folder / "rows.csv", target=["y"], kinds=kinds)


def test_an_ordinary_table_gives_no_caution(tmp_path):
    assert cautions(dataset_of(table(), tmp_path)) == ()


@pytest.mark.parametrize("name", ["digits-lt", "vader"])
def test_the_data_sets_of_packages_give_none(name):
    assert cautions(load(name)) == ()


def test_a_column_that_gives_the_target_away_is_named_with_the_remedy(tmp_path):
    codes = pd.factorize(table()["y"])[0]
    frame = table(
        outcome=np.array(["A", "B", "C"])[codes],
        bill=codes * 10 + np.random.default_rng(1).random(ROWS),
        closed=pd.Timestamp("2024-01-01") + pd.to_timedelta(codes * 40 + np.arange(ROWS) % 30, "D"),
    )
    [said] = cautions(dataset_of(frame, tmp_path))
    assert said.startswith('"y" can be told from outcome, bill, closed alone')
    assert "--types outcome=ignore" in said
    # The remedy helps.
    assert cautions(dataset_of(frame, tmp_path, outcome="ignore", bill="ignore", closed="ignore")) == ()


def test_a_gap_may_give_the_target_away(tmp_path):
    frame = table()
    frame["y"] = frame["y"].replace("mid", "high")
    [said] = cautions(dataset_of(frame.assign(paid=frame["size"].where(frame["y"] == "low")), tmp_path))
    assert said.startswith('"y" can be told from paid alone')


def test_a_label_that_a_column_gives_away_is_named(tmp_path):
    frame = table().drop(columns="y")
    rng = np.random.default_rng(2)
    frame = frame.assign(sick=rng.integers(0, 2, ROWS), tall=rng.integers(0, 2, ROWS))
    frame.assign(ward=np.where(frame["sick"] == 1, "intensive", "none")).to_csv(tmp_path / "rows.csv", index=False)
    [said] = cautions(load_table(tmp_path / "rows.csv", target=["sick", "tall"], multilabel=True))
    assert said.startswith('"sick" can be told from ward alone')


def test_copies_are_counted(tmp_path):
    frame = table()
    [said] = cautions(dataset_of(pd.concat([frame, frame.head(40)]), tmp_path))
    assert said.startswith("40 of 440 rows are copies of another")
    # A number of its own makes a row no other one.
    numbered = pd.concat([frame, frame.head(40)]).assign(row_id=np.arange(ROWS + 40))
    assert cautions(dataset_of(numbered, tmp_path)) == (said,)


def test_rows_of_few_categories_are_alike_by_chance(tmp_path):
    rng = np.random.default_rng(4)
    few = pd.DataFrame(
        {"sex": rng.choice(["f", "m"], ROWS), "class": rng.choice([1, 2, 3], ROWS), "y": rng.choice(["a", "b"], ROWS)}
    )
    assert cautions(dataset_of(few, tmp_path)) == ()


def test_classes_that_differ_by_case_or_blanks_are_named(tmp_path):
    frame = table()
    frame.loc[::5, "y"] = frame["y"].str.upper()
    frame.loc[frame["y"] == "mid", "y"] = "m id"
    frame.loc[:5, "y"], frame.loc[6:12, "y"] = "re\u0301el", "r\u00e9el"
    [said] = cautions(dataset_of(frame, tmp_path))
    assert '"MID" and "m id"' in said
    assert '"HIGH" and "high"' in said
    assert '"re\u0301el" and "r\u00e9el"' in said


def test_a_target_of_many_numbers_is_asked_about(tmp_path):
    frame = table(y=np.random.default_rng(3).integers(0, 40, ROWS))
    [said] = cautions(dataset_of(frame, tmp_path))
    assert '"y" has 40 different numbers as classes' in said


def counts(dataset: Dataset, at: int = 0) -> dict[str, int]:
    names = dataset.class_names[at]
    return dict(zip(names, np.bincount(dataset.target[:, at], minlength=len(names)).tolist(), strict=True))


def rows_of(classes: dict[str, int], folder: Path) -> Dataset:
    names = [name for name, count in classes.items() for _ in range(count)]
    pd.DataFrame({"x": np.arange(len(names)) * 0.5, "y": names}).to_csv(folder / "rows.csv", index=False)
    return load_table(folder / "rows.csv", target=["y"])


def test_classes_of_one_row_become_one_class_or_go(tmp_path):
    dataset = rows_of({"a": 9, "b": 1, "c": 6, "d": 1}, tmp_path)
    with pytest.raises(DataError, match="--rare merge makes such classes one, --rare drop"):
        require_splittable(dataset)
    merged, dropped = without_rare(dataset, "merge"), without_rare(dataset, "drop")
    assert counts(merged) == {"a": 9, "c": 6, MERGED: 2}
    assert merged.features["x"][merged.target[:, 0] == 2].tolist() == [4.5, 8]
    assert counts(dropped) == {"a": 9, "c": 6}
    assert dropped.features["x"].tolist() == [*(np.arange(9) * 0.5), *(np.arange(10, 16) * 0.5)]
    for result in (merged, dropped):
        require_splittable(result)
        assert "b, d" in result.notes[-1]


def test_one_class_of_one_row_is_merged_with_the_next_rarest(tmp_path):
    assert counts(without_rare(rows_of({"a": 9, "b": 1, "c": 3}, tmp_path), "merge")) == {"a": 9, MERGED: 4}


def test_nothing_rare_changes_nothing(tmp_path):
    dataset = rows_of({"a": 9, "b": 2}, tmp_path)
    assert without_rare(dataset, "merge") is dataset
    assert without_rare(dataset, "drop") is dataset


def test_dropping_the_rows_of_one_target_may_make_a_class_of_another_rare(tmp_path):
    frame = pd.DataFrame({"x": [1.5, 2, 3, 4, 5, 6], "y": list("aabbcb"), "z": list("uvuvwu")})
    frame.to_csv(tmp_path / "rows.csv", index=False)
    result = without_rare(load_table(tmp_path / "rows.csv", target=["y", "z"]), "drop")
    assert counts(result, 0) == {"a": 2, "b": 3}
    assert counts(result, 1) == {"u": 3, "v": 2}


def test_labels_of_one_row_are_merged_or_left_out(tmp_path):
    (tmp_path / "rows.csv").write_text("x,y\n1,a;r\n2,b\n3,a;s\n4,b\n5,a;b\n")
    dataset = load_table(tmp_path / "rows.csv", target=["y"], multilabel=True)
    merged, dropped = without_rare(dataset, "merge"), without_rare(dataset, "drop")
    assert merged.class_names == (("a", "b", MERGED),)
    assert merged.target[:, 2].tolist() == [1, 0, 1, 0, 0]
    assert dropped.class_names == (("a", "b"),)
    assert dropped.target.tolist() == merged.target[:, :2].tolist()


def test_targets_that_look_like_labels_are_told_of_multilabel(tmp_path):
    lists = np.array(["red", "red|big", "big", "old|red"])
    frame = table(y=lists[np.arange(ROWS) % 4])
    [said] = cautions(dataset_of(frame, tmp_path))
    assert said == 'The classes of "y" look like lists of labels, separated by "|": --multilabel takes them apart.'
    frame.loc[0, "y"] = "big|old"
    with pytest.raises(DataError, match=r'If they list labels, separated by "\|", say --multilabel'):
        require_splittable(dataset_of(frame, tmp_path))
    rng = np.random.default_rng(3)
    table(sick=rng.integers(0, 2, ROWS), tall=rng.choice(["no", "yes"], ROWS)).to_csv(tmp_path / "rows.csv")
    [said] = cautions(load_table(tmp_path / "rows.csv", target=["sick", "tall"]))
    assert said.startswith("All targets are yes or no: --multilabel takes them for labels")
