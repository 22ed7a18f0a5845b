"""Contenders: which there are, that each can be trained, judged, saved and loaded, and that none learns from a test."""

import sys
from pathlib import Path

import numpy as np
import pytest
from pandas.testing import assert_frame_equal
from tests.compare.run.test_one_run import train_and_test

from equilog.compare.data.features import make_preprocessor
from equilog.compare.data.splits import split_rows
from equilog.compare.errors import DataError
from equilog.compare.judge.chosen_metric import MetricChoice
from equilog.compare.run.answers import TargetNames
from equilog.compare.run.bundle import Bundle, load, save
from equilog.compare.run.contenders import BASELINE, MOST_TREES, Contender, chosen, named
from equilog.compare.run.estimators import ESTIMATORS, is_installed
from equilog.compare.run.models import ModelSettings
from equilog.compare.run.one_run import RunSettings, apart, decide, fit, prepare

QUICK = ModelSettings(hidden_units=(8,), max_epochs=3, batch_size=64)
OWN = """
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.naive_bayes import GaussianNB
from sklearn.svm import LinearSVC

class Bayes(GaussianNB):
    pass

plain_bayes = GaussianNB()
no_probabilities = LinearSVC()
nothing = 3

def squared(logits, target):
    return (logits.softmax(1) - torch.nn.functional.one_hot(target, logits.shape[1])).square().sum(1).mean()

class Picky(torch.nn.Module):
    def __init__(self, needed):
        super().__init__()
"""


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """Stand in a folder with a module of the user's."""
    (tmp_path / "my_own_models.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def settings(metric: str = "macro_f1", **more) -> RunSettings:
    return RunSettings(MetricChoice(metric), QUICK, **more)


def all_named(task, sizes=(10,), decides=True) -> list[str]:
    return [contender.name for contender in chosen(task, sizes=sizes, decides=decides)[0]]


def test_the_baseline_comes_first_and_models_decide_in_every_way():
    names = all_named("multiclass")
    assert names[0] == BASELINE["multiclass"]
    assert {f"logistic{how}" for how in ("", "-balanced", "+prior-off", "+rule")} <= set(names)
    assert {f"hist-gb{how}" for how in ("", "-balanced", "+prior-off", "+rule")} <= set(names)
    assert {"cross-entropy+rule", "log-balanced+rule"} <= set(names)
    assert len(names) == len(set(names))
    assert not any("+" in name for name in all_named("multiclass", decides=False))
    for name in names:
        assert named(name, "multiclass").name == name


def test_what_is_left_out_is_said():
    soft, notes = chosen("soft", sizes=[10], decides=True)
    assert {contender.kind for contender in soft} == {"loss"}
    assert "learn from no class probabilities: logistic, hist-gb" in notes[0]
    many, notes = chosen("multiclass", sizes=[MOST_TREES, 2], decides=True)
    assert not any(contender.base == "hist-gb" for contender in many)
    assert "hist-gb" in notes[0]
    assert "--models" in notes[0]


def test_a_package_that_cannot_be_imported_is_left_out_and_named(tmp_path, monkeypatch):
    (tmp_path / "lightgbm.py").write_text("raise OSError('libgomp.so.1: cannot open shared object file')")
    monkeypatch.delitem(sys.modules, "lightgbm", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    found, notes = chosen("multiclass", models=["all"], sizes=[3])
    assert not any(contender.base == "lightgbm" for contender in found)
    assert notes[0].startswith("Left out, since its package cannot be imported: lightgbm (OSError: libgomp.so.1")
    with pytest.raises(DataError, match='"lightgbm" needs the package lightgbm, which cannot be imported: OSError'):
        chosen("multiclass", models=["lightgbm"], sizes=[3])


def test_names_are_taken_one_by_one():
    asked, _ = chosen("multiclass", losses=["focal"], models=["hist_gb-balanced+rule"], sizes=[3], decides=True)
    assert [contender.name for contender in asked] == ["cross-entropy", "focal", "hist-gb-balanced+rule"]
    assert all_named("multilabel")[0] == "binary-cross-entropy"


@pytest.mark.parametrize(
    ("asked", "task", "message"),
    [
        ({"losses": ["focall"]}, "multiclass", r'No loss is called "focall"\. Did you mean focal'),
        ({"losses": ["asymmetric"]}, "multiclass", '"asymmetric" does not fit multiclass targets'),
        ({"models": ["hist-bg"]}, "multiclass", r'No model is called "hist-bg"\. Did you mean hist-gb'),
        ({"models": ["logistic"]}, "soft", "learns from no class probabilities"),
        ({"losses": ["focal+rul"]}, "multiclass", 'no decision is called "rul"'),
        ({"losses": ["cross-entropy+rule"]}, "soft", "have no decision rule"),
        ({"models": ["nowhere_at_all:Name"]}, "multiclass", "--models nowhere_at_all:Name cannot be imported"),
        ({"models": ["my_own_models:no_probabilities"]}, "multiclass", "CalibratedClassifierCV around it"),
        ({"models": ["my_own_models:nothing"]}, "multiclass", "cannot be made without arguments"),
        ({"losses": ["my_own_models:nothing"]}, "multiclass", "must be a torch module or a function"),
        ({"losses": ["my_own_models:Picky"]}, "multiclass", "cannot be made without arguments"),
    ],
)
@pytest.mark.usefixtures("own")
def test_what_cannot_be_compared_is_refused(asked, task, message):
    with pytest.raises(DataError, match=message):
        chosen(task, sizes=[3], decides=True, **asked)


def test_a_metric_of_probabilities_has_no_rule():
    with pytest.raises(DataError, match="which no rule changes"):
        chosen("multiclass", losses=["cross-entropy+rule"], sizes=[3], decides=False)


@pytest.mark.parametrize("kind", ["multiclass", "columns", "multilabel"])
@pytest.mark.parametrize("name", ["logistic", "logistic-balanced", "logistic+prior-off", "logistic+rule"])
def test_every_contender_is_judged_saved_and_loaded(kinds, kind, name, tmp_path):
    dataset = kinds[kind]
    names = TargetNames(dataset.task, dataset.target_names, dataset.class_names)
    contender = named(name, dataset.task)
    preprocessor, _ = make_preprocessor(dataset.features)
    split = prepare(dataset, preprocessor, split_rows(dataset, 0.25, 0), 0)
    run = train_and_test(split, names, contender, settings())
    assert (run["loss"], run["curve"]["train_loss"]) == (name, [])
    assert run["metrics"]["macro_f1"] > 0.3
    arguments = preprocessor.fit_transform(dataset.features), dataset.target, names, contender, settings(), 0
    bundle = Bundle(preprocessor, decide(fit(*arguments), *arguments), names, contender=name)
    save(bundle, tmp_path / "model")
    expected = bundle.predictions(dataset.features, "rows")
    loaded = load(tmp_path / "model")
    assert loaded.contender == name
    assert_frame_equal(loaded.predictions(dataset.features, "rows"), expected, check_exact=True)
    # What is told is what the balanced probabilities say, whatever decides.
    if dataset.task == "multilabel":
        labels = list(dataset.class_names[0])
        np.testing.assert_array_equal(expected[labels], expected[[f"balanced {one}" for one in labels]] > 0.5)
    else:
        for target, classes in zip(dataset.target_names, dataset.class_names, strict=True):
            likeliest = expected[[f"balanced {target}={one}" for one in classes]].to_numpy().argmax(axis=1)
            np.testing.assert_array_equal(expected[target], np.array(classes)[likeliest])
            np.testing.assert_allclose(expected[[f"posterior {target}={one}" for one in classes]].sum(axis=1), 1)


def test_weights_are_taken_off_the_posterior(kinds):
    dataset = kinds["columns"]
    names = TargetNames(dataset.task, dataset.target_names, dataset.class_names)
    features = make_preprocessor(dataset.features)[0].fit_transform(dataset.features)
    model = fit(features, dataset.target, names, named("logistic-balanced", "multiclass"), settings(), 0)
    answers = model.answers(features)
    share = np.bincount(dataset.target[:, 0]) / len(features)
    expected = answers.balanced[0] * share
    np.testing.assert_allclose(answers.posterior[0], expected / expected.sum(axis=1, keepdims=True))


def test_the_rule_is_learnt_from_models_that_did_not_see_the_rows(kinds):
    dataset = kinds["multiclass"]
    names = TargetNames(dataset.task, dataset.target_names, dataset.class_names)
    features = make_preprocessor(dataset.features)[0].fit_transform(dataset.features)
    seen = []

    class Spy:
        def fit(self, features, target, names, seed):
            seen.append({row.tobytes() for row in features})
            self.model = named("logistic", "multiclass").model("multiclass", QUICK, seed=seed, tune=False)
            self.fitted = self.model.fit(features, target, names, seed)
            return self

        def answers(self, features):
            assert not seen[-1] & {row.tobytes() for row in features}
            return self.fitted.answers(features)

    distinct = np.unique(features, axis=0, return_index=True)[1]
    rows, posterior = apart(Spy(), features[distinct], dataset.target[distinct], names, 0)
    assert sorted(rows) == list(range(len(distinct)))
    assert [said.shape for said in posterior] == [(len(distinct), 10)]
    assert len(seen) == 3


@pytest.mark.usefixtures("own")
def test_ones_own_loss_and_estimator_are_compared(kinds):
    dataset = kinds["multiclass"]
    names = TargetNames(dataset.task, dataset.target_names, dataset.class_names)
    split = prepare(dataset, make_preprocessor(dataset.features)[0], split_rows(dataset, 0.25, 0), 0)
    asked, _ = chosen(
        "multiclass",
        losses=["my_own_models:squared"],
        models=["my_own_models:Bayes+rule", "my_own_models:plain_bayes"],
        sizes=[10],
        decides=True,
    )
    for contender in asked[1:]:
        assert train_and_test(split, names, contender, settings())["metrics"]["accuracy"] > 0.2


def test_tuning_takes_the_rate_with_the_lowest_validation_loss(kinds):
    dataset = kinds["multiclass"]
    names = TargetNames(dataset.task, dataset.target_names, dataset.class_names)
    features = make_preprocessor(dataset.features)[0].fit_transform(dataset.features)
    tuned = fit(features, dataset.target, names, Contender("loss", "focal"), settings(tune=True), 0)
    lowest = {}
    for factor in (1 / 3, 1.0, 3.0):
        rate = QUICK.learning_rate * factor
        model = ModelSettings(**{**vars(QUICK), "learning_rate": rate}).classifier("focal", "multiclass", 0)
        lowest[rate] = min(model.fit(features, dataset.target[:, 0]).history_["valid_loss"])
    assert tuned.chosen == {"learning_rate": min(lowest, key=lowest.get)}
    assert min(tuned.curve["valid_loss"]) == min(lowest.values())


def test_every_model_that_is_installed_can_be_made():
    for name in filter(is_installed, ESTIMATORS):
        assert hasattr(ESTIMATORS[name].build(0), "predict_proba")
