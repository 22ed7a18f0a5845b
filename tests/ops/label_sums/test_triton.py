"""The kernels of labels' sums against torch's own operations in float64."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from equilog.ops import TERMS, LabelSums, log_one_plus, pooled_label_residual
from equilog.ops.label_sums import reference, triton
from ops.memory import Largest
from ops.triton_device import DEVICE, close_to, quiet, with_gradient

pytestmark = quiet

INF, NAN = float("inf"), float("nan")
TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """So that pools are taken in blocks and chunks, and several at a time."""
    monkeypatch.setattr(triton, "_BLOCK", 16)
    monkeypatch.setattr(triton, "_TILE", 32)
    triton._layout.cache_clear()
    yield
    triton._layout.cache_clear()


def drawn(n: int, labels: int, dtype: torch.dtype = torch.float64, *, spread: float = 3.0) -> tuple[Tensor, Tensor]:
    """Return logits (n, labels) and a weight for each, some of them left out and holding NaN."""
    generator = torch.Generator().manual_seed(1000 * n + labels)
    z = spread * torch.randn(n, labels, generator=generator, dtype=torch.float64)
    wide = torch.promote_types(dtype, torch.float32)
    weight = torch.rand(n, labels, generator=generator, dtype=torch.float64).to(wide) + 0.5
    weight.view(-1)[1::7] = 0.0
    z.view(-1)[1::7] = NAN
    return z.to(DEVICE, dtype), weight.to(DEVICE)


def shown(z: Tensor) -> Tensor:
    return z.nan_to_num(0.5)


def targets(n: int, kind: str) -> Tensor:
    share = torch.rand(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    target = {"float": share, "half": share.half(), "bool": share < 0.3, "int64": (share < 0.3).long()}[kind]
    return target.to(DEVICE)


def positives(n: int, labels: int) -> Tensor:
    """Up to five of each sample in order, none in every third."""
    order = torch.rand(n, labels, generator=torch.Generator().manual_seed(n)).argsort(1)[:, : min(5, labels)]
    order[::3] = labels
    order[1::3, 1:] = labels
    return order.sort(1).values.to(DEVICE)


def assert_as_formula(z: Tensor, target: Tensor, weight: Tensor | None, size: int, inner: str = "odds") -> None:
    assert_terms_as_formula(z, target, weight, LabelSums(size, 0.5, inner))


def assert_terms_as_formula(
    z: Tensor,
    target: Tensor,
    weight: Tensor | None,
    asked: LabelSums,
    shift: Tensor | None = None,
    ids: Tensor | None = None,
) -> None:
    def by_formula(z: Tensor) -> Tensor:
        exact = [None if factor is None else factor.double() for factor in (weight, shift)]
        return triton.TritonLogSums.formula(z, target, *exact, ids, *asked)

    found = with_gradient(lambda z: triton.label_terms_sums(z, target, weight, shift, ids, asked)[0], z)
    close_to(found, with_gradient(by_formula, z.double()), z.dtype)


@pytest.mark.parametrize("kind", ["float", "half", "bool", "int64"])
@pytest.mark.parametrize("size", [1, 5, 16, 21, 90])
def test_value_and_gradient(size: int, kind: str) -> None:
    """A short last pool, pools of one block, of several, and cut into chunks."""
    z, weight = drawn(2, 45)
    z, weight, target = z.view(-1), weight.view(-1), targets(90, kind)
    if kind in ("bool", "float"):
        assert_as_formula(z, target, weight, size)
    else:
        assert_as_formula(shown(z), target, None, size)


@pytest.mark.parametrize(("pool", "kind"), [(5, "half"), (21, "int64"), (90, "float"), ("ids", "float")])
@pytest.mark.parametrize("inner", TERMS)
def test_every_inner_term(inner: str, pool: int | str, kind: str) -> None:
    """With what the best scores leave of it; of pools in a row, of which some have every label left out, and by ids of
    which one has no label and one many.
    """
    if inner == "odds" and pool != "ids":
        return  # as above
    z, weight = drawn(2, 45)
    z, weight, target = z.view(-1), weight.view(-1), targets(90, kind)
    z[20:45], weight[20:45] = NAN, 0.0
    if kind == "float":
        target[::5], target[1::5], target[0] = 0.0, 1.0, NAN
        weight[0] = 0.0
    size = 5 if pool == "ids" else int(pool)
    ids = (torch.arange(90, device=DEVICE) % 7 - 3).clamp(min=0) if pool == "ids" else None
    asked = LabelSums(size, 0.5, inner, with_residual=True)
    assert_terms_as_formula(z, target, weight, asked, ids=ids)
    _, residual = triton.label_terms_sums(z, target, weight, None, ids, asked)
    expected = pooled_label_residual(z, target, weight, inner, size, ids)
    torch.testing.assert_close(residual, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("inner", ["odds", "nll"])
def test_shifted_logits(inner: str) -> None:
    """By their labels' numbers, in pools in a row, side by side, by id, and with positions; in every type."""
    for dtype in (torch.float64, torch.bfloat16):
        z, weight = drawn(6, 20, dtype)
        z, weight, target = z.view(-1), weight.view(-1), targets(120, "float")
        shift = torch.linspace(-1, 1, 20, device=DEVICE, dtype=weight.dtype)
        ids = torch.arange(120, device=DEVICE) % 7
        assert_terms_as_formula(z, target, weight, LabelSums(50, 0.5, inner), shift)
        assert_terms_as_formula(z, target, weight, LabelSums(40, 0.5, inner, span=3), shift)
        assert_terms_as_formula(z, target, weight, LabelSums(7, 0.5, inner), shift, ids)
        for added in (shift, None):
            assert_terms_as_formula(z, target, weight, LabelSums(6, 0.5, inner, span=6, columns=20), added)
        if inner == "odds":
            assert_terms_as_formula(z.view(6, 20), positives(6, 20), weight.view(6, 20), LabelSums(20, 0.5), shift)


def test_pools_side_by_side() -> None:
    """Longer than a block, cut into chunks, and with strides."""
    z, weight = drawn(100, 6, torch.float32)
    z, weight, target = z.view(-1), weight.view(-1), targets(600, "float")
    assert_terms_as_formula(z, target, weight, LabelSums(100, 0.5, columns=6))
    assert_terms_as_formula(shown(z)[::2], target[::2], None, LabelSums(100, 0.5, "power", columns=3))


@pytest.mark.parametrize("labels", [1, 16, 33, 70])
def test_named_positives(labels: int) -> None:
    z, weight = drawn(4, labels)
    assert_as_formula(z, positives(4, labels), weight, labels)
    assert_as_formula(shown(z), positives(4, labels), None, labels)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_type(dtype: torch.dtype) -> None:
    z, weight = drawn(3, 40, dtype)
    assert_as_formula(z, positives(3, 40), weight, 40)
    assert_as_formula(z.view(-1), targets(120, "bool"), weight.view(-1), 40)
    for inner in ("nll", "power", "divergence"):
        assert_as_formula(z.view(-1), targets(120, "float").to(dtype), weight.view(-1), 40, inner)


def test_strides() -> None:
    z, weight = drawn(6, 20, torch.float32)
    z = shown(z)
    for labels, factors in ((z[::2, ::2], weight[:1, ::2].expand(3, 10)), (z[:, ::2].T, weight[:, :1].T.expand(10, 6))):
        assert_as_formula(labels, positives(*labels.shape), factors, labels.shape[1])
    assert_as_formula(z.view(-1)[::2], targets(120, "bool")[::2], weight.view(-1)[:1].expand(60), 20)


def test_far_logits() -> None:
    """Both sums keep their digits beyond what an exponential holds; a label at infinity counts where it is right."""
    for dtype in (torch.float64, torch.float32):
        z = torch.tensor([1e4, -1e4, 300.0, -200.0, 0.0, INF, -INF, 5e3], dtype=dtype, device=DEVICE)
        target = torch.tensor([0, 1, 1, 0, 0, 1, 0, 1], device=DEVICE)
        found = with_gradient(lambda z, t=target: triton.label_log_sums(z, t, None, 4, 1.0), z)
        expected = with_gradient(lambda z, t=target: reference.label_log_sums(z, t, None, 4, 1.0), z.double())
        torch.testing.assert_close(found[0].double(), expected[0], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found[1].double(), expected[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("inner", ["nll", "power", "divergence"])
def test_other_terms_of_far_logits(inner: str) -> None:
    """Of hard and of soft labels, right and wrong, in the log that a pool has: that of nothing is some small number."""
    asked = LabelSums(1, 1.0, inner)
    for dtype in (torch.float64, torch.float32):
        z = torch.tensor([1e4, -1e4, 60.0, -60.0, 1e-3, -30.0, -1e4, 1e4], dtype=dtype, device=DEVICE)
        for target in (torch.tensor([0, 1, 1, 0, 0, 1, 0, 1]), torch.tensor([0.5, 0.1, 0.0, 1.0, 0.5, 0.9, 0.2, 0.7])):
            args = target.to(DEVICE), None, None, None
            found = with_gradient(lambda z, a=args: log_one_plus(triton.label_terms_sums(z, *a, asked)[0]), z)
            expected = with_gradient(
                lambda z, a=args: log_one_plus(triton.TritonLogSums.formula(z, *a, *asked)), z.double()
            )
            torch.testing.assert_close(found[0].double(), expected[0], rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(found[1].double(), expected[1], rtol=1e-5, atol=1e-7)


def test_infinite_sums_are_a_constant_and_nan_stays_in_its_pool() -> None:
    z = torch.tensor([INF, 0.0, 1.0, NAN, 0.0, 1.0], dtype=torch.float64, device=DEVICE)
    target = torch.tensor([0, 1, 0, 1, 0, 1], device=DEVICE)
    value, gradient = with_gradient(lambda z: triton.label_log_sums(z, target, None, 2, 1.0), z)
    assert value[0, 1] == INF
    assert gradient[[0, 1, 4, 5]].isfinite().all()
    assert value.isnan().tolist() == [[False, False], [True, False], [False, False]]


def test_derivatives_of_every_order() -> None:
    z, weight = drawn(2, 3, spread=1.0)
    z = shown(z).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda z: triton.label_log_sums(z, positives(2, 3), weight, 3, 0.5), z)
    flat, target, ids = z.detach().view(-1).requires_grad_(), targets(6, "float"), torch.arange(6, device=DEVICE) % 2
    for where in (None, ids):
        args = target, weight.view(-1), target[:3], where, LabelSums(2, 0.5, "power")
        assert torch.autograd.gradgradcheck(lambda z, args=args: triton.label_terms_sums(z, *args)[0], flat)


def test_nothing_of_the_logits_size_is_made_but_the_gradient() -> None:
    z, _ = drawn(4, 200, torch.bfloat16)
    z, target = shown(z).requires_grad_(), positives(4, 200)
    with Largest(z.nbytes // 2, z, target) as seen:
        triton.label_log_sums(z, target, None, 200, 1.0).sum().backward()
    assert seen.made == [z.nbytes]


def test_torch_accepts_the_operators() -> None:
    z, weight = drawn(3, 20, torch.float32)
    named = (z, positives(3, 20), weight, weight[0], None, *LabelSums(20, 0.5))
    ids, asked = torch.arange(60, device=DEVICE) % 4, LabelSums(4, 0.5, "nll", with_residual=True)
    by_id = (z.view(-1), targets(60, "float"), weight.view(-1), None, ids, *asked)
    operators, checks = torch.ops.equilog, ("test_schema", "test_faketensor")
    for args in (named, by_id):
        torch.library.opcheck(operators.label_log_sums_of_pools.default, args, test_utils=checks)
        log_sums, of_pools, bits, _ = triton.label_log_sums_of_pools(*args)
        z, target, weight, shift, ids, *constants, _ = args
        args = z, target, bits, weight, shift, ids, of_pools, torch.ones_like(log_sums), *constants
        torch.library.opcheck(operators.label_log_sums_gradient.default, args, test_utils=checks)
