"""Values and gradients against the printed formulas, for every loss and in every dtype."""

import math

import pytest
import torch
from mpmath import mp
from torch import Tensor

from contract.cases import CASES, Case, Inputs, cases
from equilog import log_balanced_cross_entropy, multilabel_cross_entropy

# A value sums some fifty rounded terms: 1e-13 of itself is generous, 1e-12 allows for the scatter of the inputs.
EXACT = {"rtol": 1e-12, "atol": 1e-14}


def as_tensor(values: list[object]) -> Tensor:
    return torch.tensor([float(value) for value in values], dtype=torch.float64)


@pytest.mark.parametrize("case", cases())
def test_value_of_each_pool_is_the_formula(case: Case) -> None:
    inputs = case.inputs()
    per_pool = case.loss(inputs, reduction="none")
    torch.testing.assert_close(per_pool.reshape(-1), as_tensor(case.expected(inputs).values), **EXACT)
    assert per_pool.dtype == torch.float64


@pytest.mark.parametrize("case", cases())
def test_gradient_is_the_formula(case: Case) -> None:
    inputs = case.inputs(1)
    # atol: an entry of the gradient may be the difference of two numbers up to a few units.
    expected = case.expected(inputs).gradient
    torch.testing.assert_close(case.gradient(inputs, reduction="sum"), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("case", cases())
def test_reductions(case: Case) -> None:
    """The mean divides the sum over the pools by the sum of their units."""
    inputs = case.inputs(2)
    expected = case.expected(inputs)
    assert float(case.loss(inputs, reduction="sum")) == pytest.approx(float(mp.fsum(expected.values)), rel=1e-12)
    assert float(case.loss(inputs, reduction="mean")) == pytest.approx(float(expected.mean), rel=1e-12)
    assert float(case.loss(inputs)) == pytest.approx(float(expected.mean), rel=1e-12)


@pytest.mark.parametrize("case", cases())
@pytest.mark.parametrize("size", [30.0, 1e4])
def test_extreme_logits(case: Case, size: float) -> None:
    """Confidently right and wrong logits: the formula still, without overflow, negative values or wrong signs."""
    inputs = case.inputs(3)
    inputs = inputs.with_logits(size * inputs.logits.sign())
    expected = as_tensor(case.expected(inputs).values)
    per_pool = case.loss(inputs, reduction="none").reshape(-1)
    assert (per_pool >= 0).all()
    # Terms of 1e4 are rounded in their last digit before they meet in a difference.
    torch.testing.assert_close(per_pool, expected, rtol=1e-12, atol=1e-12 * size)
    gradient = case.gradient(inputs, reduction="sum")
    torch.testing.assert_close(gradient, case.expected(inputs).gradient, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("case", cases())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_small_dtypes(case: Case, dtype: torch.dtype) -> None:
    """Computed in float32 whatever comes in, and the gradient goes back as it came."""
    inputs = case.inputs(4)
    low = inputs.with_logits(inputs.logits.to(dtype))
    loss = case.loss(low)
    assert loss.dtype == torch.float32
    # The same rounded logits in float64; then only float32 arithmetic differs, fifty terms of 6e-8 each.
    same = inputs.with_logits(low.logits.double())
    torch.testing.assert_close(loss.double(), case.loss(same), rtol=3e-6, atol=0)
    gradient = case.gradient(low)
    assert gradient.dtype == dtype
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(gradient.double(), case.gradient(same), rtol=max(rounding, 1e-5), atol=1e-5)


@pytest.mark.parametrize("case", cases())
def test_largest_half_precision_logits(case: Case) -> None:
    inputs = case.inputs(5)
    low = inputs.with_logits((6e4 * inputs.logits.sign()).half())
    same = inputs.with_logits(low.logits.double())
    # float32 numbers of 6e4 are 4e-3 apart, by which a prior rounds the differences between equal logits.
    torch.testing.assert_close(case.loss(low).double(), case.loss(same), rtol=1e-4, atol=1e-5)
    assert case.gradient(low).isfinite().all()


@pytest.mark.parametrize("case", cases("index", multilabel=False))
def test_autocast_computes_in_float32(case: Case) -> None:
    inputs = case.inputs(6)
    features = torch.randn(len(inputs.logits), 8, generator=torch.Generator().manual_seed(0))
    layer = torch.nn.Linear(8, inputs.logits.shape[1:].numel(), bias=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = layer(features).reshape(inputs.logits.shape)
        assert logits.dtype == torch.bfloat16
        loss = case.loss(inputs.with_logits(logits))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), case.loss(inputs.with_logits(logits.double())), rtol=3e-6, atol=0)
    loss.backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("positions", [(), (1,), (5,), (1, 1), (2, 3)], ids=str)
@pytest.mark.parametrize("kind", ["index", "probability"])
def test_one_value_a_pool(positions: tuple[int, ...], kind: str) -> None:
    """The shape depends on what was asked for, not on how many positions there happen to be."""
    logits = torch.zeros(3, 4, *positions)
    target = torch.zeros(3, *positions, dtype=torch.long) if kind == "index" else logits.softmax(1)
    n = math.prod((3, *positions))
    shapes = {"sample": (3,), "batch": (1,), 2: (-(-n // 2),), 1: (3, *positions)}
    for pool, shape in shapes.items():
        assert log_balanced_cross_entropy(logits, target, pool=pool, reduction="none").shape == shape
        shape = (3, 4, *positions) if pool == 1 else (-(-4 * n // 2),) if pool == 2 else shape
        assert multilabel_cross_entropy(logits, logits, pool=pool, reduction="none").shape == shape


@pytest.mark.parametrize("case", [case for case in cases() if "blocks" not in case.id])
def test_no_value_is_read_where_reading_is_a_wait(case: Case) -> None:
    """A meta tensor has no values, so a loss that runs on it asks for none (blocks and pool ids are read, once)."""
    inputs = case.inputs()
    options = {name: value.to("meta") if isinstance(value, Tensor) else value for name, value in inputs.options.items()}
    logits = inputs.logits.to("meta").requires_grad_()
    loss = case.loss(Inputs(logits, inputs.target.to("meta"), options))
    assert loss.shape == ()
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.shape == logits.shape


def test_names_of_cases_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


def test_int_pools_do_not_shift_with_ignored_sets() -> None:
    case = next(case for case in CASES if case.name == "class-index-four")
    inputs = case.inputs()
    target = inputs.target.clone()
    before = case.loss(inputs, reduction="none")
    target[0] = -100
    after = case.loss(Inputs(inputs.logits, target, inputs.options), reduction="none")
    assert math.isclose(before[1], after[1], rel_tol=1e-15)
    assert math.isclose(before[2], after[2], rel_tol=1e-15)
    assert not math.isclose(before[0], after[0], rel_tol=1e-3)
