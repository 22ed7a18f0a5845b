import time

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.base import clone
from sklearn.datasets import load_wine
from sklearn.feature_extraction.text import TfidfTransformer, TfidfVectorizer
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from equilog.compare.data.columns import require_columns
from equilog.compare.data.encoders import LARGEST_SCORE, Categories
from equilog.compare.data.features import TRUSTED_TYPES, make_preprocessor, read_once, used_columns
from equilog.compare.data.kinds import MOST_CATEGORIES, typed_table
from equilog.compare.data.named import load
from equilog.compare.data.tables import read_rows
from equilog.compare.data.terms import LISTS, TermCounts, to_terms
from equilog.compare.errors import DataError


@pytest.fixture(scope="module")
def mixed() -> pd.DataFrame:
    """The wines with a column of every kind beside their measurements."""
    frame = load_wine(as_frame=True).data.loc[:, ["alcohol", "ash", "hue"]]
    rows = np.arange(len(frame))
    greek = load("greek").features["word"]
    frame.loc[rows % 10 == 3, "ash"] = np.nan
    return frame.assign(
        cellar=np.array(["north", "south", None])[rows % 3],
        grower=[f"grower {name}" for name in np.array(list("abcdefghijklmnopqrstuvwxyzäöüßàèìòùñ"))[rows % 34]],
        award=np.where(rows % 7 == 0, "yes", None),
        bottled=pd.date_range("1990-05-01", periods=len(frame), freq="9D").strftime("%Y-%m-%d"),
        tasted=pd.date_range("1995-11-28", periods=len(frame), freq="D").strftime("%d/%m/%Y"),
        remark=[" ".join(greek[row : row + 5]) for row in rows],
        word=greek[: len(frame)].to_numpy(),
        code=[f"W{row:05d}" for row in rows[::-1]],
        number=rows + 1000,
        customer_id=(rows * 7919) % 100_003,
        country="Italy",
    )


def kinds_of(frame: pd.DataFrame) -> dict[str, str]:
    return {name: column.kind for name, column in typed_table(frame).columns.items()}


def test_columns_are_told_apart(mixed):
    assert kinds_of(mixed) == {
        "alcohol": "number",
        "ash": "number",
        "hue": "number",
        "cellar": "category",
        "grower": "category",
        "award": "category",
        "bottled": "date",
        "tasted": "date",
        "remark": "text",
        "word": "text",
        "code": "identifier",
        "number": "identifier",
        "customer_id": "identifier",
        "country": "constant",
    }


def test_kinds_survive_being_written_to_a_file(mixed, tmp_path):
    mixed.to_csv(tmp_path / "mixed.csv", index=False)
    assert kinds_of(read_rows(tmp_path / "mixed.csv")) == kinds_of(mixed)


def test_every_kind_becomes_finite_single_precision_inputs(mixed):
    preprocessor, notes = make_preprocessor(mixed)
    inputs = preprocessor.fit_transform(mixed)
    assert isinstance(inputs, np.ndarray)
    assert inputs.dtype == np.float32
    assert inputs.shape == (len(mixed), len(preprocessor.get_feature_names_out()))
    assert np.isfinite(inputs).all()
    assert np.abs(inputs).max() <= LARGEST_SCORE
    noted = " ".join(notes)
    for words in ("code, number, customer_id", "country", "tasted (day/month/year)", "remark, word", "grower"):
        assert words in noted
    assert not {"code", "number", "customer_id", "country"} & set(used_columns(preprocessor))


def test_the_order_of_columns_and_further_columns_do_not_matter(mixed):
    preprocessor, _ = make_preprocessor(mixed)
    inputs = preprocessor.fit_transform(mixed)
    shuffled = mixed[mixed.columns[::-1]].assign(further=1)
    np.testing.assert_array_equal(preprocessor.transform(shuffled), inputs)


def test_nothing_is_learned_outside_the_rows_fitted(mixed):
    preprocessor, _ = make_preprocessor(mixed)
    train = mixed.iloc[:100]
    alone = preprocessor.fit(train).transform(train)
    other = mixed.assign(alcohol=mixed["alcohol"] * 1000, cellar="east", word="λόγος")
    joined = pd.concat([train, other.iloc[100:]])
    np.testing.assert_array_equal(preprocessor.transform(joined)[:100], alone)


def test_a_missing_number_is_the_median_of_the_fitted_rows_and_flagged(mixed):
    frame = mixed[["ash"]]
    preprocessor, _ = make_preprocessor(frame)
    preprocessor.fit(frame)
    value, flag = preprocessor.transform(pd.DataFrame({"ash": [np.nan, frame["ash"].median()]})).T
    assert value[0] == value[1]
    assert flag[0] > flag[1]


def test_unseen_and_missing_categories_are_taken(mixed):
    frame = mixed[["cellar", "grower"]]
    preprocessor, _ = make_preprocessor(frame)
    preprocessor.fit(frame)
    known, missing, unseen = preprocessor.transform(
        pd.DataFrame({"cellar": ["north", None, "west"], "grower": ["grower a", "grower a", "unheard of"]})
    )
    assert known.sum() == missing.sum() == 2
    assert (known != missing).any()
    # None of the three cellars is rare, so there is no input for the others; growers have one.
    assert unseen.sum() == 1
    assert len(known) == 3 + MOST_CATEGORIES


def test_numbers_far_outside_the_fitted_rows_are_cut_off(mixed):
    frame = mixed[["alcohol", "hue"]]
    preprocessor, _ = make_preprocessor(frame)
    preprocessor.fit(frame)
    far = preprocessor.transform(pd.DataFrame({"alcohol": [1e300, 13.0], "hue": [-1e9, 1.0]}))
    np.testing.assert_array_equal(far[0], [LARGEST_SCORE, -LARGEST_SCORE])
    assert np.abs(far[1]).max() < 2


def test_a_column_without_values_in_the_fitted_rows_is_no_obstacle(mixed):
    preprocessor, _ = make_preprocessor(mixed)
    nothing = mixed.head(40).assign(ash=np.nan, cellar=None, bottled=None)
    assert np.isfinite(preprocessor.fit(nothing).transform(mixed)).all()


@pytest.mark.parametrize("codes", [["1", "2", "high"], ["1.0", "2.0", "high"]])
def test_codes_mean_the_same_however_a_file_is_read(codes, tmp_path):
    train = pd.DataFrame({"level": codes * 20})
    preprocessor, _ = make_preprocessor(train)
    expected = preprocessor.fit(train).transform(pd.DataFrame({"level": codes[:2]}))
    for cells in ("1\n2\n", "1.0\n2.0\n", "1\n2\nNA\n", "1\n2\nhigh\n"):
        (tmp_path / "new.csv").write_text(f"level\n{cells}")
        inputs = preprocessor.transform(read_rows(tmp_path / "new.csv"))
        np.testing.assert_array_equal(inputs[:2], expected)


@pytest.mark.parametrize(
    ("cell", "same"),
    [
        ("7", ["7.0", " 7 ", "007", 7, 7.0, "+7", "7e0"]),
        ("2.5", [2.5, "2.50", " 2.5"]),
        ("nan", [" nan"]),
        ("NaN", ["NaN "]),
        ("1_0", ["1_0 "]),
        # As decimals they would be one.
        ("12345678901234567891", ["012345678901234567891"]),
        ("9" * 400, ["0" + "9" * 400]),
        # More digits than Python makes a number of.
        ("9" * 5000, [" " + "9" * 5000]),
    ],
)
def test_a_category_has_one_name_however_it_is_written(cell: str, same: list[object]) -> None:
    others = ["10", "x", "12345678901234567890", ""]
    fitted = Categories().fit(pd.DataFrame({"code": [cell, *others]}))
    assert len(fitted.names_[0]) == 5
    for written in [cell, *same]:
        [number] = fitted.transform(pd.DataFrame({"code": [written]}))
        assert fitted.names_[0][number.item()] == cell


def test_a_number_read_as_text_is_still_a_number():
    train = pd.DataFrame({"size": np.arange(1.0, 9.0)})
    preprocessor, _ = make_preprocessor(train)
    preprocessor.fit(train)
    as_text = preprocessor.transform(pd.DataFrame({"size": ["3", "unknown", None]}))
    np.testing.assert_array_equal(as_text, preprocessor.transform(pd.DataFrame({"size": [3, np.nan, np.nan]})))


def test_dates_mean_the_same_in_every_notation():
    days = pd.Series(pd.date_range("2021-01-25", periods=60, freq="D"))
    inputs = []
    for written in (days, days.dt.strftime("%Y-%m-%d"), days.dt.strftime("%d.%m.%Y"), days.dt.strftime("%m/%d/%Y")):
        frame = pd.DataFrame({"day": written})
        preprocessor, _ = make_preprocessor(frame)
        inputs.append(preprocessor.fit_transform(frame))
        # A file of one row, whose date alone would leave open which is the month.
        np.testing.assert_array_equal(preprocessor.transform(frame.iloc[[10]]), inputs[-1][[10]])
    for other in inputs[1:]:
        np.testing.assert_array_equal(other, inputs[0])
    names = [name.split()[-1] for name in preprocessor.get_feature_names_out()]
    weekday = inputs[0][:, names.index("weekday")]
    np.testing.assert_array_equal(weekday[7:], weekday[:-7])
    assert len(np.unique(weekday)) == 7


def test_a_missing_column_is_named_with_its_neighbour(mixed):
    preprocessor, _ = make_preprocessor(mixed)
    new = mixed.rename(columns={"alcohol": "Alcohol", "hue": "colour"})
    with pytest.raises(DataError, match=r'new\.csv has no column "alcohol"\. Did you mean Alcohol\?.*hue'):
        require_columns(new.columns, used_columns(preprocessor), "new.csv")


def test_a_table_of_nothing_usable_is_refused(mixed):
    with pytest.raises(DataError, match="code, country"):
        make_preprocessor(mixed[["code", "country"]])


def test_a_saved_preprocessor_comes_back_the_same(mixed):
    preprocessor, _ = make_preprocessor(mixed)
    inputs = preprocessor.fit_transform(mixed)
    saved = skops.io.dumps(preprocessor)
    assert sorted(skops.io.get_untrusted_types(data=saved)) == TRUSTED_TYPES
    restored = skops.io.loads(saved, trusted=TRUSTED_TYPES)
    np.testing.assert_array_equal(restored.transform(mixed), inputs)
    assert used_columns(restored) == used_columns(preprocessor)


def test_a_table_read_once_gives_the_same_inputs_in_every_split(mixed):
    preprocessor, _ = make_preprocessor(mixed)
    once = read_once(preprocessor, mixed)
    assert once["remark"].dtype == once["word"].dtype == LISTS
    assert once["cellar"].dtype == "category"
    for rows in (slice(0, 90), slice(60, None)):
        expected = clone(preprocessor).fit(mixed[rows]).transform(mixed)
        np.testing.assert_array_equal(clone(preprocessor).fit(once[rows]).transform(once), expected)


def test_a_few_columns_at_a_time_are_fitted_as_all_are(mixed, monkeypatch):
    preprocessor, _ = make_preprocessor(mixed)
    together = clone(preprocessor).fit(mixed)
    monkeypatch.setattr("equilog.compare.data.preprocessor.CELLS", 1)
    apart = clone(preprocessor).fit(mixed)
    assert len(apart.parts_) > len(together.parts_)
    frames = [pd.DataFrame(one.transform(mixed), columns=one.get_feature_names_out()) for one in (together, apart)]
    pd.testing.assert_frame_equal(*frames, check_like=True)


def test_terms_are_those_of_scikit_learn(mixed):
    for column, options in {
        "remark": {"token_pattern": r"\w+|[^\w\s]+"},
        "word": {"analyzer": "char_wb", "ngram_range": (1, 3)},
    }.items():
        expected = TfidfVectorizer(max_features=40, dtype=np.float32, **options)
        ours = make_pipeline(TermCounts(40), TfidfTransformer())
        terms = to_terms(mixed[column], column == "remark")
        np.testing.assert_array_equal(
            ours.fit(terms[:100]).transform(terms).toarray(),
            expected.fit(mixed[column][:100]).transform(mixed[column]).toarray(),
        )
        assert ours[0].terms_ == expected.get_feature_names_out().tolist()


def test_a_wide_table_of_numbers_is_quick():
    pixels = np.random.default_rng(0).integers(0, 256, (5000, 784), dtype=np.uint8)
    frame = pd.DataFrame(pixels).add_prefix("pixel_")
    start = time.process_time()
    preprocessor, _ = make_preprocessor(frame)
    inputs = preprocessor.fit(frame.head(2000)).transform(frame)
    assert inputs.shape == pixels.shape
    # Half a second of computing where it was written.
    assert time.process_time() - start < 10


@pytest.mark.parametrize(("name", "at_least"), [("digits-lt", 0.9), ("greek", 0.75)])
def test_inputs_serve_a_linear_model(name, at_least):
    dataset = load(name)
    rows = np.arange(len(dataset.features))[:2500]
    train, test = train_test_split(rows, test_size=0.3, random_state=0)
    preprocessor, _ = make_preprocessor(dataset.features)
    inputs = preprocessor.fit(dataset.features.iloc[train]).transform(dataset.features.iloc[rows])
    target = dataset.target[:, 0]
    model = RidgeClassifier(alpha=100).fit(inputs[train], target[train])
    assert model.score(inputs[test], target[test]) > at_least
