"""The C++ sums of pools of labels in float32 against the formula in float64, whatever the logits, targets and pools."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from equilog import multilabel_cross_entropy
from equilog.ops import pooled_label_log_sums
from equilog.ops.label_sums import native, reference
from equilog.ops.native.call import has_kernels
from ops.memory import Largest

pytestmark = [
    pytest.mark.skipif(not has_kernels(), reason="no C++ compiler here"),
    # torch scripts parts of its own compiler, and warns of that.
    pytest.mark.filterwarnings("ignore:.torch.jit.script(_method)?. is deprecated:DeprecationWarning"),
]

KINDS = {"hard": torch.float32, "soft": torch.float32, "int": torch.int64, "bool": torch.bool, "short": torch.int16}
SCALE = 0.75


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn(n: int, kind: str, spread: float, weighted: bool, seed: int = 0) -> tuple[Tensor, Tensor, Tensor | None]:
    """Logits, targets and weights (n,); what has weight 0 holds NaN, or a number that is no target."""
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(n, generator=generator)
    target = torch.rand(n, generator=generator)
    target = target if kind == "soft" else (target < 0.2).to(KINDS[kind])
    if not weighted:
        return logits, target, None
    weight = 3 * torch.rand(n, generator=generator)
    hidden = torch.rand(n, generator=generator) < 0.3
    weight[hidden], logits[hidden] = 0.0, torch.nan
    if target.dtype != torch.bool:
        target[hidden] = torch.nan if target.is_floating_point() else -100
    return logits, target, weight


def check(found: Any, formula: Any, logits: Tensor, *rest: Any) -> None:
    """Compare log sums and the gradient of both with the formula's, in float64 on the same numbers.

    A logit times the scale may be rounded before its exponential is taken: 88 / 2^24 is the most that comes of it.
    """
    exact = [each.double() if isinstance(each, Tensor) and each.is_floating_point() else each for each in rest]
    x = logits.double().requires_grad_()
    expected = formula(x, *exact)
    z = logits.detach().requires_grad_()
    log_sums = found(z, *rest)
    assert "NativeLogSums" in log_sums.grad_fn.name()
    torch.testing.assert_close(log_sums.double(), expected, rtol=1e-6, atol=6e-6)
    upstream = torch.linspace(-1.0, 2.0, expected.numel()).view_as(expected)
    upstream[::3] = 0.0
    (slope,) = torch.autograd.grad(log_sums, z, upstream)
    wanted = [
        torch.autograd.grad(expected, x, upstream.double() * torch.eye(2, dtype=torch.float64)[sign], retain_graph=True)
        for sign in (0, 1)
    ]
    yes, no = (each[0] for each in wanted)
    # Of soft labels the two parts may cancel. What is e^-87 of others, or of 1, is 0.
    assert ((slope - (yes + no)).abs() <= 2e-5 * (yes.abs() + no.abs()) + 1e-22).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("spread", [1.0, 12.0, 20.0, 100.0, 1e4])
@pytest.mark.parametrize(("labels", "size"), [(7 * 19, 19), (7500, 7500), (5000, 999), (45, 16)])
def test_the_formula_in_float64(kind: str, weighted: bool, spread: float, labels: int, size: int) -> None:
    check(native.label_log_sums, reference.label_log_sums, *drawn(labels, kind, spread, weighted), size, SCALE)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 100),
    size=st.integers(1, 100),
    kind=st.sampled_from(sorted(KINDS)),
    spread=st.sampled_from([0.0, 1.0, 12.0, 60.0, 88.0, 100.0, 800.0, 1e4, 1e30]),
    weighted=st.booleans(),
    seed=st.integers(0, 2**30),
)
def test_all_sizes(n: int, size: int, kind: str, spread: float, weighted: bool, seed: int) -> None:
    check(native.label_log_sums, reference.label_log_sums, *drawn(n, kind, spread, weighted, seed), size, 1.0)


def named(rows: int, labels: int, most: int, seed: int = 0) -> Tensor:
    """Positives (rows, most) in order: none in the first row, as many as fit in the second, some in the others."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.full((rows, most), labels)
    for row in range(1, rows):
        chosen = torch.randperm(labels, generator=generator)[:most]
        index[row, : len(chosen)] = chosen
        if row > 1:
            index[row, torch.rand(most, generator=generator) < 0.4] = labels
    return index.sort(1).values


@pytest.mark.parametrize(("labels", "most"), [(1, 1), (5, 5), (16, 3), (17, 17), (40, 0), (3000, 30), (3000, 2500)])
@pytest.mark.parametrize("weighted", ["", "each", "label", "sample"])
@pytest.mark.parametrize("spread", [1.0, 20.0, 1e4])
def test_positives_by_their_numbers(labels: int, most: int, weighted: str, spread: float) -> None:
    rows = 4
    logits, _, weight = drawn(rows * labels, "hard", spread, weighted == "each")
    given: Tensor | None = None
    if weight is not None:
        given = weight.view(rows, labels)
    elif weighted:
        shape = (1, labels) if weighted == "label" else (rows, 1)
        given = torch.rand(shape, generator=torch.Generator().manual_seed(2)).expand(rows, labels)
    index = named(rows, labels, most)
    check(
        native.indexed_label_log_sums, reference.indexed_label_log_sums, logits.view(rows, labels), index, given, SCALE
    )


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data(), rows=st.integers(1, 4), most=st.integers(0, 6), labels=st.integers(1, 5))
def test_positives_are_sorted_and_checked(data: st.DataObject, rows: int, most: int, labels: int) -> None:
    numbers = st.lists(st.integers(-2, labels), min_size=most, max_size=most)
    target = torch.tensor(data.draw(st.lists(numbers, min_size=rows, max_size=rows))).long().view(rows, most)
    index, wrong = native.sorted_positives(target, labels)
    expected, bad = reference.sorted_positives(target, labels)
    assert torch.equal(index, expected)
    assert torch.equal(wrong, bad)


def gradient(log_sums: Tensor, logits: Tensor, upstream: Tensor | None = None) -> Tensor:
    return torch.autograd.grad(log_sums, logits, torch.ones_like(log_sums) if upstream is None else upstream)[0]


def in_pools(logits: Tensor, target: Tensor, size: int) -> Tensor:
    return native.label_log_sums(logits, target, None, size, 1.0)


def test_infinities_and_empty_sums() -> None:
    inf = torch.inf
    logits = torch.tensor([1.0, 2.0, -inf, 0.5, 0.0, 1.0, inf, 0.0, inf, -inf, 3.0, 0.0]).requires_grad_()
    target = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    log_sums = in_pools(logits, target, 2)
    two = torch.tensor([1.0, 2.0]).neg().exp().sum().log().item()
    one = torch.tensor([0.0, 1.0]).exp().sum().log().item()
    expected = torch.tensor([[two, -inf], [-0.5, -inf], [-inf, one], [0.0, -inf], [inf, inf], [-3.0, 0.0]])
    torch.testing.assert_close(log_sums.detach(), expected)
    slope = gradient(log_sums, logits)
    torch.testing.assert_close(slope[:2], -torch.tensor([2.0, 1.0]).softmax(0))
    assert slope[2:4].tolist() == [0.0, -1.0]
    torch.testing.assert_close(slope[4:6], torch.tensor([0.0, 1.0]).softmax(0))
    assert slope[6:8].tolist() == [0.0, -1.0]
    assert slope[10:].tolist() == [-1.0, 1.0]


def test_nan_stays_in_its_pool_and_is_still_where_nothing_flows_back() -> None:
    logits, target, _ = drawn(4 * 33, "hard", 1.0, False)
    logits[40], logits[80] = torch.nan, torch.nan
    logits.requires_grad_()
    log_sums = in_pools(logits, target, 33)
    assert log_sums.isnan().any(1).tolist() == [False, True, True, False]
    slope = gradient(log_sums, logits, torch.tensor([1.0, 1.0, 0.0, 1.0])[:, None].expand(4, 2)).view(4, 33)
    assert slope.isnan().any(1).tolist() == [False, True, False, False]
    assert (slope[2] == 0).all()


def test_shares_so_small_that_floats_lose_them() -> None:
    """A weight of 1e-30 at a logit of -60: e^-129 is nothing to a float, and its log and gradient are not."""
    logits = torch.tensor([-60.0, 50.0]).requires_grad_()
    log_sums = native.label_log_sums(logits, torch.tensor([0, 1]), torch.tensor([1e-30, 1e-20]), 2, 1.0)
    expected = torch.tensor([[-50.0, -60.0]]) + torch.tensor([[1e-20, 1e-30]]).log()
    torch.testing.assert_close(log_sums.detach(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient(log_sums, logits), torch.tensor([1.0, -1.0]), rtol=2e-6, atol=0)


@pytest.mark.parametrize(
    ("labels", "size"), [(300_000, 300_000), (300_000, 100_000), (300_000, 77_777), (300_000, 250)]
)
def test_threads_do_not_show(labels: int, size: int) -> None:
    logits, target, weight = drawn(labels, "soft", 40.0, True)
    logits.requires_grad_()
    found = []
    for threads in (1, 4):
        torch.set_num_threads(threads)
        log_sums = native.label_log_sums(logits, target, weight, size, SCALE)
        found.append((log_sums.detach(), gradient(log_sums, logits)))
    for one, several in zip(*found, strict=True):
        torch.testing.assert_close(one, several, rtol=3e-7, atol=0)


def test_strided_numbers() -> None:
    logits, target, weight = drawn(2 * 90, "soft", 3.0, True)
    assert weight is not None
    strided = (logits[::2], target[::2], weight[::2])
    check(native.label_log_sums, reference.label_log_sums, *strided, 15, SCALE)
    table = logits.view(2, 90).T[:, :2]
    index = torch.tensor([[0, 2]]).expand(90, 2)
    check(native.indexed_label_log_sums, reference.indexed_label_log_sums, table, index, weight.view(2, 90).T, SCALE)


def test_a_changed_logit_is_noticed() -> None:
    logits, target, _ = drawn(20, "hard", 1.0, False)
    given = logits.requires_grad_() * 1.0
    log_sums = in_pools(given, target, 5)
    with torch.no_grad():
        given.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        log_sums.sum().backward()


@pytest.mark.parametrize("kind", ["hard", "int", "bool", "named"])
def test_nothing_as_large_as_the_logits_is_made_but_the_gradient(kind: str) -> None:
    logits, target, _ = drawn(64 * 1000, "hard" if kind == "named" else kind, 1.0, False)
    target = named(64, 1000, 20) % 1000 if kind == "named" else target.view(64, 1000)
    if kind == "named":
        target = torch.arange(64 * 20).view(64, 20) % 997
    table, size = logits.view(64, 1000).requires_grad_(), logits.nbytes
    with Largest(size // 2, table, target) as made:
        multilabel_cross_entropy(table, target).backward()
    assert made.made == [size]


def test_which_calls_go_by_the_kernel() -> None:
    logits, target, weight = drawn(64, "soft", 1.0, True)
    logits.requires_grad_()
    assert weight is not None

    def taken(size: int, z: Tensor = logits, v: Tensor = weight) -> bool:
        return "NativeLogSums" in type(pooled_label_log_sums(z, target, v, size, 1.0).grad_fn).__name__

    assert taken(16)
    assert taken(64)
    assert not taken(4)  # too small to be worth it
    assert not taken(16, z=logits.double())
    assert not taken(16, z=logits.bfloat16())
    assert not taken(16, v=weight.clone().requires_grad_())  # which the kernel has no gradient of


@pytest.mark.slow
@pytest.mark.parametrize("indexed", [False, True])
def test_compiled_is_eager(indexed: bool) -> None:
    rows, labels = 40, 1000
    torch.compiler.reset()
    logits, target, weight = drawn(rows * labels, "bool", 30.0, True)
    assert weight is not None
    table = logits.view(rows, labels).requires_grad_()
    named_target = torch.where(named(rows, labels, 20) < labels, named(rows, labels, 20), -1)
    given = named_target if indexed else target.view(rows, labels)

    def loss(z: Tensor) -> Tensor:
        return multilabel_cross_entropy(z, given, weight=weight.view(rows, labels), reduction="none")

    found, expected = torch.compile(loss, fullgraph=True)(table), loss(table)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    upstream = torch.linspace(0.1, 1.0, rows)
    slopes = [torch.autograd.grad(value, table, upstream)[0] for value in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-6, atol=0)
