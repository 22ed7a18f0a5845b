"""The log odds of the CPU against the formula in float64, every way: borders, limits, derivatives, memory.

The C++ kernel takes float32; what is drawn in float64 goes by the reference there.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from equilog import log_balanced_cross_entropy
from equilog.ops import dispatch, index_log_odds
from equilog.ops.index_odds import chunked, reference
from equilog.ops.native.call import has_kernels
from ops.memory import Largest


@pytest.fixture(autouse=True, params=["native", "chunked", "reference"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "native" and not has_kernels():
        pytest.skip("no C++ compiler here")
    with dispatch.only(request.param):
        yield request.param


def drawn(n: int, classes: int, dtype: torch.dtype = torch.float64, size: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n + classes)
    z = (size * torch.randn(n, classes, generator=generator, dtype=torch.float64)).to(dtype)
    return z.requires_grad_(), torch.randint(classes, (n,), generator=generator)


def by_formula(z: Tensor, index: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """The log odds and the gradient of sum(upstream * log odds) in float64, by autograd."""
    exact = z.detach().double().requires_grad_()
    log_odds = reference.index_log_odds(exact, index)
    (gradient,) = torch.autograd.grad(log_odds, exact, upstream.double())
    return log_odds.detach(), gradient


def computed(z: Tensor, index: Tensor, upstream: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    log_odds = index_log_odds(z, index)
    (gradient,) = torch.autograd.grad(log_odds, z, upstream.to(log_odds), **options)
    return log_odds.detach(), gradient


@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9, 100])
@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 33])
def test_borders_of_chunks_do_not_show(n: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    z, index = drawn(n, 5)
    monkeypatch.setattr(chunked, "_CHUNK_BYTES", rows * 5 * z.element_size())
    upstream = torch.linspace(-1, 1, n, dtype=torch.float64)
    for value, expected in zip(computed(z, index, upstream), by_formula(z, index, upstream), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-14, atol=1e-15)  # a few roundings


@pytest.mark.parametrize("size", [1.0, 30.0, 1e4])
@pytest.mark.parametrize("classes", [2, 3, 40, 1000])
def test_float32_keeps_its_digits(classes: int, size: float) -> None:
    z, index = drawn(50, classes, torch.float32, size)
    upstream = torch.linspace(-1, 1, 50)
    log_odds, gradient = computed(z, index, upstream)
    expected, slope = by_formula(z, index, upstream)
    # Sums of up to a thousand rounded terms; the difference of two scores is rounded to 1e-7 of their size.
    torch.testing.assert_close(log_odds.double(), expected, rtol=1e-6, atol=2e-7 * size)
    torch.testing.assert_close(gradient.double(), slope, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_gradient_comes_in_the_type_of_the_scores(dtype: torch.dtype) -> None:
    z, index = drawn(20, 6, dtype)
    upstream = torch.linspace(0.1, 1, 20)
    log_odds, gradient = computed(z, index, upstream)
    expected, slope = by_formula(z, index, upstream)
    assert log_odds.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert gradient.dtype == dtype
    torch.testing.assert_close(log_odds.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient.double(), slope, rtol=torch.finfo(dtype).eps + 1e-6, atol=1e-5)


def test_no_sets() -> None:
    z, index = drawn(0, 4)
    log_odds, gradient = computed(z, index, torch.zeros(0))
    assert log_odds.shape == (0,)
    assert gradient.shape == (0, 4)


def test_classes_at_minus_infinity() -> None:
    """One left out, all the others left out, the label's own, and all of them."""
    inf = torch.inf
    z = torch.tensor([[1.0, -inf, 0.5], [1.0, -inf, -inf], [-inf, 0.0, 1.0], [-inf, -inf, -inf], [0.0, 1.0, 2.0]])
    z.requires_grad_()
    index = torch.zeros(5, dtype=torch.long)
    log_odds, gradient = computed(z, index, torch.ones(5))
    torch.testing.assert_close(log_odds[:4], torch.tensor([-0.5, -inf, inf, inf]))
    assert gradient[0].tolist() == [-1.0, 0.0, 1.0]
    assert (gradient[1:4] == 0).all()
    _, expected = by_formula(z[4:], index[4:], torch.ones(1))
    torch.testing.assert_close(gradient[4:].double(), expected, rtol=1e-6, atol=0)


def test_nan_stays_in_its_set_and_is_still_where_nothing_flows_back() -> None:
    z, index = drawn(4, 3)
    z = z.detach().clone()
    z[1, 0], z[2, 2] = torch.nan, torch.nan
    z.requires_grad_()
    log_odds, gradient = computed(z, index, torch.tensor([1.0, torch.nan, 0.0, 1.0]))
    assert log_odds.isnan().tolist() == [False, True, True, False]
    assert gradient.isnan().any(1).tolist() == [False, True, False, False]
    assert (gradient[2] == 0).all()


def test_scores_changed_in_between_are_an_error() -> None:
    """As with torch's own losses: a gradient of scores that are no more would be wrong."""
    z, index = drawn(5, 4)
    scores = z * 1.0
    log_odds = index_log_odds(scores, index)
    with torch.no_grad():
        scores += 1.0
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        log_odds.sum().backward()


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("pool", [None, 16])
def test_nothing_as_large_as_the_logits_is_made_but_the_gradient(pool: int | None, ignored: bool, way: str) -> None:
    if way == "reference":
        pytest.skip("what the compiler makes one loop of, several tensors hold")
    z, index = drawn(2048, 1000, torch.float32)
    if ignored:
        index[::5] = -100
    size = z.numel() * z.element_size()
    with Largest(size // 4, z) as forward, torch.no_grad():
        log_balanced_cross_entropy(z, index, pool=pool)
    assert forward.made == []
    with Largest(size // 4, z) as both:
        log_balanced_cross_entropy(z, index, pool=pool).backward()
    assert both.made == [size]
