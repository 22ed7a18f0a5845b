"""The C++ sums of pair balance against the formula in float64."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from equilog import kernels, log_balanced_cross_entropy, odds
from equilog.kernels.native import pairs
from equilog.kernels.native.call import has_kernels
from equilog.logspace import log_sum_exp_by
from equilog.pooling import Pools, as_pools
from equilog.targets import as_sets

pytestmark = pytest.mark.skipif(not has_kernels(), reason="no C++ compiler here")

INF = torch.inf


def drawn(n: int, classes: int, size: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n + classes)
    scores = size * torch.randn(n, classes, generator=generator)
    return scores, torch.randint(classes, (n,), generator=generator)


def by_kernel(
    scores: Tensor, labels: Tensor, upstream: Tensor, pool: str | int, **options: Tensor
) -> tuple[Tensor, ...]:
    z = scores.detach().clone().requires_grad_()
    sets = as_sets("test", z, labels, **options)
    log_sums = kernels.log_pair_sums(sets, as_pools("test", pool, sets.shape, z.device))
    assert "NativePairSums" in type(log_sums.grad_fn).__name__
    return log_sums.detach(), torch.autograd.grad(log_sums, z, upstream)[0]


def by_formula(
    scores: Tensor, labels: Tensor, upstream: Tensor, pool: str | int, **options: Tensor
) -> tuple[Tensor, ...]:
    z = scores.detach().double().requires_grad_()
    sets = as_sets("test", z, labels, **options)
    pools: Pools = as_pools("test", pool, sets.shape, z.device)
    terms = odds.log_threats_to_label(sets.scores(), labels) + sets.log_weight[:, None]
    classes = z.shape[1]
    log_sums = log_sum_exp_by(terms, pools.ids * classes + labels, pools.count * classes).view(pools.count, -1)
    return log_sums.detach(), torch.autograd.grad(log_sums, z, upstream.double())[0]


def as_of_the_loss(log_sums: Tensor) -> Tensor:
    """What flows back from log(1 + X) to log X, times anything."""
    return log_sums.sigmoid() * (torch.rand(log_sums.shape, generator=torch.Generator().manual_seed(0)) - 0.5)


@pytest.mark.parametrize("size", [1.0, 20.0, 60.0])
@pytest.mark.parametrize("pool", ["batch", 70])
@pytest.mark.parametrize(("n", "classes"), [(1, 2), (200, 2), (130, 3), (300, 16), (200, 17), (500, 40)])
def test_sums_and_gradient(n: int, classes: int, pool: str | int, size: float) -> None:
    scores, labels = drawn(n, classes, size)
    count = 1 if pool == "batch" else -(-n // 70)
    exact, _ = by_formula(scores, labels, torch.zeros(count, classes**2), pool)
    upstream = as_of_the_loss(exact.float())
    (found, gradient), (_, expected) = (way(scores, labels, upstream, pool) for way in (by_kernel, by_formula))
    # Threats below a float's smallest number, e^-87, are nothing: the log of 1 and any sum of them is 0.
    some = exact > -80.0
    assert (found[~some] < -79.0).all()
    # The difference of two scores is rounded to 6e-8 of their size, a term to 1.2 units in the last place.
    torch.testing.assert_close(found.double()[some], exact[some], rtol=1e-6, atol=1e-6 * size)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5 + 1e-6 * size, atol=1e-6)


@pytest.mark.parametrize("size", [100.0, 3e3, 1e6])
def test_sums_that_overflow_are_formed_in_logarithms(size: float) -> None:
    scores, labels = drawn(60, 5, size)
    assert bool(pairs.pairs_forward(scores, labels, torch.zeros(60), 60, None, 1.0)[2]) == (size > 100.0)
    exact, _ = by_formula(scores, labels, torch.zeros(1, 25), "batch")
    upstream = as_of_the_loss(exact.float())
    (found, gradient), (_, expected) = (way(scores, labels, upstream, "batch") for way in (by_kernel, by_formula))
    some = exact > -80.0
    torch.testing.assert_close(found.double()[some], exact[some], rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-6)


def test_what_is_left_out_may_hold_anything() -> None:
    scores, labels = drawn(50, 4)
    weight = torch.linspace(0, 2, 50).round()
    hole = scores.clone()
    hole[weight == 0] = torch.nan
    upstream = torch.ones(1, 16)
    found = by_kernel(hole, labels, upstream, "batch", sample_weight=weight)
    expected = by_formula(scores, labels, upstream, "batch", sample_weight=weight)
    torch.testing.assert_close(found[0].double(), expected[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[1].double(), expected[1], rtol=1e-5, atol=1e-6)
    assert (found[1][weight == 0] == 0).all()


def test_classes_at_minus_infinity_and_nan() -> None:
    scores, labels = drawn(40, 3)
    scores[:, 2], labels = -INF, labels.clamp(max=1)
    upstream = torch.ones(1, 9)
    log_sums, gradient = by_kernel(scores, labels, upstream, "batch")
    assert log_sums.view(3, 3)[:2].isneginf().tolist() == [[True, False, True], [False, True, True]]
    assert (gradient[:, 2] == 0).all()
    assert gradient.isfinite().all()
    scores[0, labels[0]] = -INF
    log_sums, gradient = by_kernel(scores, labels, upstream, "batch")
    assert log_sums.view(3, 3)[labels[0]].isposinf().sum() >= 1
    assert gradient.isfinite().all()
    scores[1, 0] = torch.nan
    assert log_balanced_cross_entropy(scores, labels, balance="pair").isnan()


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_threads_change_nothing() -> None:
    scores, labels = drawn(3000, 100)
    upstream = torch.rand(1, 10000, generator=torch.Generator().manual_seed(0))
    torch.set_num_threads(1)
    alone = by_kernel(scores, labels, upstream, "batch")
    torch.set_num_threads(4)
    assert all(map(torch.equal, alone, by_kernel(scores, labels, upstream, "batch")))


def test_gradient_of_the_gradient() -> None:
    scores, labels = drawn(30, 3)

    def penalised(z: Tensor) -> Tensor:
        loss = log_balanced_cross_entropy(z, labels, balance="pair")
        return torch.autograd.grad(loss, z, create_graph=True)[0].square().sum()

    z, exact = scores.clone().requires_grad_(), scores.double().requires_grad_()
    (found,), (expected,) = torch.autograd.grad(penalised(z), z), torch.autograd.grad(penalised(exact), exact)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


def test_compiled_is_the_same() -> None:
    scores, labels = drawn(2500, 20)  # enough for the compiled call to take the kernel
    upstream = []
    for loss in (
        log_balanced_cross_entropy,
        torch.compile(log_balanced_cross_entropy, fullgraph=True, backend="aot_eager"),
    ):
        z = scores.clone().requires_grad_()
        value = loss(z, labels, balance="pair")
        upstream.append((value.detach(), torch.autograd.grad(value, z)[0]))
    torch.testing.assert_close(upstream[1], upstream[0], rtol=1e-6, atol=1e-8)
