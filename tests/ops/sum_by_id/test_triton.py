"""The kernel of the log sums by id against torch's own operations in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from equilog.ops.sum_by_id import triton
from equilog.ops.sum_by_id.reference import log_sum_exp_by as composite
from equilog.ops.sum_by_id.triton import log_sum_exp_by
from ops.triton_device import DEVICE, quiet

pytestmark = quiet

INF, NAN = float("inf"), float("nan")


def draws(n: int, count: int, *, spread: float = 5.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 * n + count)
    values = spread * torch.randn(n, generator=generator, dtype=torch.float64)
    return values.to(DEVICE), torch.randint(count, (n,), generator=generator).to(DEVICE)


def with_gradient(
    sums: Callable[[Tensor, Tensor, int], Tensor], values: Tensor, ids: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    values = values.detach().requires_grad_()
    found = sums(values, ids, count)
    upstream = torch.linspace(0.5, 1.5, count, dtype=found.dtype, device=found.device)
    return found.detach(), torch.autograd.grad(found, values, upstream)[0]


def assert_as_composite(values: Tensor, ids: Tensor, count: int) -> None:
    """Up to the rounding of sums in another order, and of a sum that is as large as its largest term."""
    found = with_gradient(log_sum_exp_by, values, ids, count)
    expected = with_gradient(composite, values.double(), ids, count)
    rtol = 1e-13 if values.dtype == torch.float64 else 1e-6
    assert found[0].dtype == found[1].dtype == values.dtype
    torch.testing.assert_close(found[0].double(), expected[0], rtol=rtol, atol=rtol, equal_nan=True)
    torch.testing.assert_close(found[1].double(), expected[1], rtol=10 * rtol, atol=1e-37, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 21, 128])
def test_value_and_gradient(count: int, dtype: torch.dtype) -> None:
    values, ids = draws(300, count)
    assert_as_composite(values.to(dtype), ids, count)


@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 64, 95])
def test_values_spread_over_programs(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two programs of 8 values at a time, each with more than one turn."""
    monkeypatch.setattr(triton, "_PROGRAMS", 2)
    monkeypatch.setattr(triton, "_TILE", 128)
    assert_as_composite(*draws(n, 3), 3)


def test_sums_far_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that has nothing of an id, or next to nothing, leaves the others' digits alone."""
    monkeypatch.setattr(triton, "_TILE", 64)
    values, ids = draws(40, 3)
    for shift in (-1e4, -300.0, 300.0, 1e4):
        assert_as_composite(values + shift, ids, 3)
        assert_as_composite(values + shift * torch.arange(40, device=DEVICE), ids, 3)


@pytest.mark.parametrize("tile", [64, 4096])
def test_infinities_and_nan(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is minus infinity, with gradient 0; what one id holds reaches no other."""
    monkeypatch.setattr(triton, "_TILE", tile)
    values, ids = draws(40, 7)
    ids[ids == 5] = 0
    values[ids == 1] = -INF
    values[(ids == 2).nonzero()[0]] = -INF
    values[(ids == 3).nonzero()[0]] = NAN
    values[(ids == 4).nonzero()[-1]] = INF
    for dtype in (torch.float64, torch.float32):
        assert_as_composite(values.to(dtype), ids, 7)


def test_any_strides() -> None:
    values, ids = draws(60, 5)
    assert_as_composite(values[::2], ids[::2], 5)
    assert_as_composite(values, ids[:1].expand(60), 5)


def test_derivatives_of_every_order() -> None:
    values, ids = draws(9, 3, spread=1.0)
    values.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: log_sum_exp_by(v, ids, 4)[:3], values)
    assert torch.autograd.gradgradcheck(lambda v: log_sum_exp_by(v, ids, 4)[:3], values)


def test_torch_accepts_the_operator() -> None:
    values, ids = draws(20, 3)
    torch.library.opcheck(torch.ops.equilog.log_sum_exp_by_few.default, (values, ids, 3))


def test_compiles_without_a_break() -> None:
    torch.compiler.reset()
    compiled = torch.compile(log_sum_exp_by, fullgraph=True, backend="aot_eager")
    for n in (20, 31, 45):
        for found, expected in zip(
            with_gradient(compiled, *draws(n, 3), 3), with_gradient(composite, *draws(n, 3), 3), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
