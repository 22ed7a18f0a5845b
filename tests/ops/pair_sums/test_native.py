"""The C++ sums of pair balance against the formula in float64."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from equilog import log_balanced_cross_entropy
from equilog.ops import pooled_pair_log_sums
from equilog.ops.native.call import has_kernels
from equilog.ops.pair_sums import native, reference

pytestmark = pytest.mark.skipif(not has_kernels(), reason="no C++ compiler here")

INF = torch.inf


def drawn(n: int, classes: int, size: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n + classes)
    scores = size * torch.randn(n, classes, generator=generator)
    return scores, torch.randint(classes, (n,), generator=generator)


def by_kernel(scores: Tensor, index: Tensor, upstream: Tensor, size: int, **options: Tensor) -> tuple[Tensor, ...]:
    z = scores.detach().clone().requires_grad_()
    log_sums = pooled_pair_log_sums(z, index, log_weight_of(index, **options), size)
    assert "NativePairSums" in type(log_sums.grad_fn).__name__
    return log_sums.detach(), torch.autograd.grad(log_sums, z, upstream)[0]


def by_formula(scores: Tensor, index: Tensor, upstream: Tensor, size: int, **options: Tensor) -> tuple[Tensor, ...]:
    z = scores.detach().double().requires_grad_()
    log_weight = log_weight_of(index, **options).double()
    log_sums = reference.pooled_pair_log_sums(z, index, log_weight, size, None, 1.0)
    return log_sums.detach(), torch.autograd.grad(log_sums, z, upstream.double())[0]


def log_weight_of(index: Tensor, sample_weight: Tensor | None = None) -> Tensor:
    return torch.zeros(len(index)) if sample_weight is None else sample_weight.log()


def as_of_the_loss(log_sums: Tensor) -> Tensor:
    """What flows back from log(1 + X) to log X, times anything."""
    return log_sums.sigmoid() * (torch.rand(log_sums.shape, generator=torch.Generator().manual_seed(0)) - 0.5)


@pytest.mark.parametrize("size", [1.0, 20.0, 60.0])
@pytest.mark.parametrize("size_of_pool", [1000, 70])
@pytest.mark.parametrize(("n", "classes"), [(1, 2), (200, 2), (130, 3), (300, 16), (200, 17), (500, 40)])
def test_sums_and_gradient(n: int, classes: int, size_of_pool: int, size: float) -> None:
    scores, index = drawn(n, classes, size)
    count = -(-n // size_of_pool)
    exact, _ = by_formula(scores, index, torch.zeros(count, classes**2), size_of_pool)
    upstream = as_of_the_loss(exact.float())
    (found, gradient), (_, expected) = (way(scores, index, upstream, size_of_pool) for way in (by_kernel, by_formula))
    # Threats below a float's smallest number, e^-87, are nothing: the log of 1 and any sum of them is 0.
    some = exact > -80.0
    assert (found[~some] < -79.0).all()
    # The difference of two scores is rounded to 6e-8 of their size, a term to 1.2 units in the last place.
    torch.testing.assert_close(found.double()[some], exact[some], rtol=1e-6, atol=1e-6 * size)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5 + 1e-6 * size, atol=1e-6)


@pytest.mark.parametrize("size", [100.0, 3e3, 1e6])
def test_sums_that_overflow_are_formed_in_logarithms(size: float) -> None:
    scores, index = drawn(60, 5, size)
    assert bool(native.pair_sums_forward(scores, index, torch.zeros(60), None, 60, 1.0)[2]) == (size > 100.0)
    exact, _ = by_formula(scores, index, torch.zeros(1, 25), 60)
    upstream = as_of_the_loss(exact.float())
    (found, gradient), (_, expected) = (way(scores, index, upstream, len(scores)) for way in (by_kernel, by_formula))
    some = exact > -80.0
    torch.testing.assert_close(found.double()[some], exact[some], rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-6)


def test_classes_at_minus_infinity_and_nan() -> None:
    scores, index = drawn(40, 3)
    scores[:, 2], index = -INF, index.clamp(max=1)
    upstream = torch.ones(1, 9)
    log_sums, gradient = by_kernel(scores, index, upstream, len(scores))
    assert log_sums.view(3, 3)[:2].isneginf().tolist() == [[True, False, True], [False, True, True]]
    assert (gradient[:, 2] == 0).all()
    assert gradient.isfinite().all()
    scores[0, index[0]] = -INF
    log_sums, gradient = by_kernel(scores, index, upstream, len(scores))
    assert log_sums.view(3, 3)[index[0]].isposinf().sum() >= 1
    assert gradient.isfinite().all()
    scores[1, 0] = torch.nan
    assert log_balanced_cross_entropy(scores, index, balance="pair").isnan()


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_threads_change_nothing() -> None:
    scores, index = drawn(3000, 100)
    upstream = torch.rand(1, 10000, generator=torch.Generator().manual_seed(0))
    torch.set_num_threads(1)
    alone = by_kernel(scores, index, upstream, len(scores))
    torch.set_num_threads(4)
    assert all(map(torch.equal, alone, by_kernel(scores, index, upstream, len(scores))))


def test_compiled_is_the_same() -> None:
    scores, index = drawn(2500, 20)  # enough for the compiled call to take the kernel
    upstream = []
    for loss in (
        log_balanced_cross_entropy,
        torch.compile(log_balanced_cross_entropy, fullgraph=True, backend="aot_eager"),
    ):
        z = scores.clone().requires_grad_()
        value = loss(z, index, balance="pair")
        upstream.append((value.detach(), torch.autograd.grad(value, z)[0]))
    torch.testing.assert_close(upstream[1], upstream[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_ignored_set_of_nan_beside_a_term_that_overflows(dtype: torch.dtype) -> None:
    """The sums are formed in logarithms then: log(1 + e^700) + 8 log(1 + ...), of pairs of 5 or 6 sets each."""
    logits = torch.zeros(16, 3, dtype=dtype)
    target = torch.arange(16) % 3
    logits[1, 0] = 700.0
    logits[0], target[0] = torch.nan, -100
    counts = torch.tensor([5.0, 5.0, 5.0])
    expected = 700.0 + 5 * (1 + counts[0]).log()
    loss = log_balanced_cross_entropy(logits.requires_grad_(), target, balance="pair", reduction="sum")
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(loss.detach().double(), expected.double(), rtol=1e-6, atol=0)
    assert (gradient[0] == 0).all()
    assert gradient.isfinite().all()
