"""A model on disk: it predicts as it did in memory, and a folder that was tampered with runs nothing."""

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from pandas.testing import assert_frame_equal
from safetensors.torch import load_file, save_file
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from equilog.compare.data.dataset import Dataset
from equilog.compare.data.features import make_preprocessor
from equilog.compare.data.preprocessor import Preprocessor
from equilog.compare.data.tables import load_table, read_rows
from equilog.compare.errors import DataError
from equilog.compare.judge.chosen_metric import MetricChoice
from equilog.compare.run.answers import TargetNames
from equilog.compare.run.bundle import Bundle, load, save
from equilog.compare.run.contenders import Contender
from equilog.compare.run.contenders import named as contender_named
from equilog.compare.run.models import ModelSettings
from equilog.compare.run.one_run import RunSettings, decide, fit

KINDS = ("multiclass", "columns", "multilabel", "soft")
QUICK = ModelSettings(hidden_units=(8,), max_epochs=3, batch_size=64)

Tamper = Callable[[Path], object]


def fitted(dataset: Dataset, name: str = "auto", metric: MetricChoice | None = None) -> Bundle:
    preprocessor, _ = make_preprocessor(dataset.features)
    names = TargetNames(dataset.task, dataset.target_names, dataset.class_names)
    contender: Contender = contender_named(name, dataset.task)
    settings = RunSettings(metric or MetricChoice("macro_f1"), QUICK)
    arguments = preprocessor.fit_transform(dataset.features), dataset.target, names, contender, settings, 0
    return Bundle(preprocessor, decide(fit(*arguments), *arguments), names, contender=contender.name)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Dataset:
    """Numbers, a category, a date and text, with gaps; the class hangs on all of them."""
    rng = np.random.default_rng(0)
    n = 200
    kind = rng.choice(["oak", "elm, red", 'ash "grey"\nyoung', "日本"], n)
    height = rng.normal(size=n)
    day = pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 500, n), "D")
    words = rng.choice(["tall", "small", "green", "dry", "old", "near the river", "in a park"], (n, 4))
    frame = pd.DataFrame(
        {
            "height": np.where(rng.random(n) < 0.1, np.nan, height),
            "tree": np.where(rng.random(n) < 0.1, None, kind),
            "seen": np.where(rng.random(n) < 0.1, None, day.strftime("%Y-%m-%d")),
            "notes": [" ".join(row) for row in words],
            "verdict": np.where(height + (kind == "oak") > 0.3, "sound", "sick"),
        }
    )
    path = tmp_path_factory.mktemp("mixed") / "trees.csv"
    frame.to_csv(path, index=False)
    return load_table(path, target=["verdict"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_model_predicts_the_same(kinds, kind, tmp_path):
    dataset = kinds[kind]
    bundle = fitted(dataset)
    assert save(bundle, tmp_path / "model") == tmp_path / "model"
    expected = bundle.predictions(dataset.features, "rows")
    assert_frame_equal(load(tmp_path / "model").predictions(dataset.features, "rows"), expected, check_exact=True)
    dataset.features.to_csv(tmp_path / "rows.csv", index=False)
    from_file = load(tmp_path / "model").predictions(read_rows(tmp_path / "rows.csv"), "rows.csv")
    assert_frame_equal(from_file, expected)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "model.json",
        "preprocessor.skops",
        "weights.safetensors",
    ]


@pytest.mark.parametrize("kind", ["multiclass", "columns", "soft"])
def test_the_class_told_is_the_likeliest_balanced_one(kinds, kind):
    dataset = kinds[kind]
    predicted = fitted(dataset, "balanced-softmax").predictions(dataset.features, "rows")
    for target, classes in zip(dataset.target_names, dataset.class_names, strict=True):
        balanced, posterior = (
            predicted[[f"{how} {target}={name}" for name in classes]] for how in ("balanced", "posterior")
        )
        np.testing.assert_array_equal(predicted[target], np.array(classes)[balanced.to_numpy().argmax(axis=1)])
        np.testing.assert_allclose(balanced.sum(axis=1), 1)
        np.testing.assert_allclose(posterior.sum(axis=1), 1)
        # The loss takes the prior off, so the rarest class is likelier in the balanced probabilities.
        assert (balanced.iloc[:, -1] > posterior.iloc[:, -1]).all()


def test_labels_told_are_those_more_likely_than_not(kinds):
    dataset = kinds["multilabel"]
    predicted = fitted(dataset).predictions(dataset.features, "rows")
    labels = list(dataset.class_names[0])
    assert list(predicted) == [
        *labels,
        *(f"balanced {name}" for name in labels),
        *(f"posterior {name}" for name in labels),
    ]
    np.testing.assert_array_equal(predicted[labels], predicted[[f"balanced {name}" for name in labels]] > 0.5)


def test_rows_with_gaps_unseen_categories_and_further_columns_are_told(mixed, tmp_path):
    save(fitted(mixed), tmp_path / "model")
    rows = pd.DataFrame(
        {
            "further": ["x", "y", "z"],
            "notes": ["old and dry", None, "never seen wörds"],
            "tree": ["palm", "oak", None],
            "height": [None, 0.5, -1e6],
            "seen": ["2031-12-24", "no date", None],
        }
    )
    rows.to_csv(tmp_path / "rows.csv", index=False)
    predicted = load(tmp_path / "model").predictions(read_rows(tmp_path / "rows.csv"), "rows.csv")
    assert list(predicted) == [
        "verdict",
        *(f"{how} verdict={name}" for how in ("balanced", "posterior") for name in ("sick", "sound")),
    ]
    assert set(predicted["verdict"]) <= {"sick", "sound"}
    assert np.isfinite(predicted.select_dtypes("number").to_numpy()).all()


def test_a_missing_column_is_named_with_its_nearest(mixed):
    with pytest.raises(DataError, match=r'new\.csv has no column "height"\. Did you mean heigth\?'):
        fitted(mixed).predictions(mixed.features.rename(columns={"height": "heigth"}), "new.csv")


def test_names_that_read_the_same_keep_a_column_each(kinds):
    dataset = replace(
        kinds["columns"], target_names=("a", "a=b"), class_names=(("b=even", *"123456789"), ("even", "odd"))
    )
    predicted = fitted(dataset).predictions(dataset.features, "rows")
    assert list(predicted).count("balanced a=b=even") == 2
    assert predicted.shape[1] == 2 + 2 * (10 + 2)


def test_a_class_that_training_lacked_is_told_with_probability_zero(kinds, tmp_path):
    dataset = kinds["multiclass"]
    rows = dataset.target[:, 0] != 4
    fewer = replace(dataset, features=dataset.features[rows], target=dataset.target[rows])
    save(fitted(fewer), tmp_path / "model")
    predicted = load(tmp_path / "model").predictions(dataset.features, "rows")
    assert (predicted["balanced digit=4"] == 0).all()
    assert (predicted["balanced digit=5"] > 0).all()


@pytest.fixture(scope="module")
def saved(kinds, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    return save(fitted(kinds["multiclass"]), folder)


def edited(name: str, *change: Any) -> Tamper:
    """Return what sets an entry of model.json, deep within: keys, then the value."""

    def tamper(folder: Path) -> None:
        described = json.loads((folder / name).read_text())
        *keys, last, value = change
        inner = described
        for key in keys:
            inner = inner[key]
        inner[last] = value
        (folder / name).write_text(json.dumps(described))

    return tamper


def cut(name: str) -> Tamper:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-200])


def without_first_tensor(folder: Path) -> None:
    tensors = load_file(folder / "weights.safetensors")
    tensors.pop(next(iter(tensors)))
    save_file(tensors, folder / "weights.safetensors")


DAMAGE: dict[str, Tamper] = {
    "no JSON": lambda folder: (folder / "model.json").write_text('{"format": 3, '),
    "not a dict": lambda folder: (folder / "model.json").write_text("[1]"),
    "no text": lambda folder: (folder / "model.json").write_bytes(b"\xff\xfe\x00"),
    "unknown task": edited("model.json", "classifier", "targets", "task", "multi"),
    "classifier of another kind": edited("model.json", "classifier", []),
    "parameters of another kind": edited("model.json", "classifier", "parameters", [1]),
    "unknown loss": edited("model.json", "classifier", "parameters", "loss", "os.system"),
    "unknown parameter": edited("model.json", "classifier", "parameters", "callbacks", "x"),
    "wrong widths": edited("model.json", "classifier", "parameters", "hidden_units", [9]),
    "fewer classes": edited("model.json", "classes", [["0", "1"]]),
    "further target": edited("model.json", "targets", ["digit", "parity"]),
    "other inputs": edited("model.json", "classifier", "n_features", 3),
    "weights cut short": cut("weights.safetensors"),
    "weights missing": without_first_tensor,
    "no zip": lambda folder: (folder / "preprocessor.skops").write_bytes(b"PK\x03\x04 no more"),
    "zip cut short": cut("preprocessor.skops"),
    "a preprocessor that is none": lambda folder: skops.io.dump(StandardScaler(), folder / "preprocessor.skops"),
    "a preprocessor of other columns": lambda folder: skops.io.dump(
        Preprocessor([("all", StandardScaler(), ["a"])]).fit(pd.DataFrame({"a": [1.0, 2.0]})),
        folder / "preprocessor.skops",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_model_is_told_as_such(saved, tmp_path, damage):
    folder = shutil.copytree(saved, tmp_path / "model")
    load(folder)
    DAMAGE[damage](folder)
    with pytest.raises(DataError, match="model is a damaged model: "):
        load(folder)


@pytest.mark.parametrize("name", ["model.json", "preprocessor.skops", "weights.safetensors"])
def test_a_missing_part_is_named(saved, tmp_path, name):
    folder = shutil.copytree(saved, tmp_path / "model")
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"is no model: it has no {name}"):
        load(folder)


def test_every_part_may_be_read_by_those_who_may_read_any_new_file(saved, tmp_path):
    (tmp_path / "new").touch()
    assert {path.stat().st_mode for path in saved.iterdir()} == {(tmp_path / "new").stat().st_mode}


def test_what_is_no_folder_is_no_model(saved, tmp_path):
    for place in (tmp_path / "nowhere", saved / "model.json"):
        with pytest.raises(DataError, match="is no model"):
            load(place)


def test_a_model_of_a_later_format_says_which_version_reads_it(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "model")
    edited("model.json", "format", 5)(folder)
    edited("model.json", "equilog", "9.1")(folder)
    with pytest.raises(DataError, match=r"format 5 \(equilog 9\.1\).*reads format 4"):
        load(folder)


def leave_a_mark(X: Any) -> Any:
    """What somebody else's model would have run."""
    Path("mark").touch()
    return X


class Unpickled:
    """What leaves a mark when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return leave_a_mark, (None,)


def with_function_of(module: str, name: str) -> Callable[[Path, Preprocessor], None]:
    """Return what saves a preprocessor whose function is another than it was when it was saved."""

    def tamper(path: Path, preprocessor: Preprocessor) -> None:
        skops.io.dump(preprocessor, path)
        with zipfile.ZipFile(path) as archive:
            parts = {part: archive.read(part) for part in archive.namelist()}
        schema = parts["schema.json"].decode()
        assert "leave_a_mark" in schema
        changed = schema.replace('"leave_a_mark"', f'"{name}"').replace(f'"{__name__}"', f'"{module}"')
        with zipfile.ZipFile(path, "w") as archive:
            for part, content in {**parts, "schema.json": changed.encode()}.items():
                archive.writestr(part, content)

    return tamper


@pytest.mark.parametrize(
    ("module", "name"), [(__name__, "leave_a_mark"), ("os", "system"), ("builtins", "eval"), ("pathlib", "Path")]
)
def test_code_of_others_is_not_run(saved, tmp_path, monkeypatch, module, name):
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(saved, tmp_path / "model")
    steps = [("all", FunctionTransformer(leave_a_mark), ["pixel 1"])]
    harmful = Preprocessor(steps)
    harmful.fit_transform(pd.DataFrame({"pixel 1": [1.0, 2.0]}))
    Path("mark").unlink()
    with_function_of(module, name)(folder / "preprocessor.skops", harmful)
    with pytest.raises(DataError, match="was not written by equilog and is not loaded"):
        load(folder)
    assert not Path("mark").exists()


def test_a_pickle_in_place_of_a_part_is_not_opened(saved, tmp_path, monkeypatch):
    import pickle

    monkeypatch.chdir(tmp_path)
    for name in ("model.json", "preprocessor.skops", "weights.safetensors"):
        folder = shutil.copytree(saved, tmp_path / name / "model")
        (folder / name).write_bytes(pickle.dumps(Unpickled()))
        with pytest.raises(DataError, match="is a damaged model"):
            load(folder)
    assert not Path("mark").exists()
    pickle.loads(pickle.dumps(Unpickled()))
    assert Path("mark").exists()


def test_an_earlier_model_is_replaced_and_nothing_else_is(saved, kinds, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "model")
    save(fitted(kinds["multilabel"]), folder)
    assert load(folder).names.task == "multilabel"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    (tmp_path / "mine").mkdir()
    save(fitted(kinds["multilabel"]), tmp_path / "mine")
    shutil.rmtree(tmp_path / "mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="holds something other than a model"):
        save(fitted(kinds["multilabel"]), tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
