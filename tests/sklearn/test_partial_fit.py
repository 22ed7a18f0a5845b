"""Training epoch by epoch."""

import numpy as np
import pytest
from sklearn.metrics import log_loss
from tests.sklearn.toys import Data, quick


def test_partial_fit_learns_epoch_by_epoch(tasks: dict[str, Data]) -> None:
    for X, y in tasks.values():
        model = quick()
        scores = [model.partial_fit(X, y).score(X, y) for _ in range(20)]
        assert scores[-1] > scores[0]
        assert model.n_iter_ == len(model.history_["train_loss"]) == 20
        assert model.history_["valid_loss"] == []


def test_partial_fit_takes_classes_that_are_yet_to_come(digits: Data) -> None:
    X, y = digits
    first = y < 4
    model = quick("cross-entropy", learning_rate=0.02).partial_fit(X[first], y[first], classes=np.arange(10))
    for _ in range(30):
        model.partial_fit(X, y)
    assert set(model.predict(X)) > {5, 6}
    two = quick("cross-entropy").partial_fit(X, np.column_stack([y, y % 3 + 5]), classes=[range(12), range(5, 9)])
    assert [p.shape[1] for p in two.predict_proba(X)] == [12, 4]
    with pytest.raises(ValueError, match="unseen labels"):
        quick().partial_fit(X[first], y[first]).partial_fit(X, y)


def test_partial_fit_goes_on_from_a_fit(digits: Data) -> None:
    X, y = digits
    model = quick("cross-entropy").fit(X, y)
    temperature, loss = model.temperature_, log_loss(y, model.predict_proba(X))
    model.partial_fit(X, y)
    assert model.temperature_ == temperature
    assert model.n_iter_ == 6
    assert log_loss(y, model.predict_proba(X)) < loss
