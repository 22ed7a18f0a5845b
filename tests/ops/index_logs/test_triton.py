"""The kernels of the summed logs against torch's own operations in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor

from equilog.ops.index_logs import reference, triton
from equilog.ops.units import Units
from ops.memory import Largest
from ops.triton_device import DEVICE, close_to, quiet, with_gradient

pytestmark = quiet

INF, NAN = float("inf"), float("nan")
TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def drawn(n: int, classes: int, dtype: torch.dtype = torch.float64, *, spread: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 * n + classes)
    z = spread * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return z.to(DEVICE, dtype), torch.randint(classes, (n,), generator=generator).to(DEVICE)


def options_of(z: Tensor, which: str) -> list[Any]:
    """The log weight, shift, class weight and scale: none of them, or all."""
    if which == "plain":
        return [None, None, None, 1.0]
    wide = torch.promote_types(z.dtype, torch.float32)
    log_weight = torch.linspace(-2, 2, len(z), dtype=wide, device=DEVICE)
    log_weight[::5] = -INF
    of_class = torch.arange(z.shape[1], device=DEVICE)
    return [log_weight, torch.sin(of_class.to(wide)), (of_class % 4).to(wide), 0.5]


def assert_as_formula(z: Tensor, index: Tensor, size: int, options: list[Any]) -> None:
    log_weight, shift, class_weight, scale = options

    def by_kernels(z: Tensor) -> Tensor:
        return triton.pooled_index_logs(z, index, log_weight, shift, class_weight, size, scale)

    def by_formula(z: Tensor) -> Tensor:
        exact = (None if part is None else part.double() for part in (log_weight, shift, class_weight))
        return reference.pooled_index_logs(z, index, *exact, size, scale)

    found = with_gradient(by_kernels, z)
    assert found[1].dtype == z.dtype
    close_to(found, with_gradient(by_formula, z.double()), z.dtype)


@pytest.mark.parametrize("which", ["plain", "weighted"])
@pytest.mark.parametrize(
    ("classes", "size"), [(2, 1), (21, 2), (6, 5), (21, 16), (3, 64), (3, 65), (90, 65), (21, 200)]
)
def test_value_and_gradient(classes: int, size: int, which: str) -> None:
    """By comparison up to 64 sets a pool, then by class: with few sums by a kernel, with more by torch."""
    z, index = drawn(131 if size > 16 else 37, classes)
    assert_as_formula(z, index, size, options_of(z, which))


@pytest.mark.parametrize("size", [5, 70])
def test_the_mean_divides_by_the_logs_that_hold_something(size: int) -> None:
    """By their weights, where a pool has fewer samples: not by that of a class whose odds are 0, or left out."""
    z, index = drawn(70, 6)
    args = options_of(z, "weighted")
    z[index == 2] = -INF
    z[index == 2, 2] = 0.0
    for units in (Units(2), Units(torch.arange(70 // size, device=DEVICE)), Units(2, 7.0)):
        found = triton.pooled_index_logs(z, index, *args[:3], size, args[3], units)
        torch.testing.assert_close(found, reference.pooled_index_logs(z, index, *args[:3], size, args[3], units))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("size", [3, 40, 70])
def test_every_type(size: int, dtype: torch.dtype) -> None:
    z, index = drawn(70, 5, dtype)
    assert_as_formula(z, index, size, options_of(z, "weighted"))


@pytest.mark.parametrize("size", [4, 80])
def test_strides(size: int) -> None:
    z, index = drawn(80, 14, torch.float32)
    assert_as_formula(z[:, ::2], index // 2, size, options_of(z[:, ::2], "weighted"))
    assert_as_formula(z.T.contiguous().T, torch.stack([index, index], 1)[:, 0], size, options_of(z, "plain"))


@pytest.mark.parametrize("size", [4, 80])
def test_extremes(size: int) -> None:
    """Sets that are sure and wrong, sure and right, with a class left out; NaN where a set is left out."""
    for dtype in (torch.float64, torch.float32):
        z, index = drawn(80, 6, dtype)
        options = options_of(z, "weighted")
        z[1, index[1]], z[2, index[2]] = 1e4, -1e4
        z[3, (index[3] + 1) % 6] = -INF
        z[options[0] == -INF] = NAN
        assert_as_formula(z, index, size, options)


@pytest.mark.parametrize("size", [4, 80])
def test_infinite_odds_are_a_constant(size: int) -> None:
    z, index = drawn(80, 6)
    z[1, index[1]] = -INF
    value, gradient = with_gradient(lambda z: triton.pooled_index_logs(z, index, None, None, None, size, 1.0), z)
    assert value[0] == INF
    assert gradient.isfinite().all()
    assert gradient[1].count_nonzero() == 0


def test_a_wrong_set_makes_its_pool_no_number_and_no_other() -> None:
    z, index = drawn(12, 3)
    log_weight = torch.zeros(12, dtype=torch.float64, device=DEVICE)
    log_weight[5] = NAN
    for size, wrong in ((4, [False, True, False]), (12, [True])):
        assert triton.pooled_index_logs(z, index, log_weight, None, None, size, 1.0).isnan().tolist() == wrong


def test_derivatives_of_every_order() -> None:
    z, index = drawn(3, 3)
    z.requires_grad_()
    args = options_of(z, "weighted")
    assert torch.autograd.gradgradcheck(lambda z: triton.pooled_index_logs(z, index, *args[:3], 2, args[3]), z)


def test_nothing_of_the_logits_size_is_made_but_the_gradient() -> None:
    for size in (16, 80):
        z, index = drawn(80, 200, torch.bfloat16)
        z.requires_grad_()
        with Largest(z.nbytes // 4, z) as seen:
            triton.pooled_index_logs(z, index, None, None, None, size, 1.0).sum().backward()
        assert seen.made == [z.nbytes]


def test_torch_accepts_the_operator() -> None:
    z, index = drawn(9, 3, torch.float32)
    log_weight, shift, class_weight, scale = options_of(z, "weighted")
    args = z, index, log_weight, shift, class_weight, 4, scale, -100
    torch.library.opcheck(torch.ops.equilog.pooled_index_logs_of_scores.default, args)
