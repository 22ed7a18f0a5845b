"""One run: the same start for every loss, the same record every time, and numbers that are all finite."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import get_type_hints

import numpy as np
import pytest
import torch

from equilog.baselines.registry import losses_for
from equilog.compare.data.dataset import Dataset
from equilog.compare.data.features import make_preprocessor
from equilog.compare.data.splits import split_rows
from equilog.compare.judge.chosen_metric import MetricChoice
from equilog.compare.judge.metrics import metrics_for
from equilog.compare.judge.records import RunRecord
from equilog.compare.run.answers import TargetNames
from equilog.compare.run.contenders import Contender
from equilog.compare.run.models import ModelSettings, Network, as_fitted
from equilog.compare.run.one_run import (
    Failure,
    RunSettings,
    Split,
    attempt,
    one_thread,
    prepare,
)

KINDS = ("multiclass", "columns", "multilabel", "soft")
QUICK = ModelSettings(hidden_units=(8,), max_epochs=3, batch_size=64)
SETTINGS = RunSettings(MetricChoice("macro_f1"), QUICK)

TWO_CLASSES = ("average_precision", "roc_auc")
"""Metrics that more classes than two leave out."""

Prepared = Callable[..., tuple[Split, TargetNames]]


@pytest.fixture
def prepared(kinds) -> Prepared:
    """Return a function (kind, seed) -> split and names."""

    def of(kind: str, seed: int = 0) -> tuple[Split, TargetNames]:
        return split_of(kinds[kind], seed)

    return of


def split_of(dataset: Dataset, seed: int) -> tuple[Split, TargetNames]:
    names = TargetNames(dataset.task, dataset.target_names, dataset.class_names)
    return prepare(dataset, make_preprocessor(dataset.features)[0], split_rows(dataset, 0.25, seed), seed), names


def train_and_test(split: Split, names: TargetNames, contender: Contender, settings: RunSettings) -> RunRecord:
    [outcome] = attempt(split, names, [contender], settings)
    assert not isinstance(outcome, Failure), outcome
    return outcome


@pytest.mark.parametrize("kind", KINDS)
def test_every_loss_starts_from_the_same_weights(prepared, kind):
    split, names = prepared(kind)
    # Steps too small to move a weight leave the network as it was at the start.
    still = replace(QUICK, max_epochs=1, learning_rate=1e-30)
    y = as_fitted(split.train_target, names.task)

    def weights(loss: str, seed: int) -> list[np.ndarray]:
        network = still.classifier(loss, names.task, seed).fit(split.train_features, y).network_
        return [parameter.detach().numpy() for parameter in network.parameters()]

    first, *others = (weights(loss, 0) for loss in losses_for(names.task))
    for other in others:
        for one, same in zip(first, other, strict=True):
            np.testing.assert_array_equal(one, same)
    assert not np.array_equal(first[0], weights(losses_for(names.task)[0], 1)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_holds_what_it_should_and_only_finite_numbers(prepared, kind):
    split, names = prepared(kind)
    for loss in losses_for(names.task):
        record = train_and_test(split, names, Contender("loss", loss), SETTINGS)
        assert set(record) == set(get_type_hints(RunRecord))
        assert (record["loss"], record["seed"]) == (loss, 0)
        assert list(record["metrics"]) == [
            name for name in metrics_for(names.task) if name not in TWO_CLASSES or kind == "multilabel"
        ]
        assert np.isfinite(list(record["metrics"].values())).all()
        assert [len(values) for values in record["curve"].values()] == [3, 3, 3]
        assert [column["target"] for column in record["classes"]] == list(names.targets)
        assert json.loads(json.dumps(record, allow_nan=False)) == record


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_run_gives_the_same_record(prepared, kind):
    split, names = prepared(kind)
    loss = losses_for(names.task)[0]
    contender = Contender("loss", loss, decision=None if names.task == "soft" else "rule")
    first, again = (train_and_test(split, names, contender, SETTINGS) for _ in range(2))
    assert first | {"seconds": 0} == again | {"seconds": 0}


def test_metrics_are_those_of_the_test_rows(prepared):
    split, names = prepared("multiclass")
    record = train_and_test(split, names, Contender("loss", "cross-entropy"), SETTINGS)
    model = QUICK.classifier("cross-entropy", "multiclass", 0)
    model.fit(split.train_features, split.train_target[:, 0])
    truth = split.test_target[:, 0]
    right = model.predict(split.test_features) == truth
    assert record["metrics"]["accuracy"] == pytest.approx(right.mean())
    recalls = [right[truth == digit].mean() for digit in range(10)]
    assert record["metrics"]["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    posterior = model.predict_proba(split.test_features, "posterior")
    assert record["metrics"]["nll"] == pytest.approx(-np.log(posterior[np.arange(len(truth)), truth]).mean())
    assert record["classes"][0]["train_count"] == np.bincount(split.train_target[:, 0]).tolist()


def test_classes_that_no_training_row_has_get_probability_zero(prepared):
    split, names = prepared("columns")
    known = np.isin(split.train_target[:, 0], (3, 7), invert=True)
    fewer = replace(split, train_features=split.train_features[known], train_target=split.train_target[known])
    answers = (
        Network("log-balanced", QUICK)
        .fit(fewer.train_features, fewer.train_target, names, 0)
        .answers(fewer.test_features)
    )
    for digit, parity in (answers.balanced, answers.posterior):
        assert digit.shape == (len(fewer.test_features), 10)
        assert (digit[:, [3, 7]] == 0).all()
        assert (np.delete(digit, [3, 7], axis=1) > 0).all()
        np.testing.assert_allclose(digit.sum(axis=1), 1)
        np.testing.assert_allclose(parity.sum(axis=1), 1)
    assert not np.isin(answers.decided[0], (3, 7)).any()
    record = train_and_test(fewer, names, Contender("loss", "log-balanced"), SETTINGS)
    assert [record["classes"][0]["recall"][digit] for digit in (3, 7)] == [0, 0]
    assert np.isfinite(list(record["metrics"].values())).all()


def test_the_preprocessor_learns_from_the_training_rows_alone(kinds):
    dataset = kinds["multiclass"]
    _, test = split_rows(dataset, 0.25, 0)
    brighter = dataset.features.copy()
    brighter.iloc[test] *= 3
    before, _ = split_of(dataset, 0)
    after, _ = split_of(replace(dataset, features=brighter), 0)
    np.testing.assert_array_equal(before.train_features, after.train_features)
    assert (after.test_features >= before.test_features).all()
    assert before.train_features.dtype == np.float32


def test_a_loss_that_overflows_ends_its_curve_there(prepared):
    split, names = prepared("multiclass")
    record = train_and_test(
        split,
        names,
        Contender("loss", "cross-entropy"),
        replace(SETTINGS, model=replace(QUICK, learning_rate=1e3, max_epochs=30)),
    )
    lengths = {len(values) for values in record["curve"].values()}
    assert len(lengths) == 1
    assert 0 < lengths.pop() < 30
    json.dumps(record, allow_nan=False)


def test_a_training_that_cannot_be_finished_is_told_by_loss_and_split(prepared):
    settings = replace(SETTINGS, model=replace(QUICK, learning_rate=1e30))
    contenders = [Contender("loss", "cross-entropy", decision=decision) for decision in (None, "rule")]
    outcomes = attempt(*prepared("multiclass", seed=4), contenders, settings)
    assert [outcome.loss for outcome in outcomes if isinstance(outcome, Failure)] == [
        "cross-entropy",
        "cross-entropy+rule",
    ]
    for outcome in outcomes:
        assert outcome.reason.startswith("cross-entropy, split 4: ")
        assert "overflowed" in outcome.reason
        assert "learning_rate=1e+30" in outcome.reason


def test_threads_are_one_within_and_as_before_after():
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
