import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_wine

from equilog.compare.data.kinds import typed_table
from equilog.compare.data.readers import read_table
from equilog.compare.data.tables import load_table, read_rows
from equilog.compare.errors import DataError


@pytest.fixture(scope="module")
def wine() -> pd.DataFrame:
    data = load_wine(as_frame=True)
    names = np.array(["Barolo", "Grignolino", "Barbera"])
    return data.data.assign(cultivar=names[data.target])


def write(folder: Path, content: str, name: str = "data.csv") -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("wine.csv", lambda frame, path: frame.to_csv(path, index=False)),
        ("wine.tsv", lambda frame, path: frame.to_csv(path, index=False, sep="\t")),
        ("bars.txt", lambda frame, path: frame.to_csv(path, index=False, sep="|")),
        ("german.csv", lambda frame, path: frame.to_csv(path, index=False, sep=";", decimal=",")),
        ("points.csv", lambda frame, path: frame.to_csv(path, index=False, sep=";")),
        ("excel.csv", lambda frame, path: frame.to_csv(path, index=False, encoding="utf-8-sig")),
        ("wine.parquet", lambda frame, path: frame.to_parquet(path)),
        ("indexed.parquet", lambda frame, path: frame.set_index("cultivar").to_parquet(path)),
        ("wine.npz", lambda frame, path: np.savez(path, **{c: np.array(frame[c].tolist()) for c in frame})),
    ],
)
def test_every_format_gives_the_same_data(wine, tmp_path, name, save):
    save(wine, tmp_path / name)
    dataset = load_table(tmp_path / name, target=["cultivar"])
    assert dataset.task == "multiclass"
    assert dataset.target_names == ("cultivar",)
    assert dataset.notes == ()
    pd.testing.assert_frame_equal(dataset.features, wine.drop(columns="cultivar"), check_dtype=False)
    assert [dataset.class_names[0][code] for code in dataset.target[:, 0]] == wine["cultivar"].tolist()


def test_npz_of_x_and_y_needs_no_target_name(wine, tmp_path):
    images = wine.drop(columns="cultivar").to_numpy()[:, :12].reshape(-1, 3, 4)
    codes = pd.factorize(wine["cultivar"])[0]
    np.savez(tmp_path / "images.npz", X=images, y=codes, made=2024)
    dataset = load_table(tmp_path / "images.npz", target=[])
    np.testing.assert_array_equal(dataset.features.to_numpy(), images.reshape(-1, 12))
    np.testing.assert_array_equal(dataset.target[:, 0], codes)
    assert any("made" in note for note in dataset.notes)


def test_npz_target_of_several_columns_goes_by_the_name_of_the_array(wine, tmp_path):
    one_hot = pd.get_dummies(wine["cultivar"]).to_numpy()
    np.savez(tmp_path / "soft.npz", X=wine[["alcohol"]].to_numpy(), y=one_hot / 1.0)
    np.savez(tmp_path / "labels.npz", X=wine[["alcohol"]].to_numpy(), marks=one_hot)
    soft = load_table(tmp_path / "soft.npz", target=[], soft=True)
    labels = load_table(tmp_path / "labels.npz", target=["marks"], multilabel=True)
    np.testing.assert_array_equal(soft.target, one_hot)
    np.testing.assert_array_equal(labels.target, one_hot)
    assert labels.class_names == (("marks_0", "marks_1", "marks_2"),)


def test_npz_with_pickled_objects_is_refused_and_runs_nothing(tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    harmful = np.array([Payload(), Payload()], dtype=object)
    np.savez(tmp_path / "bad.npz", X=harmful, y=np.arange(2))
    with pytest.raises(DataError, match=r"bad\.npz"):
        load_table(tmp_path / "bad.npz", target=[])
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Payload()))
    assert (tmp_path / "ran").exists()


def test_several_targets_have_their_own_classes(wine, tmp_path):
    table = wine.assign(strong=wine["alcohol"] > 13, ash=pd.qcut(wine["ash"], 4, labels=False))
    table.to_csv(tmp_path / "wine.csv", index=False)
    dataset = load_table(tmp_path / "wine.csv", target=["cultivar", "strong", "ash", "strong"])
    assert dataset.target_names == ("cultivar", "strong", "ash")
    assert dataset.class_names == (("Barbera", "Barolo", "Grignolino"), ("False", "True"), ("0", "1", "2", "3"))
    np.testing.assert_array_equal(dataset.target[:, 1], table["strong"])
    np.testing.assert_array_equal(dataset.target[:, 2], table["ash"])
    assert set(dataset.features) == set(wine) - {"cultivar", "ash"}


def test_rows_without_target_are_left_out_and_counted(tmp_path):
    path = write(tmp_path, "x,y\n1,1\n2,\n3,2\n4,NA\n5,10\n")
    dataset = load_table(path, target=["y"])
    assert dataset.features["x"].tolist() == [1, 3, 5]
    assert dataset.features.index.tolist() == [0, 1, 2]
    # Numbers keep their order and their looks although the gaps made decimals of them.
    assert dataset.class_names == (("1", "2", "10"),)
    assert any("2 of 5 rows" in note for note in dataset.notes)


def test_the_word_none_is_a_class(tmp_path):
    dataset = load_table(write(tmp_path, "x,y\n1,None\n2,some\n3,None\n"), target=["y"])
    assert dataset.class_names == (("None", "some"),)
    assert dataset.notes == ()


def test_label_columns_and_label_lists_are_the_same_data(tmp_path):
    columns = write(tmp_path, "x,red,blue\n1,1,TRUE\n2,0,false\n3,1,False\n4,0,true\n", "columns.csv")
    by_column = load_table(columns, target=["blue", "red"], multilabel=True)
    for mark in ";|,":
        lists = write(tmp_path, f'x,colours\n1,"red{mark} blue"\n2,\n3,red\n4,"blue{mark}"\n', "lists.csv")
        by_list = load_table(lists, target=["colours"], multilabel=True)
        np.testing.assert_array_equal(by_list.target, by_column.target)
        assert by_list.class_names == by_column.class_names == (("blue", "red"),)
        assert any("1 of 4 rows" in note for note in by_list.notes)
    assert by_list.target_names == ("colours",)


def test_a_single_column_of_zeros_and_ones_is_one_label(tmp_path):
    dataset = load_table(write(tmp_path, "x,sick\n1,0\n2,1\n3,\n"), target=["sick"], multilabel=True)
    assert dataset.target.tolist() == [[0], [1]]
    assert dataset.class_names == (("sick",),)


def test_labels_that_never_change_are_left_out(tmp_path):
    path = write(tmp_path, "x,a,b,c\n1,0,1,1\n2,0,1,0\n")
    dataset = load_table(path, target=["a", "b", "c"], multilabel=True)
    assert dataset.class_names == (("c",),)
    assert any("a, b" in note for note in dataset.notes)


def test_votes_become_distributions(tmp_path):
    path = write(tmp_path, "x,good,bad,ugly\n1,3,1,0\n2,0,5,0\n3,,1,0\n")
    dataset = load_table(path, target=["good", "bad", "ugly"], soft=True)
    np.testing.assert_array_equal(dataset.target, [[0.75, 0.25], [0, 1]])
    assert dataset.class_names == (("good", "bad"),)
    noted = " ".join(dataset.notes)
    assert "1 of 3 rows" in noted
    assert "between 4 and 5" in noted
    assert "ugly" in noted


def test_probabilities_are_taken_as_they_are(tmp_path):
    dataset = load_table(write(tmp_path, "x,a,b\n1,.25,.75\n2,.5,.5\n"), target=["a", "b"], soft=True)
    np.testing.assert_array_equal(dataset.target, [[0.25, 0.75], [0.5, 0.5]])
    assert dataset.notes == ()


def test_a_few_words_among_numbers_are_gaps_and_many_are_categories(tmp_path):
    rows = [f"{i if i % 20 else '?'},{i % 7 if i % 3 else 'off'},{'ab'[i % 2]}" for i in range(60)]
    dataset = load_table(write(tmp_path, "\n".join(["age,level,y", *rows])), target=["y"])
    assert dataset.features["age"].isna().sum() == 3
    assert dataset.features["age"].dtype == np.float64
    assert set(dataset.features["level"]) == {"off", *"0123456"}
    gaps, categories = dataset.notes
    for note, expected in ((gaps, ('"age"', '"?"', "missing")), (categories, ('"level"', '"off"', "categories"))):
        assert all(words in note for words in expected)


def test_parquet_types_become_numbers_dates_and_text(tmp_path):
    frame = pd.DataFrame(
        {
            "count": pd.array([1, None, 3], dtype="Int64"),
            "flag": pd.array([True, None, False], dtype="boolean"),
            "kind": pd.Categorical(["u", None, " v "]),
            "when": pd.date_range("2024-02-28", periods=3, tz="Europe/Rome"),
            "took": pd.to_timedelta([1, 2, 3], unit="min"),
            "y": ["a", "b", "a"],
        }
    )
    frame.to_parquet(tmp_path / "types.parquet")
    features = load_table(tmp_path / "types.parquet", target=["y"]).features
    np.testing.assert_array_equal(features["count"], [1, np.nan, 3])
    assert features["flag"].dropna().tolist() == ["True", "False"]
    assert features["kind"].dropna().tolist() == ["u", "v"]
    assert pd.api.types.is_datetime64_any_dtype(features["when"])
    assert features["took"].tolist() == [60, 120, 180]


def test_features_are_read_without_a_target(wine, tmp_path):
    wine.drop(columns="cultivar").to_csv(tmp_path / "new.csv", index=False)
    rows = typed_table(read_rows(tmp_path / "new.csv")).frame
    pd.testing.assert_frame_equal(rows, wine.drop(columns="cultivar"))


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        ("", {}, ["data.csv", "empty"]),
        ("\n\n", {}, ["data.csv", "empty"]),
        ("x,y\n", {}, ["no rows"]),
        ("x,y\n1,a\n2,b\n", {"target": []}, ["--target", "x, y"]),
        ("x,colour\n1,a\n2,b\n", {"target": ["color"]}, ['"color"', "Did you mean colour?"]),
        ("x,Y\n1,a\n2,b\n", {}, ["Did you mean Y?"]),
        ("y\na\nb\n", {}, ["nothing to predict it from"]),
        ("x,x,y\n1,2,a\n", {}, ["more than one column named x"]),
        ("x,y\n1,a\n2,a\n", {}, ['"y"', "one class only (a)"]),
        ("x,y\n1,\n2,\n", {}, ["No row", "y"]),
        ("x,y\n1,a\ninf,b\n-inf,a\n", {}, ['"x"', "row 2", "2 in all"]),
        ("x,y\n1,a\n2,\ninf,b\n3,b\n", {}, ["row 3"]),
        ("x,y\n1,a\n2,b,c\n", {}, ["line 3"]),
        ("x,y\n1,a,b\n2,b,c\n", {}, ["more cells than the 2 of the header"]),
        ('x,y\n1,"a\n2,b\n', {}, ["not a regular table"]),
        ("\n".join(["x,y", *(f"1,{i / 7}" for i in range(50))]), {}, ["50 different", "quantity", "ranges"]),
        ("\n".join(["x,y", *(f"1,{i}" for i in range(50))]), {}, ["50 different", "quantity", "ranges"]),
        ("\n".join(["x,y", *(f"1,w{i}" for i in range(50))]), {}, ["50 different", "free text"]),
        ("x,a,b\n1,0,1\n2,2,0\n", {"target": ["a", "b"], "multilabel": True}, ['"a"', '"2"', "row 2", "0/1"]),
        ("x,a\n1,1\n2,1\n", {"target": ["a"], "multilabel": True}, ['"a"', "same labels"]),
        ("x,a,b\n1,0,1\n2,-1,2\n", {"target": ["a", "b"], "soft": True}, ['"a"', "below 0", "(-1)", "row 2"]),
        ("x,a,b\n1,0,1\n2,inf,2\n", {"target": ["a", "b"], "soft": True}, ['"a"', "infinite", "row 2"]),
        ("x,a,b\n1,,1\n2,0,0\n", {"target": ["a", "b"], "soft": True}, ["Row 2", "0 in every target column"]),
        ("x,a,b\n1,0,hot\n2,1,2\n", {"target": ["a", "b"], "soft": True}, ['"b"', '"hot"', "row 1"]),
        ("x,a,b\n1,0,1\n2,0,2\n", {"target": ["a", "b"], "soft": True}, ['Only "b"']),
        ("x,a,b\n1,0,1\n", {"target": ["a"], "soft": True}, ["two or more"]),
        ("x,a,b\n1,0,1\n", {"target": ["a"], "soft": True, "multilabel": True}, ["not both"]),
    ],
)
def test_a_fault_in_a_table_is_named_with_its_place(tmp_path, content, options, expected):
    path = write(tmp_path, content)
    with pytest.raises(DataError) as caught:
        load_table(path, **{"target": ["y"], **options})
    for words in expected:
        assert words in str(caught.value)


def test_a_fault_of_the_file_itself_is_named(tmp_path):
    faults = {
        "absent.csv": "no such file",
        "table.sas7bdat": ".parquet",
        "torn.xlsx": "not a workbook",
        "folder.csv": "not a file",
        "latin.csv": "UTF-8",
        "torn.parquet": "torn.parquet",
        "torn.npz": "not an .npz",
        "uneven.npz": "X has 3, y has 2",
        "none.npz": "no array",
        "lists.parquet": '"hobbies"',
    }
    (tmp_path / "table.sas7bdat").write_bytes(b"PK")
    (tmp_path / "torn.xlsx").write_bytes(b"PK")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "latin.csv").write_bytes("x,y\n1,é\n".encode("latin-1"))
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and then nothing")
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 and then nothing")
    np.savez(tmp_path / "uneven.npz", X=np.ones((3, 2)), y=np.arange(2))
    np.savez(tmp_path / "none.npz", made=2024)
    pd.DataFrame({"hobbies": [["chess"], ["go"]], "y": ["a", "b"]}).to_parquet(tmp_path / "lists.parquet")
    for name, expected in faults.items():
        with pytest.raises(DataError) as caught:
            load_table(tmp_path / name, target=["y"])
        assert expected in str(caught.value)


def test_records_and_embeddings_of_parquet_are_spread(tmp_path):
    path = tmp_path / "nested.parquet"
    frame = pd.DataFrame(
        {
            "embedding": [[0.5, 1.0], [1.5, 2.0]],
            "meta": [{"lang": "en", "size": {"mm": 3}}, {"lang": "de", "size": {"mm": 4}}],
            "uneven": [[0.5], [1.5, 2.0]],
            "y": ["a", "b"],
        }
    )
    frame.to_parquet(path)
    table = read_table(path)
    assert list(table.frame) == ["embedding_0", "embedding_1", "meta.lang", "meta.size.mm", "uneven", "y"]
    assert table.groups == {"embedding": ["embedding_0", "embedding_1"]}
    assert table.frame[["embedding_0", "embedding_1"]].to_numpy().tolist() == [[0.5, 1.0], [1.5, 2.0]]
    assert list(read_rows(path)) == list(table.frame)
    frame.to_json(tmp_path / "nested.jsonl", orient="records", lines=True)
    assert {"meta.lang", "meta.size.mm"} < set(read_rows(tmp_path / "nested.jsonl"))
    with pytest.raises(DataError, match='"embedding" holds values of type list'):
        load_table(tmp_path / "nested.jsonl", target=["y"])
    # What cannot be spread stops everything, until it is left out as the error says.
    with pytest.raises(DataError, match="leave it out by --types uneven=ignore"):
        load_table(path, target=["y"])
    assert "uneven" not in load_table(path, target=["y"], kinds={"uneven": "ignore"}).used
    with pytest.raises(DataError, match=r'Target "uneven" holds lists: with --multilabel'):
        load_table(path, target=["uneven"])


@pytest.mark.parametrize("ending", ["xlsx", "parquet", "jsonl", "csv"])
def test_integers_that_count_the_rows_are_identifiers_in_every_file(tmp_path, ending):
    path = tmp_path / f"loans.{ending}"
    frame = pd.DataFrame({"loan": np.arange(70_001, 70_061), "sum": np.arange(60) * 1.5, "y": ["a", "b", "b"] * 20})
    if ending == "xlsx":
        # A cover, and a title above the names.
        with pd.ExcelWriter(path) as writer:
            pd.DataFrame({"Report of 2024": []}).to_excel(writer, sheet_name="Cover", index=False)
            frame.to_excel(writer, sheet_name="Loans", index=False, startrow=3)
            writer.sheets["Loans"].cell(1, 1, "All loans")
    elif ending == "parquet":
        frame.to_parquet(path)
    elif ending == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False)
    dataset = load_table(path, target=["y"])
    assert (list(dataset.features), dataset.used) == (["loan", "sum"], ["sum"])
    assert any(note.startswith('Sheet "Loans" was read') for note in dataset.notes) == (ending == "xlsx")
