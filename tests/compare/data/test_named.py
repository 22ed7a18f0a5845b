import socket
import sys

import numpy as np
import pandas as pd
import pysblgnt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river.datasets import Yeast
from sklearn.datasets import load_digits
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from equilog.compare.data import bundled
from equilog.compare.data.dataset import Dataset
from equilog.compare.data.greek import ATTRIBUTES, FEWEST
from equilog.compare.data.long_tail import thin_to_long_tail
from equilog.compare.data.named import NAMED, load
from equilog.compare.errors import DataError

INSTALLED = [name for name in NAMED if name != "fashion-lt" or bundled.FASHION_FOLDER.exists()]


@pytest.mark.parametrize("name", INSTALLED)
def test_a_named_set_is_whole_and_the_same_every_time(name, monkeypatch):
    monkeypatch.setattr(socket, "socket", None)
    dataset = load(name)
    again = NAMED[name].load()
    pd.testing.assert_frame_equal(dataset.features, again.features)
    np.testing.assert_array_equal(dataset.target, again.target)
    assert dataset.name == name
    assert len(dataset.features) == len(dataset.target)
    assert len(dataset.target_names) == len(dataset.class_names)
    # The summary is written by hand and must not drift from what is loaded.
    assert NAMED[name].summary.startswith(f"{len(dataset.target):,} ")
    if dataset.task == "multiclass":
        for column, classes in zip(dataset.target.T, dataset.class_names, strict=True):
            assert set(column) == set(range(len(classes)))
    else:
        assert dataset.target.shape[1] == len(dataset.class_names[0])
        assert (dataset.target.sum(axis=0) > 0).all()
    if dataset.task == "soft":
        np.testing.assert_allclose(dataset.target.sum(axis=1), 1)


def test_digits_are_those_of_scikit_learn():
    dataset = load("digits-lt")
    pixels, digit = load_digits(return_X_y=True)
    np.testing.assert_array_equal(dataset.features, pixels)
    np.testing.assert_array_equal(dataset.target[:, 0], digit)


@pytest.mark.parametrize("name", [name for name in INSTALLED if name.endswith("-lt")])
def test_only_training_rows_are_thinned(name):
    dataset = load(name)
    rng = np.random.default_rng(0)
    given_rows = rng.permutation(len(dataset.target))[: len(dataset.target) * 3 // 4]
    rows = dataset.training_rows(given_rows, random_state=1)
    assert set(rows) <= set(given_rows)
    np.testing.assert_array_equal(rows, dataset.training_rows(given_rows, random_state=1))
    assert set(rows) != set(dataset.training_rows(given_rows, random_state=2))
    before, after = (np.bincount(dataset.target[chosen, 0]) for chosen in (given_rows, rows))
    assert before.max() < 1.3 * before.min()
    assert after[0] == before[0]
    assert after[-1] == round(before[0] / dataset.imbalance)
    assert (np.diff(after) < 0).all()


def test_a_set_of_its_own_imbalance_is_not_thinned():
    rows = np.arange(5)
    assert load("yeast").training_rows(rows, random_state=0) is rows


@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    imbalance=st.floats(1, 1000),
    seed=st.integers(0, 99),
)
def test_thinning_keeps_every_class_and_no_row_twice(counts, imbalance, seed):
    codes = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    rows = thin_to_long_tail(codes, imbalance, seed)
    assert (np.diff(rows) > 0).all()
    kept = np.bincount(codes[rows], minlength=len(counts))
    for c, (had, has) in enumerate(zip(counts, kept, strict=True)):
        wanted = counts[0] * imbalance ** (-c / max(1, len(counts) - 1))
        assert 1 <= has <= had
        # Rounded to a whole row; one is the least, and a class has no more than it has.
        assert abs(has - min(had, max(1, wanted))) <= 0.5 + 1e-9


def test_thinning_below_one_is_refused():
    with pytest.raises(ValueError, match=r"imbalance must be at least 1; got 0\.5"):
        thin_to_long_tail(np.zeros(3, int), 0.5, 0)


def test_yeast_is_what_river_streams():
    dataset = load("yeast")
    for row, (features, labels) in zip(range(25), Yeast(), strict=False):
        assert dataset.features.iloc[row].to_dict() == features
        assert dict(zip(dataset.class_names[0], dataset.target[row], strict=True)) == labels


@pytest.fixture(scope="module")
def greek() -> Dataset:
    return load("greek")


def test_greek_words_have_the_grammar_of_the_package(greek):
    dataset = greek
    assert dataset.target_names == tuple(ATTRIBUTES)
    assert [len(names) for names in dataset.class_names] == [13, 4, 7, 4, 7, 6, 3, 4, 3]
    assert min(np.bincount(column).min() for column in dataset.target.T) >= FEWEST
    codes = {name: {meaning: code for code, meaning in ATTRIBUTES[name].items()} | {"none": "-"} for name in ATTRIBUTES}
    analyses = {
        (row["word"], row["ccat-pos"], row["ccat-parse"])
        for book in range(1, 28)
        for row in pysblgnt.morphgnt_rows(book)
    }
    for word, row in zip(dataset.features["word"], dataset.target, strict=True):
        names = [classes[code] for classes, code in zip(dataset.class_names, row, strict=True)]
        speech, *rest = (codes[name][meaning] for name, meaning in zip(ATTRIBUTES, names, strict=True))
        assert (word, speech, "".join(rest)) in analyses


def test_greek_does_not_give_the_lemma_away(greek):
    features = greek.features
    assert list(features) == ["previous", "word", "next"]
    text = {row["word"] for book in range(1, 28) for row in pysblgnt.morphgnt_rows(book)}
    assert set(features["word"]) <= text


def test_vader_ratings_have_the_mean_the_lexicon_states():
    dataset = load("vader")
    scale = np.array([int(name) for name in dataset.class_names[0]])
    stated = SentimentIntensityAnalyzer().lexicon
    mean = pd.Series(dataset.target @ scale, index=dataset.features["word"])
    both = mean.to_frame("ours").join(pd.Series(stated, name="stated"), how="inner")
    assert len(both) > 7000
    # The lexicon rounds to one decimal, and lists a few words twice with other ratings.
    assert ((both["ours"] - both["stated"]).abs() < 0.06).mean() > 0.99
    assert dataset.features["word"].is_unique
    assert list(dataset.features) == ["word"]


def test_a_package_that_is_not_installed_is_named_with_its_remedy(monkeypatch):
    for name, module in (("greek", "pysblgnt"), ("yeast", "river.datasets"), ("vader", "vaderSentiment")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(DataError, match=rf"{name} needs .*pip install 'equilog\[data\]'"):
            load(name)


def test_fashion_without_its_package_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(bundled, "FASHION_FOLDER", tmp_path)
    with pytest.raises(DataError, match="apt install dataset-fashion-mnist"):
        load("fashion-lt")


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(DataError, match=r'"yeats" is neither .* Did you mean yeast\?'):
        load("yeats")
    with pytest.raises(DataError, match="digits-lt, yeast, greek, vader, fashion-lt"):
        load("quite-another")


def test_a_file_goes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vader.csv").write_text("x,y\n1,a\n2,b\n")
    assert load("vader.csv", target=["y"]).task == "multiclass"
    (tmp_path / "vader").write_text("x,y\n1,a\n2,b\n")
    with pytest.raises(DataError, match="files ending"):
        load("vader", target=["y"])
    with pytest.raises(DataError, match="no such file"):
        load("./yeast")


def test_some_of_the_targets_may_be_chosen(greek):
    whole, part = greek, load("greek", target=["case", "tense"])
    places = [whole.target_names.index(name) for name in part.target_names]
    assert part.target_names == ("case", "tense")
    assert part.class_names == tuple(whole.class_names[place] for place in places)
    np.testing.assert_array_equal(part.target, whole.target[:, places])
    with pytest.raises(DataError, match=r'digits-lt has no column "digits"\. Did you mean digit\?'):
        load("digits-lt", target=["digits"])


def test_options_that_do_not_fit_a_named_set_are_refused():
    assert load("yeast", multilabel=True).task == "multilabel"
    with pytest.raises(DataError, match="digits-lt is multiclass data; leave --soft out"):
        load("digits-lt", soft=True)
