"""The C++ sums of odds of probability targets against the formula in float64."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from equilog import log_balanced_cross_entropy
from equilog.ops import pooled_class_log_odds
from equilog.ops.native.call import has_kernels
from equilog.ops.soft_odds import native, reference
from equilog.ops.soft_odds.inner_terms import odds_residual

pytestmark = pytest.mark.skipif(not has_kernels(), reason="no C++ compiler here")

INF = torch.inf
BATCH = 10_000
"""More sets than any test has: one pool."""


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def drawn(n: int, classes: int, size: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, targets with zeros and ones among them, and log weights with an ignored set."""
    generator = torch.Generator().manual_seed(n + classes)
    z = size * torch.randn(n, classes, generator=generator)
    target = (2 * torch.randn(n, classes, generator=generator)).softmax(1)
    target = torch.where(target < 0.1 / classes, 0.0, target)
    target[n // 2] = torch.nn.functional.one_hot(torch.tensor(classes // 2), classes)
    log_weight = torch.randn(n, generator=generator)
    if n > 3:
        log_weight[n // 3] = -INF
    return z, target, log_weight


def as_of_the_loss(log_sums: Tensor) -> Tensor:
    """What flows back from log(1 + X) to log X, times anything."""
    return (log_sums.sigmoid() * (torch.rand(log_sums.shape, generator=torch.Generator().manual_seed(0)) - 0.5)).float()


def by_kernel(
    z: Tensor, target: Tensor, log_weight: Tensor, pool: int, upstream: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    z = z.detach().requires_grad_()
    log_sums = pooled_class_log_odds(z, target, log_weight, pool, False)[0]
    assert "NativeLogOddsSums" in type(log_sums.grad_fn).__name__
    upstream = as_of_the_loss(log_sums.detach()) if upstream is None else upstream
    return log_sums.detach(), torch.autograd.grad(log_sums, z, upstream)[0]


def by_formula(
    z: Tensor, target: Tensor, log_weight: Tensor, pool: int, upstream: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    z = z.detach().double().requires_grad_()
    log_sums = reference.log_sums(z, target.double(), log_weight.double(), pool)
    upstream = as_of_the_loss(log_sums.detach().float()) if upstream is None else upstream
    return log_sums.detach(), torch.autograd.grad(log_sums, z, upstream.double())[0]


def assert_same(z: Tensor, target: Tensor, log_weight: Tensor, pool: int, upstream: Tensor | None = None) -> None:
    """Log sums to a few units in the last place; gradients too, but for that of the log sums, which are rounded."""
    found, slope = by_kernel(z, target, log_weight, pool, upstream)
    exact, expected = by_formula(z, target, log_weight, pool, upstream)
    torch.testing.assert_close(found.double(), exact, rtol=3e-7, atol=1e-6)
    finite = exact[exact.isfinite()].abs()
    rounding = 2e-6 + 1e-7 * float(finite.max() if len(finite) else 0.0)
    torch.testing.assert_close(slope.double(), expected, rtol=rounding, atol=rounding * float(expected.abs().max()))


@pytest.mark.parametrize("size", [1.0, 10.0, 50.0, 80.0])
@pytest.mark.parametrize("pool", [BATCH, 1, 16])
@pytest.mark.parametrize("classes", [1, 2, 15, 16, 17, 21, 33, 200])
def test_sums_and_gradient(classes: int, pool: int, size: float) -> None:
    """Rows of every length past a whole vector, a short last pool, and rows that only doubles hold."""
    assert_same(*drawn(70, classes, size), pool)


@pytest.mark.parametrize("rows", [1, 2, 127, 129, 1025])
def test_any_number_of_sets(rows: int) -> None:
    assert_same(*drawn(rows, 10), BATCH)


@pytest.mark.parametrize("pool", [BATCH, 4])
def test_scores_that_no_number_holds_go_by_logarithms(pool: int) -> None:
    z, target, log_weight = drawn(11, 5, 1e4)
    found, slope = by_kernel(z, target, log_weight, pool)
    exact, expected = by_formula(z, target, log_weight, pool)
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=0)
    torch.testing.assert_close(slope.double(), expected, rtol=0, atol=1e-3)  # of logarithms of 1e4 in float32


@settings(max_examples=100, deadline=None, derandomize=True)
@example(rows=[([0.0, 0.0, 6.0], [0.0, 0.0, 1.0], 1.0)], pool=1)  # a product and a difference rounded as one
@given(
    rows=st.lists(
        st.tuples(
            st.lists(st.floats(-90, 90, width=32) | st.just(-INF), min_size=3, max_size=3).filter(
                lambda z: max(z) > -INF
            ),
            st.lists(st.floats(0, 1, width=32, allow_subnormal=False), min_size=3, max_size=3),
            st.floats(-20, 20, width=32) | st.just(-INF),
        ),
        min_size=1,
        max_size=6,
    ),
    pool=st.sampled_from([1, 2, BATCH]),
)
def test_any_row(rows: list[tuple[list[float], list[float], float]], pool: int) -> None:
    z, target, log_weight = (torch.tensor(column) for column in zip(*rows, strict=True))
    assert_same(z, torch.where(z == -INF, 0.0, target), log_weight, pool)


def test_ties_of_the_largest() -> None:
    z = torch.tensor([[3.0, 3.0, -50.0], [3.0, 3.0, 3.0], [1e30, 1e30, 1e30]])
    assert_same(z, torch.tensor([[0.5, 0.25, 0.25]]).expand(3, 3), torch.zeros(3), 1)


@pytest.mark.parametrize("lead", [5.0, 20.0, 60.0, 80.0, 200.0, 500.0])
def test_confident_sets_keep_their_odds(lead: float) -> None:
    """Right ones, whose odds are lost in a difference from 1, and wrong ones, whose odds overflow a float."""
    z = torch.tensor([[lead, 0.0, -1.0], [0.0, lead, 0.5]])
    target = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    assert_same(z, target, torch.zeros(2), 1)
    exact = torch.tensor([0.0, -1.0]).double().logsumexp(0) - lead
    assert by_kernel(z, target, torch.zeros(2), 1)[0][0, 0].item() == pytest.approx(exact.item(), rel=3e-7)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e20])
def test_anything_may_flow_back(size: float) -> None:
    z, target, log_weight = drawn(40, 7, 3.0)
    upstream = size * torch.randn(3, 7, generator=torch.Generator().manual_seed(1))
    assert_same(z, target, log_weight, 16, upstream)


def test_nothing_flows_back_to_nothing() -> None:
    z, target, log_weight = drawn(40, 7, 3.0)
    assert (by_kernel(z, target, log_weight, 16, torch.zeros(3, 7))[1] == 0).all()


def test_a_class_without_a_target_has_no_sum() -> None:
    z, target, log_weight = drawn(9, 5)
    target[:, 3] = 0.0
    found, slope = by_kernel(z, target, log_weight, BATCH, torch.ones(1, 5))
    assert found[0, 3] == -INF
    assert found[0, :3].isfinite().all()
    assert slope.isfinite().all()


@pytest.mark.parametrize("held", [torch.nan, INF, -INF])
def test_what_an_ignored_set_holds_is_not_looked_at(held: float) -> None:
    z, target, log_weight = drawn(9, 5)
    log_weight[4] = -INF
    z[4] = 0.0
    found, slope = by_kernel(z, target, log_weight, 3)
    z[4], target[4] = held, held
    same, same_slope = by_kernel(z, target, log_weight, 3)
    assert found.equal(same)
    assert slope.equal(same_slope)
    assert (slope[4] == 0).all()


def test_a_class_left_out() -> None:
    z, target, log_weight = drawn(9, 5)
    z[:, 2], target[:, 2] = -INF, 0.0
    assert_same(z, target, log_weight, 3)
    found, _ = by_kernel(z, torch.ones(9, 5) / 5, torch.zeros(9), 3)  # a target where there is no score
    assert (found[:, 2] == INF).all()
    assert found[:, :2].isfinite().all()


@pytest.mark.parametrize("bad", [torch.nan, INF])
def test_scores_that_are_no_numbers_show_in_their_pool_alone(bad: float) -> None:
    z, target, log_weight = drawn(9, 5)
    target = target + 0.01
    z[0, 1] = bad
    found, _ = by_kernel(z, target, log_weight, 3, torch.ones(3, 5))
    assert not found[0].isfinite().all()
    torch.testing.assert_close(found[1:], by_kernel(z[3:], target[3:], log_weight[3:], 3)[0], rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("pool", [1, 7, 3000, BATCH])
@pytest.mark.parametrize("classes", [21, 100])
def test_threads_agree(classes: int, pool: int) -> None:
    z, target, log_weight = drawn(7000, classes, 4.0)
    upstream = torch.randn(-(-7000 // pool), classes, generator=torch.Generator().manual_seed(1))
    torch.set_num_threads(1)
    one = by_kernel(z, target, log_weight, pool, upstream)
    torch.set_num_threads(5)
    five, again = (by_kernel(z, target, log_weight, pool, upstream) for _ in range(2))
    for a, b, c in zip(one, five, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
        assert b.equal(c)


def test_layouts_of_the_tables() -> None:
    z, target, log_weight = drawn(30, 20)
    expected = by_kernel(z, target, log_weight, 4)
    wide = [torch.cat([each, each], 1)[:, 20:] for each in (z, target)]
    turned = [each.T.contiguous().T for each in (z, target)]
    every_other = torch.stack([log_weight, log_weight], 1)[:, 0]
    for scores, probs in itertools.product((z, wide[0], turned[0]), (target, wide[1], turned[1])):
        found = by_kernel(scores, probs, every_other, 4)
        assert found[0].equal(expected[0])
        assert found[1].equal(expected[1])


@pytest.mark.parametrize("pool", [BATCH, 1, 16])
@pytest.mark.parametrize("classes", [1, 16, 21, 200])
def test_the_residual_at_the_optimum(classes: int, pool: int) -> None:
    z, target, log_weight = drawn(70, classes)
    _, residual = pooled_class_log_odds(z, target, log_weight, pool, True)
    exact = reference.pooled_sums(odds_residual, target.double(), log_weight.double(), pool)
    torch.testing.assert_close(residual.double(), exact, rtol=1e-6, atol=1e-6)
    beyond = pooled_class_log_odds(1e6 * z, target, log_weight, pool, True)[1]  # where the formula takes over
    torch.testing.assert_close(beyond.double(), exact, rtol=1e-6, atol=1e-6)
    one_hot = torch.eye(classes).repeat(2, 1)
    _, nothing = pooled_class_log_odds(torch.zeros_like(one_hot), one_hot, torch.zeros(2 * classes), pool, True)
    assert (nothing == 0).all()


def test_scores_changed_in_between_are_an_error() -> None:
    z, target, log_weight = drawn(9, 4)
    z.requires_grad_()
    scores = z * 1.0
    log_sums = pooled_class_log_odds(scores, target, log_weight, 4, False)[0]
    with torch.no_grad():
        scores += 1.0
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        log_sums.sum().backward()


@pytest.mark.filterwarnings("ignore:.torch.jit.script(_method)?. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("pool", ["batch", 1, 4])
def test_compiled(pool: str | int) -> None:
    torch.compiler.reset()
    weight = torch.linspace(0, 2, 11)

    def loss(z: Tensor, target: Tensor) -> Tensor:
        return log_balanced_cross_entropy(z, target, pool=pool, sample_weight=weight)

    compiled = torch.compile(loss, backend="aot_eager")
    for size in (1.0, 100.0, 1e4):
        z, target, _ = drawn(11, 5, size)
        found, expected = (each(z.requires_grad_(), target) for each in (compiled, loss))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
        gradients = (torch.autograd.grad(value, z)[0] for value in (found, expected))
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


def test_operators_are_as_they_say() -> None:
    z, target, log_weight = drawn(11, 5)
    forward, backward = torch.ops.equilog.soft_odds_forward.default, torch.ops.equilog.soft_odds_backward.default
    for compensated in (False, True):
        given = z, target, log_weight, 4, compensated
        torch.library.opcheck(forward, given, test_utils=("test_schema", "test_faketensor"))
    log_sums, found, _ = native.soft_odds_forward(z, target, log_weight, 4, False)
    given = z, target, log_weight, log_sums, found, torch.ones_like(log_sums), 4
    torch.library.opcheck(backward, given, test_utils=("test_schema", "test_faketensor"))
