"""What a switcher passes: class counts of any kind, masks, targets of every integer type, and nothing at all."""

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from equilog import LogBalancedCrossEntropyLoss, MultiLabelCrossEntropyLoss, log_balanced_cross_entropy, probabilities
from swap.criteria import recommended

COUNTS = [900, 100, 50, 3]


def read_only(values: Any) -> Any:
    array = np.array(values)
    array.flags.writeable = False
    return array


LABELS = pd.Series(np.repeat([3, 1, 0, 2], [3, 100, 900, 50]))
PRIORS: dict[str, Any] = {
    "list": COUNTS,
    "tuple": tuple(COUNTS),
    "dict": {0: 900, 1: 100, 2: 50, 3: 3},
    "dict in another order": {3: 3, 0: 900, 2: 50, 1: 100},
    "Counter": Counter(LABELS.tolist()),
    "array": np.array(COUNTS),
    "array that cannot be written": read_only(COUNTS),
    "series": pd.Series(COUNTS),
    "value_counts": LABELS[::-1].value_counts(ascending=True),
    "integer tensor": torch.tensor(COUNTS),
    "short tensor": torch.tensor(COUNTS, dtype=torch.int16),
    "half tensor": torch.tensor(COUNTS).half(),
}


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(9, 4, generator=generator), torch.randint(4, (9,), generator=generator)


@pytest.mark.parametrize("prior", list(PRIORS.values()), ids=list(PRIORS))
def test_class_counts_of_any_kind_are_a_prior(prior: Any) -> None:
    expected = log_balanced_cross_entropy(*batch(), pool=4, prior=torch.tensor(COUNTS, dtype=torch.float32))
    assert log_balanced_cross_entropy(*batch(), pool=4) != expected
    torch.testing.assert_close(log_balanced_cross_entropy(*batch(), pool=4, prior=prior), expected)
    criterion = LogBalancedCrossEntropyLoss(pool=4, prior=prior)
    torch.testing.assert_close(criterion(*batch()), expected)
    assert "prior" in criterion.state_dict()
    logits = batch()[0]
    ours = probabilities(logits, pool_size=1, prior=prior, kind="posterior")
    torch.testing.assert_close(ours, (logits + torch.tensor(COUNTS).log()).softmax(1))


@pytest.mark.parametrize(
    ("prior", "error", "text"),
    [
        ("balanced", ValueError, '"auto"'),
        (900, TypeError, "got int"),
        (True, TypeError, "got bool"),
        ({900, 100}, TypeError, "got set"),
        (b"\x09\x01", TypeError, "got bytes"),
        (iter(COUNTS), TypeError, "got list_iterator"),
        ([900, None, 50, 3], TypeError, "got list"),
        ({0: 900, 1: 100, 3: 3}, ValueError, "2 is not among"),
        ({"cat": 900, "dog": 100}, ValueError, "classes with names"),
        (pd.Series(COUNTS, index=list("abcd")), ValueError, "classes with names"),
        ([900, 100, 50], ValueError, r"must be \(4,\)"),
        ([COUNTS], ValueError, r"must be \(4,\)"),
        ([900, 100, 50, 0], ValueError, "never seen"),
        ([900, 100, 50, -3], ValueError, "positive"),
        ([900, 100, 50, float("nan")], ValueError, "positive"),
        ([900, 100, 50, float("inf")], ValueError, "finite"),
    ],
    ids=lambda value: None if hasattr(value, "__next__") else str(value),
)
def test_what_is_no_prior_is_refused_when_the_module_is_made(prior: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"LogBalancedCrossEntropyLoss: .*prior.*{text}"):
        LogBalancedCrossEntropyLoss(4, prior=prior)


@pytest.mark.parametrize("weight", [[1.0, -1.0, 1.0, 1.0], [1.0, 2.0], [float("nan")] * 4, "balanced"], ids=str)
def test_what_is_no_weight_is_refused_when_the_module_is_made(weight: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="weight must be"):
        LogBalancedCrossEntropyLoss(4, weight=weight)


@pytest.mark.parametrize("num_classes", [0, -1, 2.5, "4"], ids=str)
def test_what_is_no_number_of_classes_is_refused(num_classes: Any) -> None:
    with pytest.raises(ValueError, match="num_classes must be an integer, at least 1"):
        LogBalancedCrossEntropyLoss(num_classes)


@pytest.mark.parametrize("options", [{"prior": "auto"}, {"pool": "stream"}], ids=str)
def test_state_without_a_number_of_classes_names_the_remedy(options: Any) -> None:
    with pytest.raises(ValueError, match=r"Say LogBalancedCrossEntropyLoss\(num_classes=...\)"):
        LogBalancedCrossEntropyLoss(**options)
    with pytest.raises(ValueError, match=r"Say num_classes=4"):
        LogBalancedCrossEntropyLoss(3, **options)(torch.randn(2, 4, requires_grad=True), torch.tensor([0, 1]))


def test_masked_labels_say_nothing_to_calibration() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(40, 5, generator=generator), torch.randint(2, (40, 5), generator=generator)
    mask = torch.rand(40, 5, generator=generator) < 0.6
    criterion = MultiLabelCrossEntropyLoss(pool="batch")
    one = criterion.calibrate(logits, target, mask=mask, pool_size=64)
    hidden = torch.where(mask, logits, torch.nan), torch.where(mask, target, 1 - target)
    other = criterion.calibrate(*hidden, mask=mask, pool_size=64)
    without = criterion.calibrate(logits, target, pool_size=64)
    for kind in ("balanced", "posterior"):
        expected = one.probabilities(logits, kind)
        assert torch.equal(other.probabilities(logits, kind), expected)
        assert not torch.equal(without.probabilities(logits, kind), expected)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    logits, target = batch()
    calibration = recommended().calibrate(logits, target)
    with pytest.raises(ValueError, match="temperature must be positive"):
        calibration.probabilities(logits, temperature=temperature)
    with pytest.raises(ValueError, match="temperature must be positive"):
        probabilities(logits, temperature=temperature)


def test_a_posterior_without_calibration_says_what_to_call() -> None:
    with pytest.raises(RuntimeError, match=r"criterion.calibrate\(logits, target\)"):
        recommended().probabilities(batch()[0], "posterior")


def test_factors_and_pools_are_in_the_state_and_move() -> None:
    labels = MultiLabelCrossEntropyLoss(pool=torch.tensor([0, 0, 1]), pos_weight=3.0, weight=[1.0, 2.0])
    classes = LogBalancedCrossEntropyLoss(pool=torch.tensor([0, 0, 1]), weight=[1.0, 2.0], prior=[3.0, 1.0])
    for criterion, names in (
        (labels, {"pool_ids", "pos_weight", "weight"}),
        (classes, {"pool_ids", "weight", "prior"}),
    ):
        assert set(criterion.state_dict()) == names
        assert all(buffer.is_meta for buffer in criterion.to("meta").buffers())


INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64]


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_targets_of_every_integer_type(dtype: torch.dtype) -> None:
    logits, target = batch()
    expected = recommended()(logits, target)
    assert torch.equal(recommended()(logits, target.to(dtype)), expected)
    if dtype != torch.int8:
        target[::3] = 255
        criterion = recommended(ignore_index=255)
        rows = logits.requires_grad_()
        loss = criterion(rows, target.to(dtype))
        assert torch.equal(loss, recommended(ignore_index=255)(rows, target))
        kept = target != 255
        assert torch.equal(criterion.class_count, target[kept].bincount(minlength=4).double())


@pytest.mark.parametrize("rows", [0, 5])
@pytest.mark.parametrize("kind", ["classes", "stream", "labels", "labels of a stream"])
def test_empty_batches_and_batches_with_everything_left_out_cost_nothing(kind: str, rows: int) -> None:
    logits = torch.randn(rows, 4, requires_grad=True)
    if kind.startswith("labels"):
        criterion: nn.Module = MultiLabelCrossEntropyLoss(pool="stream" if "stream" in kind else "sample")
        loss = criterion(logits, torch.ones(rows, 4), mask=torch.zeros(rows, 4, dtype=torch.bool))
    else:
        criterion = recommended(pool="stream" if kind == "stream" else 16)
        loss = criterion(logits, torch.full((rows,), -100))
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros(rows, 4))
    assert all(torch.equal(value, torch.zeros_like(value)) for value in criterion.state_dict().values())
