"""The rows held out of training, and what is made of them."""

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score
from tests.sklearn.toys import KINDS, Data, quick
from torch import Tensor

from equilog.baselines import CrossEntropy, TunedThreshold
from equilog.baselines.registry import LOSSES, TargetCounts
from equilog.calibration import Calibration
from equilog.calibration.temperature import likeliest_temperature
from equilog.sklearn.column_loss import column_score
from equilog.sklearn.held_out import validation_rows
from equilog.sklearn.targets import Targets, columns_of


def test_no_rows_are_held_out_where_they_would_be_few(digits: Data) -> None:
    X, y = digits
    few = quick().fit(X[::10], y[::10])
    assert few.history_["valid_loss"] == []
    assert few.temperature_ == 1.0
    assert few.n_iter_ == 5


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_rows_are_in_proportion_and_never_all_of_a_class(tasks: dict[str, Data], kind: str) -> None:
    _, y = tasks[kind]
    columns = columns_of(y)
    targets = Targets.of(columns)
    target = targets.encode(columns)
    for seed in range(20):
        held_out = validation_rows(targets, target, 0.2, np.random.RandomState(seed))
        for mass in targets.masses(target):
            assert ((mass[~held_out].sum(0) > 0) | (mass.sum(0) == 0)).all()
        if kind == "multiclass":
            expected = 0.2 * np.bincount(y)
            assert (abs(np.bincount(y[held_out], minlength=10) - expected) <= 1).all()
        assert held_out.sum() == pytest.approx(0.2 * len(y), abs=5)


def test_temperature_undoes_what_scaled_the_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20000, 4, generator=generator, dtype=torch.float64)
    drawn = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    labels = (torch.rand(20000, 4, generator=generator) < logits.sigmoid()).float()
    for target, multilabel in ((drawn, False), (logits.softmax(1), False), (labels, True)):
        for factor in (0.5, 3.0):
            found = likeliest_temperature([(factor * logits, target, multilabel)], torch.ones(20000))
            assert found == pytest.approx(factor, rel=0.03)


def test_temperature_stays_moderate_where_all_held_out_rows_are_right() -> None:
    logits = 3 * torch.eye(4, dtype=torch.float64).repeat(3, 1)
    found = likeliest_temperature([(logits, logits.argmax(1), False)], torch.ones(12))
    assert 0.3 < found < 1


def test_validation_scores_are_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 5, generator=generator)
    codes = torch.randint(0, 4, (200,), generator=generator)
    labels = (torch.rand(200, 5, generator=generator) < 0.3).float()
    labels[:, 4] = 0
    binary = LOSSES["binary-cross-entropy"].build(TargetCounts(labels.sum(0).double(), len(labels)))
    # Class 4 is predicted and never true: scikit-learn leaves it out of the mean and warns.
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        expected = balanced_accuracy_score(codes, logits.argmax(1))
    assert float(column_score("multiclass", CrossEntropy(), logits, codes)) == pytest.approx(expected)
    expected = f1_score(labels, logits > 0, average="macro", zero_division=0)
    assert float(column_score("multilabel", binary, logits, labels)) == pytest.approx(expected)
    soft = torch.rand(200, 5, generator=generator).softmax(1)
    expected = (soft * (soft.log() - logits.log_softmax(1))).sum(1).mean()
    assert float(column_score("soft", CrossEntropy(), logits, soft)) == pytest.approx(-float(expected), rel=1e-5)


class RecordedThreshold(TunedThreshold):
    """A tuned threshold that keeps what it is given to observe."""

    def __init__(self) -> None:
        super().__init__()
        self.observed: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def calibrate(self, logits: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> Calibration:
        self.observed.append((logits, target, sample_weight))
        return super().calibrate(logits, target, sample_weight=sample_weight)


@pytest.mark.parametrize("early_stopping", [True, False])
def test_a_threshold_is_chosen_on_held_out_rows_where_there_are_any(
    tasks: dict[str, Data], early_stopping: bool
) -> None:
    X, y = tasks["multilabel"]
    model = quick(RecordedThreshold(), early_stopping=early_stopping).fit(X, y)
    criterion = model.criterion_.criteria[0]
    logits, target, weight = criterion.observed[-1]
    assert len(logits) == (round(0.1 * len(y)) if early_stopping else len(y))
    again = TunedThreshold().calibrate(logits, target, sample_weight=weight)
    (calibration,) = model.calibrations_
    zero = torch.zeros(1, target.shape[1])
    assert calibration.raw_scores(zero, "balanced").equal(again.scores(zero))
    assert (again.scores(zero) != 0).all()
    scores = model.decision_function(X)
    np.testing.assert_array_equal(model.predict(X), scores > 0)
