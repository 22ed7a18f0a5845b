"""The log odds of the CPU against the formula in float64, by C++ and by chunks: borders, limits, derivatives, memory.

The C++ kernel takes float32; what is drawn in float64 goes by chunks either way.
"""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from equilog import kernels, log_balanced_cross_entropy, odds
from equilog.kernels import label as chunked
from equilog.kernels.native.call import has_kernels


@pytest.fixture(autouse=True, params=["C++", "chunks"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "chunks":
        monkeypatch.setattr(kernels, "is_for_native", lambda *_: False)
    elif not has_kernels():
        pytest.skip("no C++ compiler here")


def drawn(n: int, classes: int, dtype: torch.dtype = torch.float64, size: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n + classes)
    z = (size * torch.randn(n, classes, generator=generator, dtype=torch.float64)).to(dtype)
    return z.requires_grad_(), torch.randint(classes, (n,), generator=generator)


def by_formula(z: Tensor, labels: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """The log odds and the gradient of sum(upstream * log odds) in float64, by autograd."""
    exact = z.detach().double().requires_grad_()
    log_odds = odds.log_odds_against_label(exact, labels)
    (gradient,) = torch.autograd.grad(log_odds, exact, upstream.double())
    return log_odds.detach(), gradient


def by_chunks(z: Tensor, labels: Tensor, upstream: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    log_odds = kernels.log_odds_against_label(z, labels)
    (gradient,) = torch.autograd.grad(log_odds, z, upstream.to(log_odds), **options)
    return log_odds.detach(), gradient


@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9, 100])
@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 33])
def test_borders_of_chunks_do_not_show(n: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    z, labels = drawn(n, 5)
    monkeypatch.setattr(chunked, "_CHUNK_BYTES", rows * 5 * z.element_size())
    upstream = torch.linspace(-1, 1, n, dtype=torch.float64)
    for found, expected in zip(by_chunks(z, labels, upstream), by_formula(z, labels, upstream), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-15)  # a few roundings


@pytest.mark.parametrize("size", [1.0, 30.0, 1e4])
@pytest.mark.parametrize("classes", [2, 3, 40, 1000])
def test_float32_keeps_its_digits(classes: int, size: float) -> None:
    z, labels = drawn(50, classes, torch.float32, size)
    upstream = torch.linspace(-1, 1, 50)
    log_odds, gradient = by_chunks(z, labels, upstream)
    expected, slope = by_formula(z, labels, upstream)
    # Sums of up to a thousand rounded terms; the difference of two scores is rounded to 1e-7 of their size.
    torch.testing.assert_close(log_odds.double(), expected, rtol=1e-6, atol=2e-7 * size)
    torch.testing.assert_close(gradient.double(), slope, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_gradient_comes_in_the_type_of_the_scores(dtype: torch.dtype) -> None:
    z, labels = drawn(20, 6, dtype)
    upstream = torch.linspace(0.1, 1, 20)
    log_odds, gradient = by_chunks(z, labels, upstream)
    expected, slope = by_formula(z, labels, upstream)
    assert log_odds.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert gradient.dtype == dtype
    torch.testing.assert_close(log_odds.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient.double(), slope, rtol=torch.finfo(dtype).eps + 1e-6, atol=1e-5)


def test_no_sets() -> None:
    z, labels = drawn(0, 4)
    log_odds, gradient = by_chunks(z, labels, torch.zeros(0))
    assert log_odds.shape == (0,)
    assert gradient.shape == (0, 4)


def test_classes_at_minus_infinity() -> None:
    """One left out, all the others left out, the label's own, and all of them."""
    inf = torch.inf
    z = torch.tensor([[1.0, -inf, 0.5], [1.0, -inf, -inf], [-inf, 0.0, 1.0], [-inf, -inf, -inf], [0.0, 1.0, 2.0]])
    z.requires_grad_()
    labels = torch.zeros(5, dtype=torch.long)
    log_odds, gradient = by_chunks(z, labels, torch.ones(5))
    torch.testing.assert_close(log_odds[:4], torch.tensor([-0.5, -inf, inf, inf]))
    assert gradient[0].tolist() == [-1.0, 0.0, 1.0]
    assert (gradient[1:4] == 0).all()
    _, expected = by_formula(z[4:], labels[4:], torch.ones(1))
    torch.testing.assert_close(gradient[4:].double(), expected, rtol=1e-6, atol=0)


def test_nan_stays_in_its_set_and_is_still_where_nothing_flows_back() -> None:
    z, labels = drawn(4, 3)
    z = z.detach().clone()
    z[1, 0], z[2, 2] = torch.nan, torch.nan
    z.requires_grad_()
    log_odds, gradient = by_chunks(z, labels, torch.tensor([1.0, 1.0, 0.0, 1.0]))
    assert log_odds.isnan().tolist() == [False, True, True, False]
    assert gradient.isnan().any(1).tolist() == [False, True, False, False]
    assert (gradient[2] == 0).all()


def test_gradient_may_be_asked_for_again() -> None:
    """The first backward gives away the memory of forward; the second makes it anew."""
    z, labels = drawn(9, 5)
    log_odds = kernels.log_odds_against_label(z, labels)
    first, second, third = (
        torch.autograd.grad(log_odds, z, torch.full((9,), factor, dtype=torch.float64), retain_graph=True)[0]
        for factor in (1.0, 1.0, 2.0)
    )
    assert first.data_ptr() != second.data_ptr()
    assert torch.equal(first, second)
    assert torch.equal(2 * first, third)


def test_gradient_of_the_gradient() -> None:
    z, labels = drawn(6, 4)
    upstream = torch.linspace(-1, 1, 6, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z, g: torch.autograd.grad(kernels.log_odds_against_label(z, labels), z, g, create_graph=True)[0],
        (z, upstream),
    )


def test_gradients_in_batches() -> None:
    z, labels = drawn(5, 4)
    log_odds = kernels.log_odds_against_label(z, labels)
    rows = torch.eye(5, dtype=torch.float64)
    (batched,) = torch.autograd.grad(log_odds, z, rows, is_grads_batched=True, retain_graph=True)
    for row, found in zip(rows, batched, strict=True):
        (expected,) = torch.autograd.grad(log_odds, z, row, retain_graph=True)
        torch.testing.assert_close(found, expected)


def test_scores_changed_in_between_are_an_error() -> None:
    """As with torch's own losses: a gradient of scores that are no more would be wrong."""
    z, labels = drawn(5, 4)
    scores = z * 1.0
    log_odds = kernels.log_odds_against_label(scores, labels)
    with torch.no_grad():
        scores += 1.0
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        log_odds.sum().backward()


class Largest(TorchDispatchMode):
    """The bytes of each large tensor that an operation makes, other than those given."""

    def __init__(self, large: int, *given: Tensor) -> None:
        super().__init__()
        self.large, self.made = large, list[int]()
        self.seen = {each.untyped_storage().data_ptr() for each in given}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else (result,):
            if isinstance(each, Tensor) and each.untyped_storage().nbytes() >= self.large:
                at = each.untyped_storage().data_ptr()
                if at not in self.seen:
                    self.seen.add(at)
                    self.made.append(each.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("pool", [None, 16])
def test_nothing_as_large_as_the_logits_is_made_but_the_gradient(pool: int | None, ignored: bool) -> None:
    z, labels = drawn(2048, 1000, torch.float32)
    if ignored:
        labels[::5] = -100
    size = z.numel() * z.element_size()
    with Largest(size // 4, z) as forward, torch.no_grad():
        log_balanced_cross_entropy(z, labels, pool=pool)
    assert forward.made == []
    with Largest(size // 4, z) as both:
        log_balanced_cross_entropy(z, labels, pool=pool).backward()
    assert both.made == [size]
