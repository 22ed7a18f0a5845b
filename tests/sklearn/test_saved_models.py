"""Models that are pickled, or written as tensors and JSON, and come back."""

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from sklearn.base import clone
from tests.sklearn.toys import KINDS, Data, flat, quick, task_of
from torch import Tensor, nn

from equilog.baselines import CrossEntropy
from equilog.baselines.registry import losses_for
from equilog.calibration.base import Kind
from equilog.losses.criterion import Criterion
from equilog.losses.multiclass import LogBalancedCrossEntropyLoss
from equilog.sklearn import LogBalancedClassifier


@pytest.mark.parametrize("kind", KINDS)
def test_pickled_model_predicts_the_same_and_goes_on_the_same(tasks: dict[str, Data], kind: str) -> None:
    X, y = tasks[kind]
    model = quick(dropout=0.2).fit(X, y)
    twin = pickle.loads(pickle.dumps(model))
    for a, b in zip(flat(model.predict_proba(X)), flat(twin.predict_proba(X)), strict=True):
        np.testing.assert_array_equal(a, b)
    model.partial_fit(X, y)
    twin.partial_fit(X, y)
    for a, b in zip(flat(model.predict_proba(X)), flat(twin.predict_proba(X)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_pickle_holds_no_training_rows(digits: Data) -> None:
    X, y = digits
    few, many = (quick().fit(np.tile(X, (n, 1)), np.tile(y, n)) for n in (1, 10))
    # The loss may keep a small sample of what it observed, never the rows.
    assert len(pickle.dumps(many)) - len(pickle.dumps(few)) < X.nbytes / 4


@pytest.mark.parametrize("kind", KINDS)
def test_state_without_pickle_gives_the_same_model(tasks: dict[str, Data], kind: str) -> None:
    X, y = tasks[kind]
    for name in losses_for(task_of(kind)):
        model = quick(name, max_epochs=3).fit(X, y)
        tensors, config = model.to_state()
        twin = LogBalancedClassifier.from_state(load(save(tensors)), json.loads(json.dumps(config)))
        for probabilities in ("balanced", "posterior"):
            pairs = zip(
                flat(model.predict_proba(X, kind=probabilities)),
                flat(twin.predict_proba(X, kind=probabilities)),
                strict=True,
            )
            for a, b in pairs:
                np.testing.assert_array_equal(a, b, err_msg=name)
        assert twin.get_params() == model.get_params()
        assert twin.history_ == model.history_
        assert twin.predict(X).dtype == model.predict(X).dtype
        twin.partial_fit(X, y)


class Steep(CrossEntropy):
    """A user's own, with a number that is trained too."""

    def __init__(self) -> None:
        super().__init__()
        self.steepness = nn.Parameter(torch.ones(()))

    def forward(self, logits: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> Tensor:
        return super().forward(logits * self.steepness, target, sample_weight=sample_weight)


class Halved(Steep):
    """One whose logits mean something else."""

    def scores(self, logits: Tensor, kind: Kind = "balanced") -> Tensor:
        del kind
        return logits / 2


@pytest.mark.parametrize("loss", [Steep(), LogBalancedCrossEntropyLoss(pool=4)], ids=lambda loss: type(loss).__name__)
def test_a_loss_given_as_a_module_is_not_needed_to_predict(tasks: dict[str, Data], loss: Criterion) -> None:
    X, y = tasks["columns"]
    model = quick(loss).fit(X, y)
    assert clone(model).loss is not loss
    tensors, config = model.to_state()
    twin = LogBalancedClassifier.from_state(load(save(tensors)), json.loads(json.dumps(config)))
    for kind in ("balanced", "posterior"):
        for a, b in zip(model.predict_proba(X, kind), twin.predict_proba(X, kind), strict=True):
            np.testing.assert_array_equal(a, b)
    assert not any("steepness" in name for name in tensors)
    with pytest.raises(RuntimeError, match="cannot be trained further"):
        twin.partial_fit(X, y)


def test_a_loss_given_as_a_module_that_prediction_needs_is_not_stored(digits: Data) -> None:
    with pytest.raises(ValueError, match=r"loss Halved\(\) is a module whose own scores"):
        quick(Halved()).fit(*digits).to_state()
