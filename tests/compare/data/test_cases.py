"""The files that people have: each case with the values that are right for it."""

import codecs
import datetime
import gzip
import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from equilog.compare.data.features import make_preprocessor
from equilog.compare.data.kinds import chosen_kinds
from equilog.compare.data.tables import load_table, read_rows
from equilog.compare.errors import DataError

NAN = float("nan")
PLACES = 40
"""Rows of a file: enough for a column to be told from an identifier and for a share of a tenth to mean something."""


def written(folder: Path, columns: dict[str, Sequence[str]], separator: str = ",") -> Path:
    """Write a file of the columns, each repeated to `PLACES` rows, beside a target of two classes."""
    rows = [",".join(columns)] if separator == "," else [separator.join(columns)]
    names = [*columns, "y"]
    rows = [separator.join(names)]
    for at in range(PLACES):
        cells = [cells[at % len(cells)] for cells in columns.values()]
        rows.append(separator.join([*(f'"{cell}"' if separator in cell else cell for cell in cells), "ab"[at % 2]]))
    path = folder / "rows.csv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def read(path: Path, **options: Any) -> pd.DataFrame:
    return load_table(path, target=["y"], **options).features


def repeated(values: Sequence[float]) -> list[float]:
    return [values[at % len(values)] for at in range(PLACES)]


NUMBERS: dict[str, tuple[str, list[str], list[float]]] = {
    **{
        f"a gap written {gap!r}": (",", [gap, "4.5", "17", "0.25", "-3", "8.75"], [NAN, 4.5, 17, 0.25, -3, 8.75])
        for gap in (
            "?",
            "-",
            "--",
            "NA",
            "n/a",
            "N/A",
            "null",
            "NULL",
            "none",
            "None",
            "NaN",
            "",
            ".",
            "#N/A",
            "missing",
        )
    },
    "mostly gaps": (",", ["?", "?", "2.5", "?", "7"], [NAN, NAN, 2.5, NAN, 7]),
    "thousands with commas": (",", ["1,234", "950", "12,500", "7"], [1234, 950, 12500, 7]),
    "thousands with commas and decimals": (",", ["2,345.60", "18.20", "1,000,000.5"], [2345.6, 18.2, 1000000.5]),
    "few large thousands among small numbers": (
        ",",
        [*"123456789", *"123456789", "3,210"],
        [*range(1, 10)] * 2 + [3210],
    ),
    "decimal commas": (";", ["1,5", "22,75", "-0,125"], [1.5, 22.75, -0.125]),
    "thousands with points": (";", ["1.234", "950", "12.500", "7,5"], [1234, 950, 12500, 7.5]),
    "points and commas": (";", ["1.234,56", "9,5", "12.345.678,9"], [1234.56, 9.5, 12345678.9]),
    "decimal points between semicolons": (";", ["1.5", "22.75", "1.125"], [1.5, 22.75, 1.125]),
    "thousands with commas between semicolons": (";", ["1,234", "950.5", "12,500"], [1234, 950.5, 12500]),
    "decimal commas between commas": (",", ["1,5", "22,75", "3"], [1.5, 22.75, 3]),
    "thousands with blanks": (",", ["1 234", "950", "12 500"], [1234, 950, 12500]),
    "thousands with narrow blanks": (";", ["1\u202f234,5", "950"], [1234.5, 950]),
    "thousands with apostrophes": (",", ["1'234.5", "950"], [1234.5, 950]),
    "dollars": (",", ["$12.50", "$1,900", "-$3", "$0.99"], [12.5, 1900, -3, 0.99]),
    "euros": (";", ["12,50 €", "1.900 €", "€ 3"], [12.5, 1900, 3]),
    "currency codes": (",", ["USD 12.50", "USD 7", "3 USD"], [12.5, 7, 3]),
    "percent": (",", ["12%", "7.5 %", "100%"], [12, 7.5, 100]),
    "kilograms": (",", ["12 kg", "7.5kg", "1,300 kg"], [12, 7.5, 1300]),
    "years of age": (",", ["1 year", "35 years", "62 years"], [1, 35, 62]),
    "square metres": (",", ["120 m²", "75 m²", "64.5 m²"], [120, 75, 64.5]),
    "brackets for losses": (",", ["(12.5)", "7", "(3)"], [-12.5, 7, -3]),
    "signs": (",", ["+5", "−7.5", "-2"], [5, -7.5, -2]),
    "powers of ten": (",", ["1e-3", "2.5E4", "7"], [1e-3, 2.5e4, 7]),
    "no digit before the point": (",", [".5", "-.25", "3."], [0.5, -0.25, 3]),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_are_read_as_they_are_written(case, tmp_path):
    separator, cells, values = NUMBERS[case]
    features = read(written(tmp_path, {"amount": cells}, separator))
    np.testing.assert_array_equal(features["amount"].to_numpy(np.float64), repeated(values))


def test_the_other_columns_of_a_file_decide_what_a_comma_means(tmp_path):
    for separator, weight in ((";", "0,5"), (";", "0.5"), (",", "0.5"), (",", "0,5")):
        path = written(tmp_path, {"amount": ["1,234", "2,500"], "weight": [weight, "12" + weight[1:]]}, separator)
        assert read(path)["amount"][0] == (1.234 if "," in weight else 1234)


NO_NUMBERS = {
    "versions": ["1.2.3", "1.10.0", "2.0.1"],
    "addresses": ["10.0.0.1", "192.168.1.1"],
    "sizes of two units": ["5 kg", "300 g", "2 t"],
    "ranges": ["10-20", "20-30", "30-40"],
    "classes": ["Class 1", "Class 2"],
    "blanks within": ["12 34", "56 78"],
}


@pytest.mark.parametrize("case", NO_NUMBERS)
def test_what_is_no_number_keeps_its_letters(case, tmp_path):
    cells = NO_NUMBERS[case]
    features = read(written(tmp_path, {"amount": cells, "size": ["1", "2", "4"]}))
    assert set(features["amount"]) == set(cells)


DAYS = pd.Series(pd.date_range("2019-12-29 06:05", periods=PLACES, freq="39h"))
DATES: dict[str, Callable[[pd.Timestamp], str]] = {
    **{
        form: lambda day, form=form: day.strftime(form)
        for form in (
            "%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%d-%m-%Y", "%Y/%m/%d", "%d.%m.%y", "%m/%d/%y", "%d %b %Y",
            "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%d-%b-%y", "%a, %d %b %Y",
        )
    },
    "two formats": lambda day: day.strftime("%Y-%m-%d" if day.day % 3 else "%d.%m.%Y"),
    "a word and a number": lambda day: day.strftime("%d %b %Y" if day.day % 4 else "%m/%d/%Y"),
}  # fmt: skip


@pytest.mark.parametrize("case", DATES)
def test_dates_are_read_in_any_format(case, tmp_path):
    features = read(written(tmp_path, {"day": [DATES[case](day) for day in DAYS]}))
    assert features["day"].dt.tz_localize(None).tolist() == DAYS.dt.normalize().tolist()


@pytest.mark.parametrize("form", ["%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%SZ", "%d.%m.%Y %H:%M", "%m/%d/%Y %I:%M %p"])
def test_a_date_may_have_a_time(form, tmp_path):
    features = read(written(tmp_path, {"at": list(DAYS.dt.strftime(form))}))
    assert features["at"].dt.tz_localize(None).tolist() == DAYS.tolist()


@pytest.mark.parametrize("form", ["%H:%M", "%H:%M:%S", "%I:%M %p"])
def test_a_time_of_day_is_a_date_without_a_day(form, tmp_path):
    features = read(written(tmp_path, {"at": list(DAYS.dt.strftime(form))}))
    assert (features["at"].dt.hour * 60 + features["at"].dt.minute).tolist() == (
        DAYS.dt.hour * 60 + DAYS.dt.minute
    ).tolist()


@pytest.mark.parametrize("gap", ["-", "?", "n/a", "", "none"])
def test_gaps_among_dates_are_missing(gap, tmp_path):
    cells = [gap if at % 5 == 0 else day.strftime("%d.%m.%Y") for at, day in enumerate(DAYS)]
    features = read(written(tmp_path, {"day": cells}))
    assert features["day"].isna().tolist() == [at % 5 == 0 for at in range(PLACES)]


def test_dates_may_lie_past_2262_and_9999_means_no_end(tmp_path):
    cells = [["2563-07-01", "9999-12-31", "1480-02-03", "2024-05-06"][at % 4] for at in range(PLACES)]
    features = read(written(tmp_path, {"day": cells, "count": ["1", "2", "3", "4", "5"]}))
    assert features["day"].dt.year.iloc[[0, 2, 3]].tolist() == [2563, 1480, 2024]
    assert features["day"].isna().tolist() == [at % 4 == 1 for at in range(PLACES)]
    preprocessor, _ = make_preprocessor(features)
    inputs = preprocessor.fit_transform(features)
    assert np.isfinite(inputs).all()
    # "No end" is told apart by an input of its own and leaves the others as far apart as they are.
    names = preprocessor.get_feature_names_out()
    [year] = [at for at, name in enumerate(names) if name.endswith("day year") and "missing" not in name]
    years = inputs[:, year]
    assert years[2] < years[3] < years[0]
    assert any("missingindicator" in name for name in names)


@pytest.mark.parametrize("bad", ["soon", "31.02.2024", "99/99/9999", "9999-12-31", "0000-00-00", "7"])
def test_one_bad_date_in_new_rows_is_missing_and_ends_nothing(bad, tmp_path):
    dataset = load_table(written(tmp_path, {"day": list(DAYS.dt.strftime("%d.%m.%Y"))}), target=["y"])
    preprocessor, _ = make_preprocessor(dataset.features, dataset.columns)
    inputs = preprocessor.fit(dataset.features).transform(dataset.features)
    (tmp_path / "new.csv").write_text(f"day\n{DAYS[0]:%d.%m.%Y}\n{bad}\n")
    first, second = preprocessor.transform(read_rows(tmp_path / "new.csv"))
    np.testing.assert_array_equal(first, inputs[0])
    assert np.isfinite(second).all()


def test_new_rows_are_read_as_the_training_rows_were(tmp_path):
    path = written(tmp_path, {"price": ["1.234", "950", "12.500", "7,5"], "kind": ["u", "v", "w"]}, ";")
    dataset = load_table(path, target=["y"])
    preprocessor, _ = make_preprocessor(dataset.features, dataset.columns)
    inputs = preprocessor.fit(dataset.features).transform(dataset.features)
    # One row, whose only mark could be either.
    (tmp_path / "new.csv").write_text("kind;price\nu;1.234\n")
    np.testing.assert_array_equal(preprocessor.transform(read_rows(tmp_path / "new.csv")), inputs[:1])


LABEL_LISTS: dict[str, tuple[str, list[str]]] = {
    "Python": (",", ["['drama', 'comedy']", "['comedy']", "[]", "['drama']"]),
    "JSON": ("\t", ['["drama", "comedy"]', '["comedy"]', "[]", '["drama"]']),
    "bars": (",", ["drama|comedy", "comedy", "", "drama"]),
    "commas": (",", ["drama,comedy", "comedy", "", "drama"]),
    "commas and blanks": (",", ["drama, comedy", "comedy", "[]", "drama"]),
    "semicolons": (",", ["drama;comedy", "comedy", "", "drama;"]),
    "commas between semicolons": (";", ["drama,comedy", "comedy", "", "drama"]),
    "numpy": (",", ["['drama' 'comedy']", "['comedy']", "[]", "['drama']"]),
    "no quotes": (",", ["[drama, comedy]", "[comedy]", "[]", "[drama]"]),
    "tuples": (",", ["('drama', 'comedy')", "('comedy',)", "()", "('drama',)"]),
}


@pytest.mark.parametrize("case", LABEL_LISTS)
def test_label_lists_are_read_as_they_are_written(case, tmp_path):
    separator, cells = LABEL_LISTS[case]
    quoted = [f'"{cell.replace(chr(34), 2 * chr(34))}"' for cell in cells]
    rows = [separator.join(["x", "genres"]), *(f"{at}{separator}{cell}" for at, cell in enumerate(quoted))]
    path = tmp_path / ("rows.tsv" if separator == "\t" else "rows.csv")
    path.write_text("\n".join(rows))
    dataset = load_table(path, target=["genres"], multilabel=True)
    assert dataset.class_names == (("comedy", "drama"),)
    assert dataset.target.tolist() == [[1, 1], [1, 0], [0, 0], [0, 1]]


def test_numbers_that_a_comma_separates_between_semicolons_are_two_labels(tmp_path):
    (tmp_path / "rows.csv").write_text("x;topics\n0,5;1,2\n1,5;2\n2,5;10\n3,5;2,10\n")
    dataset = load_table(tmp_path / "rows.csv", target=["topics"], multilabel=True)
    assert dataset.class_names == (("1", "2", "10"),)
    assert dataset.target.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1], [0, 1, 1]]
    assert dataset.features["x"].tolist() == [0.5, 1.5, 2.5, 3.5]


def test_parquet_and_json_hold_lists_themselves(tmp_path):
    lists = [["war", "sport"], ["sport"], [], None]
    pa.parquet.write_table(pa.table({"x": [1, 2, 3, 4], "topics": lists}), tmp_path / "rows.parquet")
    with (tmp_path / "rows.jsonl").open("w") as file:
        file.writelines(json.dumps({"x": at, "topics": labels}) + "\n" for at, labels in enumerate(lists))
    for name in ("rows.parquet", "rows.jsonl"):
        dataset = load_table(tmp_path / name, target=["topics"], multilabel=True)
        assert dataset.class_names == (("sport", "war"),)
        assert dataset.target.tolist() == [[1, 1], [1, 0], [0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("no", "yes"),
    [("no", "yes"), ("No", "YES"), ("-1", "1"), ("0", "1"), ("false", "true"), ("0.0", "1.0"), ("n", "y")],
)
def test_label_columns_say_yes_and_no_in_several_ways(no, yes, tmp_path):
    (tmp_path / "rows.csv").write_text(f"x,sick,tall\n1,{no},{yes}\n2,{yes},{yes}\n3,{yes},{no}\n")
    dataset = load_table(tmp_path / "rows.csv", target=["sick", "tall"], multilabel=True)
    assert dataset.target.tolist() == [[0, 1], [1, 1], [1, 0]]
    assert load_table(tmp_path / "rows.csv", target=["sick"], multilabel=True).target.tolist() == [[0], [1], [1]]


def test_minus_one_beside_nought_is_not_guessed_at(tmp_path):
    (tmp_path / "rows.csv").write_text("x,sick,tall\n1,-1,1\n2,0,0\n3,1,0\n")
    with pytest.raises(DataError, match='"sick" holds "-1" in row 1'):
        load_table(tmp_path / "rows.csv", target=["sick", "tall"], multilabel=True)


CLASSES: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "leading noughts": (["007", "7", "007", "010"], ("007", "7", "010")),
    "a class called NA": (["EU", "NA", "AS", "NA"], ("AS", "EU", "NA")),
    "a class called null": (["null", "alternative"], ("alternative", "null")),
    "a class called None": (["None", "some"], ("None", "some")),
    "long numbers": (
        ["12345678901234567890123", "12345678901234567890124"],
        ("12345678901234567890123", "12345678901234567890124"),
    ),
    "numbers past 2 ** 53": (["9007199254740993", "9007199254740992"], ("9007199254740992", "9007199254740993")),
    "decimals": (["1.50", "2.25"], ("1.50", "2.25")),
    "numbers in their order": (["10", "9", "-1"], ("-1", "9", "10")),
    "blanks around": ([" yes ", "no", "yes"], ("no", "yes")),
    "true and false": (["TRUE", "FALSE"], ("FALSE", "TRUE")),
    "dates": (["2024-01-02", "2023-05-06"], ("2023-05-06", "2024-01-02")),
}


@pytest.mark.parametrize("case", CLASSES)
def test_class_names_are_those_of_the_file(case, tmp_path):
    cells, classes = CLASSES[case]
    (tmp_path / "rows.csv").write_text("x,y\n" + "".join(f"{at},{cells[at % len(cells)]}\n" for at in range(12)))
    dataset = load_table(tmp_path / "rows.csv", target=["y"])
    assert dataset.class_names == (classes,)
    assert [classes[code] for code in dataset.target[:, 0]] == [cells[at % len(cells)].strip() for at in range(12)]


def test_a_gap_marker_among_numbers_is_no_class_and_among_names_is_noted(tmp_path):
    (tmp_path / "numbers.csv").write_text("x,y\n1,3\n2,n/a\n3,5\n4,?\n")
    dataset = load_table(tmp_path / "numbers.csv", target=["y"])
    assert dataset.class_names == (("3", "5"),)
    assert len(dataset.features) == 2
    (tmp_path / "names.csv").write_text("x,y\n1,EU\n2,NA\n3,\n4,EU\n")
    dataset = load_table(tmp_path / "names.csv", target=["y"])
    assert any('"NA" is taken for a class of "y", with 1 rows' in note for note in dataset.notes)
    assert any("1 of 4 rows have no" in note for note in dataset.notes)


def test_soft_targets_rounded_to_two_digits_are_taken(tmp_path):
    (tmp_path / "rows.csv").write_text("x,a,b,c\n1,.33,.33,.33\n2,.5,.26,.25\n3,1,0,0\n")
    dataset = load_table(tmp_path / "rows.csv", target=["a", "b", "c"], soft=True)
    expected = np.array([[1 / 3, 1 / 3, 1 / 3], [0.5 / 1.01, 0.26 / 1.01, 0.25 / 1.01], [1, 0, 0]])
    # Divisions by the sums, in another order.
    np.testing.assert_allclose(dataset.target, expected, rtol=1e-14)


def test_soft_targets_may_have_decimal_commas_and_percent(tmp_path):
    (tmp_path / "rows.csv").write_text("x;a;b\n1,5;0,25;0,75\n2,5;0,5;0,5\n")
    np.testing.assert_array_equal(
        load_table(tmp_path / "rows.csv", target=["a", "b"], soft=True).target, [[0.25, 0.75], [0.5, 0.5]]
    )
    (tmp_path / "percent.csv").write_text("x,a,b\n1,25 %,75 %\n2,50 %,50 %\n")
    np.testing.assert_array_equal(
        load_table(tmp_path / "percent.csv", target=["a", "b"], soft=True).target, [[0.25, 0.75], [0.5, 0.5]]
    )


TEXT = "größe,name,y\n1.5,é,a\n2.5,ñ,b\n3.5,ü,a\n"


@pytest.mark.parametrize(
    ("name", "content", "encoding"),
    [
        ("plain.csv", TEXT.encode(), None),
        ("marked.csv", codecs.BOM_UTF8 + TEXT.encode(), None),
        ("utf16.csv", TEXT.encode("utf-16"), None),
        ("utf16be.csv", codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), None),
        ("unmarked16.csv", TEXT.encode("utf-16-le"), None),
        ("latin.csv", TEXT.encode("latin-1"), "latin-1"),
        ("windows.csv", TEXT.encode("cp1252"), "cp1252"),
        ("packed.csv.gz", gzip.compress(TEXT.encode(), mtime=0), None),
        ("packed.tsv.gz", gzip.compress(TEXT.replace(",", "\t").encode(), mtime=0), None),
        ("dos.csv", TEXT.replace("\n", "\r\n").encode(), None),
        ("excel.csv", ("sep=;\r\n" + TEXT.replace(",", ";").replace("\n", "\r\n")).encode("utf-8-sig"), None),
        ("blank.csv", b"\n\n \n" + TEXT.encode(), None),
        ("empty-cells.csv", b",,\n,,\n" + TEXT.encode(), None),
        ("names.csv", TEXT.replace("größe,name", "  größe , name ").encode(), None),
        ("quoted.csv", TEXT.replace("größe,name,y", '"größe","name","y"').encode(), None),
        (
            "rows.jsonl",
            "\n".join(
                json.dumps({"größe": size, "name": name, "y": y}, ensure_ascii=False)
                for size, name, y in ((1.5, "é", "a"), (2.5, "ñ", "b"), (3.5, "ü", "a"))
            ).encode(),
            None,
        ),
    ],
)
def test_every_encoding_and_layout_gives_the_same_rows(name, content, encoding, tmp_path):
    (tmp_path / name).write_bytes(content)
    dataset = load_table(tmp_path / name, target=["y"], encoding=encoding)
    assert dataset.features.to_dict("list") == {"größe": [1.5, 2.5, 3.5], "name": ["é", "ñ", "ü"]}
    assert dataset.target[:, 0].tolist() == [0, 1, 0]


def test_an_encoding_that_is_not_guessed_is_asked_for(tmp_path):
    (tmp_path / "latin.csv").write_bytes(TEXT.encode("latin-1"))
    with pytest.raises(DataError, match="--encoding latin-1"):
        read(tmp_path / "latin.csv")
    with pytest.raises(DataError, match="--encoding klingon: no encoding has that name"):
        read(tmp_path / "latin.csv", encoding="klingon")


def test_quoted_cells_may_hold_lines_separators_and_quotes(tmp_path):
    text = 'note,"size\nin cm",y\n"two\nlines; and, more",3,a\n"said ""no""",4,b\nplain,5,a\n'
    (tmp_path / "rows.csv").write_text(text)
    features = read(tmp_path / "rows.csv")
    assert features.to_dict("list") == {
        "note": ["two\nlines; and, more", 'said "no"', "plain"],
        "size\nin cm": [3, 4, 5],
    }


def test_a_separator_is_one_that_separates_every_row(tmp_path):
    (tmp_path / "rows.csv").write_text("name, first and last;y\nann, b;1\nbob, c, d;2\neve;1\n")
    assert read(tmp_path / "rows.csv").columns.tolist() == ["name, first and last"]


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet", "rows.xlsx", "blanks.csv"])
def test_names_that_stand_twice_are_refused_in_every_format(name, tmp_path):
    path = tmp_path / name
    if name == "rows.parquet":
        columns = [pa.array([1, 2]), pa.array([3, 4]), pa.array(["u", "v"])]
        pa.parquet.write_table(pa.Table.from_arrays(columns, names=["a", "a", "y"]), path)
    elif name == "rows.xlsx":
        pd.DataFrame([["a", "a", "y"], [1, 2, "u"], [3, 4, "v"]]).to_excel(path, index=False, header=False)
    else:
        path.write_text(f"a,{' a' if name == 'blanks.csv' else 'a'},y\n1,2,u\n3,4,v\n")
    with pytest.raises(DataError, match="more than one column named a"):
        read(path)


def test_a_workbook_is_read_by_its_first_sheet_with_rows(tmp_path):
    frame = pd.DataFrame(
        {
            "price": [1.5, "?", 3.5],
            "day": [datetime.datetime(2024, 1, 2), None, datetime.datetime(2024, 5, 6)],
            "member": [True, False, True],
            "y": ["u", "v", "u"],
        }
    )
    with pd.ExcelWriter(tmp_path / "rows.xlsx") as book:
        pd.DataFrame().to_excel(book, sheet_name="empty")
        frame.to_excel(book, sheet_name="data", index=False, startrow=2)
        frame.to_excel(book, sheet_name="copy", index=False)
    dataset = load_table(tmp_path / "rows.xlsx", target=["y"])
    assert dataset.notes[0] == 'Sheet "data" was read; others were not: copy.'
    features = dataset.features
    np.testing.assert_array_equal(features["price"], [1.5, NAN, 3.5])
    assert features["member"].tolist() == ["True", "False", "True"]
    assert features["day"].dt.month.iloc[[0, 2]].tolist() == [1, 5]
    assert features["day"].isna().tolist() == [False, True, False]


def test_arrays_of_the_other_byte_order_are_read(tmp_path):
    values = np.arange(12.0).reshape(4, 3)
    for order in "<>":
        np.savez(
            tmp_path / "rows.npz",
            X=values.astype(f"{order}f4"),
            y=np.array([1, 0, 1, 0], dtype=f"{order}i8"),
            word=np.array(["u", "v", "u", "w"], dtype=f"{order}U3"),
        )
        dataset = load_table(tmp_path / "rows.npz", target=[])
        np.testing.assert_array_equal(dataset.features[["X_0", "X_1", "X_2"]], values)
        assert dataset.features["word"].tolist() == ["u", "v", "u", "w"]
        assert dataset.target[:, 0].tolist() == [1, 0, 1, 0]
        assert np.isfinite(make_preprocessor(dataset.features)[0].fit_transform(dataset.features)).all()


def test_parquet_types_are_read_by_what_they_hold(tmp_path):
    noon = datetime.datetime(2024, 3, 4, 12, tzinfo=datetime.UTC)
    table = pa.table(
        {
            "price": pa.array([Decimal("1.10"), None, Decimal("-2.25")], pa.decimal128(9, 2)),
            "at": pa.array([noon, None, noon], pa.timestamp("ms", tz="America/New_York")),
            "day": pa.array([datetime.date(9999, 12, 31), datetime.date(2563, 1, 1), datetime.date(2024, 1, 1)]),
            "clock": pa.array([datetime.time(6, 30), None, datetime.time(18, 0)]),
            "kind": pa.array(["u", "v", "u"]).dictionary_encode(),
            "flag": pa.array([True, None, False]),
            "count": pa.array([2**53 + 1, None, 3]),
            "y": pa.array([2**53 + 1, 2**53, 2**53 + 1]),
        }
    )
    pa.parquet.write_table(table, tmp_path / "rows.parquet")
    dataset = load_table(tmp_path / "rows.parquet", target=["y"])
    features = dataset.features
    np.testing.assert_array_equal(features["price"], [1.1, NAN, -2.25])
    assert features["at"].iloc[0] == pd.Timestamp(noon)
    assert features["day"].dt.year.tolist()[1:] == [2563, 2024]
    np.testing.assert_array_equal(features["clock"], [6.5 * 3600, NAN, 18 * 3600])
    assert features["kind"].tolist() == ["u", "v", "u"]
    assert features["flag"].dropna().tolist() == ["True", "False"]
    assert dataset.class_names == ((str(2**53), str(2**53 + 1)),)


def test_the_user_may_say_what_a_column_is(tmp_path):
    cells = {
        "zip": ["01234", "56789", "10000"],
        "born": ["20240131", "19991224", "20010911"],
        "grade": ["1", "2", "x", "3"],
        "city": ["Rome", "Oslo"],
        "note": ["fine", "poor", "good"],
    }
    path = written(tmp_path, cells)
    kinds = chosen_kinds(["zip=category,born=date", "grade=number", "city=ignore", "note=text"])
    dataset = load_table(path, target=["y"], kinds=kinds)
    assert {name: column.kind for name, column in dataset.columns.items()} == kinds
    assert dataset.features["zip"][0] == "01234"
    assert dataset.features["born"][0] == pd.Timestamp("2024-01-31", tz="UTC")
    np.testing.assert_array_equal(dataset.features["grade"][:4], [1, 2, NAN, 3])
    preprocessor, notes = make_preprocessor(dataset.features, dataset.columns)
    assert any("Left out as asked: city" in note for note in notes)
    names = preprocessor.fit(dataset.features).get_feature_names_out()
    assert not any("city" in name for name in names)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("size=colour", "KIND being one of number, category, date, text, ignore"),
        ("size", "expected COLUMN=KIND"),
        ("sise=number", "Did you mean size"),
        ("y=number", 'no column "y"'),
        ("word=number", "holds no number"),
        ("word=date", 'no known format of dates reads "u"'),
    ],
)
def test_a_kind_that_cannot_be_is_refused(option, message, tmp_path):
    path = written(tmp_path, {"size": ["1", "2", "3"], "word": ["u", "v"]})
    with pytest.raises(DataError, match=message):
        read(path, kinds=chosen_kinds([option]))
