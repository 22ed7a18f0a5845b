"""The positive and negative sums by blocks: the formula's value and gradient, whatever the logits, pools and blocks."""

from typing import Any

import pytest
import torch
from torch import Tensor

from equilog import multilabel_cross_entropy
from equilog.ops import pooled_label_log_sums
from equilog.ops.label_sums import chunked, reference


def drawn(shape: tuple[int, ...], kind: str, spread: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(shape, generator=generator, dtype=torch.float64)
    target = torch.rand(shape, generator=generator, dtype=torch.float64)
    return logits, (target < 0.2).double() if kind == "hard" else target


def value_and_gradient(function: Any, logits: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    logits = logits.detach().requires_grad_()
    value = function(logits, *rest)
    slopes = torch.linspace(0.5, 2.0, value.numel(), dtype=value.dtype).view_as(value)
    (gradient,) = torch.autograd.grad(value, logits, slopes)
    return value.detach(), gradient


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("spread", [1.0, 30.0, 2000.0])  # the last overflows and takes the logarithms
@pytest.mark.parametrize("size", [19, 7 * 19, 3, 50])
@pytest.mark.parametrize("most", [8, 64, 2**17])  # pools in pieces, several pools a block, all in one
def test_blocks_agree_with_the_formula(
    monkeypatch: pytest.MonkeyPatch, kind: str, weighted: bool, spread: float, size: int, most: int
) -> None:
    monkeypatch.setattr(chunked, "_MOST", most)
    logits, target = drawn((7, 19), kind, spread)
    weight = None
    if weighted:
        weight = torch.rand(7 * 19, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        weight[::5] = 0.0
        logits[0, 0] = torch.nan  # its weight is 0
    given = (logits.reshape(-1), target.reshape(-1), weight, size, 0.9)
    found, slope = value_and_gradient(pooled_label_log_sums, *given)
    expected, wanted = value_and_gradient(reference.label_log_sums, *given)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    # Log sums reach 10^4, whose exponential amplifies their last digit as often.
    torch.testing.assert_close(slope, wanted, rtol=1e-11, atol=1e-300)


@pytest.mark.parametrize("value", [0.0, 20.0, 80.0, 88.0, 89.0, 100.0, 104.0, 1e4, torch.inf])
def test_float32_keeps_its_digits_wherever_the_exponentials_overflow(value: float) -> None:
    signs = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    logits = (value * signs).requires_grad_()
    target = torch.tensor([[1, 0, 1, 0]])
    loss = multilabel_cross_entropy(logits, target)
    (slope,) = torch.autograd.grad(loss, logits)
    double = (value * signs).double().requires_grad_()
    expected = multilabel_cross_entropy(double, target)
    (wanted,) = torch.autograd.grad(expected, double)
    torch.testing.assert_close(loss.double(), expected, rtol=3e-7, atol=0)
    if value < torch.inf:
        # The least normal number of float32 is 1.2e-38; below it digits are lost.
        torch.testing.assert_close(slope.double(), wanted, rtol=2e-6, atol=1e-38)


@pytest.mark.parametrize("spread", [1.0, 200.0])
def test_backward_twice_and_batched(spread: float) -> None:
    """The memory that became the first gradient is not written to by the second."""
    logits, target = drawn((4, 6), "soft", spread)
    logits.requires_grad_()
    loss = multilabel_cross_entropy(logits, target, reduction="none")
    (first,) = torch.autograd.grad(loss.sum(), logits, retain_graph=True)
    kept = first.clone()
    first.mul_(3.0)
    (second,) = torch.autograd.grad(loss.sum(), logits, retain_graph=True)
    torch.testing.assert_close(second, kept, rtol=1e-13, atol=0)
    (rows,) = torch.autograd.grad(loss, logits, torch.eye(4, dtype=torch.float64), is_grads_batched=True)
    torch.testing.assert_close(rows.sum(0), kept, rtol=1e-12, atol=1e-300)
    assert (rows[0, 1:] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    logits, target = drawn((5, 300), "hard", 4.0)
    half = logits.to(dtype).requires_grad_()
    loss = multilabel_cross_entropy(half, target)
    assert loss.dtype == torch.float32
    loss.backward()
    exact = half.detach().double().requires_grad_()
    expected = multilabel_cross_entropy(exact, target)
    expected.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    assert half.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(half.grad, exact.grad.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-7)


def test_a_changed_logit_is_noticed() -> None:
    logits, target = drawn((3, 4), "hard", 1.0)
    given = logits.requires_grad_() * 1.0
    loss = multilabel_cross_entropy(given, target)
    with torch.no_grad():
        given.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_no_labels_at_all() -> None:
    for shape in ((0, 5), (3, 0), (0,)):
        logits = torch.zeros(shape, requires_grad=True)
        loss = multilabel_cross_entropy(logits, torch.zeros(shape))
        assert loss == 0
        loss.backward()
    assert pooled_label_log_sums(torch.zeros(0), torch.zeros(0), None, 3).shape == (0, 2)
    assert pooled_label_log_sums(torch.zeros(0), torch.zeros(0), None, 0).tolist() == [[-torch.inf, -torch.inf]]
