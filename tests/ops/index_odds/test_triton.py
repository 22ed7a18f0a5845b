"""The kernels of the log odds against torch's own operations in float64."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from equilog.ops.index_odds import chunked, triton
from equilog.ops.index_odds.reference import index_log_odds as composite
from equilog.ops.index_odds.triton import index_log_odds
from ops.triton_device import DEVICE, quiet

pytestmark = quiet

TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
INF, NAN = float("inf"), float("nan")


@pytest.fixture(autouse=True)
def no_remembered_layout() -> Iterator[None]:
    """Since blocks are made smaller here."""
    triton._layout.cache_clear()
    yield
    triton._layout.cache_clear()


def scores(n: int, classes: int, dtype: torch.dtype = torch.float64, *, spread: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 * n + classes)
    z = spread * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    index = torch.randint(classes, (n,), generator=generator)
    return z.to(DEVICE, dtype), index.to(DEVICE)


def with_gradient(loss: Callable[[Tensor, Tensor], Tensor], z: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values and, for an upstream gradient from 0.5 to 1.5, the gradient."""
    z = z.detach().requires_grad_()
    value = loss(z, index)
    upstream = torch.linspace(0.5, 1.5, len(value), dtype=torch.float64, device=z.device)
    (gradient,) = torch.autograd.grad(value, z, upstream.to(value.dtype))
    return value.detach(), gradient


def assert_as_composite(z: Tensor, index: Tensor) -> None:
    """Compare with float64, from the same rounded scores.

    float32 sums n terms of relative error 6e-8 each, and rounds log odds up to 100 by 4e-6. A gradient is rounded to
    the type of the scores, up or down: the interpreter cuts bfloat16 off where a GPU rounds to nearest.
    """
    value, gradient = with_gradient(index_log_odds, z, index)
    expected, slope = with_gradient(lambda z, index: chunked.index_log_odds(z, index, None, 1.0), z.double(), index)
    assert value.dtype == (torch.float64 if z.dtype == torch.float64 else torch.float32)
    assert gradient.dtype == z.dtype
    rtol = 1e-13 if z.dtype == torch.float64 else 1e-6
    torch.testing.assert_close(value.double(), expected, rtol=rtol, atol=rtol, equal_nan=True)
    step, least = torch.finfo(z.dtype).eps, torch.finfo(z.dtype).smallest_normal * torch.finfo(z.dtype).eps
    rtol = max(step, 20 * rtol if z.dtype == torch.float64 else 2e-6)
    torch.testing.assert_close(gradient.double(), slope, rtol=rtol, atol=max(least, 1e-300), equal_nan=True)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("classes", [1, 2, 7, 8, 9, 21, 31, 32, 33, 101])
def test_value_and_gradient(classes: int, dtype: torch.dtype) -> None:
    assert_as_composite(*scores(70, classes, dtype))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("classes", [1, 21, 53])
def test_shift_and_scale_are_applied_as_scores_are_read(
    classes: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton, "_LARGEST_BLOCK", 32)
    z, index = scores(20, classes, dtype)
    shift = torch.linspace(-2, 2, classes, device=DEVICE, dtype=torch.promote_types(dtype, torch.float32))

    def exact(z: Tensor, index: Tensor) -> Tensor:
        return chunked.index_log_odds(z.double(), index, shift.double(), 0.75)

    def by_kernel(z: Tensor, index: Tensor) -> Tensor:
        return index_log_odds(z, index, shift, 0.75)

    (value, gradient), (expected, slope) = with_gradient(by_kernel, z, index), with_gradient(exact, z, index)
    assert gradient.dtype == dtype
    rtol = 1e-13 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(value.double(), expected, rtol=rtol, atol=rtol)
    torch.testing.assert_close(gradient, slope, rtol=max(20 * rtol, torch.finfo(dtype).eps), atol=1e-7)


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 129])
def test_any_number_of_sets(n: int) -> None:
    """Also where the last program is given fewer than the others."""
    assert_as_composite(*scores(n, 21, torch.float32))


@pytest.mark.parametrize("classes", [15, 16, 17, 53])
def test_blocks_of_several_sets(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "_LARGEST_BLOCK", 16)
    for dtype in TYPES:
        assert_as_composite(*scores(5, classes, dtype))


@pytest.mark.parametrize("past", [-1, 0, 1, 2 * triton._LARGEST_BLOCK + 5])
def test_blocks_of_many_classes(past: int) -> None:
    for dtype in (torch.float64, torch.bfloat16):
        assert_as_composite(*scores(3, triton._LARGEST_BLOCK + past, dtype))


def test_largest_score_in_any_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was summed up before a larger score came is scaled down, to nothing if need be."""
    monkeypatch.setattr(triton, "_LARGEST_BLOCK", 4)
    z = torch.randn(12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(DEVICE)
    index = torch.arange(12, device=DEVICE).flip(0)
    for height in (5.0, 50.0, 5000.0):
        assert_as_composite(z + height * torch.eye(12, device=DEVICE), index)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_odds_near_zero_keep_their_digits(dtype: torch.dtype) -> None:
    """From probabilities they would be 0 beyond 17 in float32."""
    z, index = scores(9, 40, dtype, spread=1.0)
    z[torch.arange(9), index] = torch.linspace(10, 90, 9).to(z)
    assert_as_composite(z, index)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_huge_scores(dtype: torch.dtype) -> None:
    largest = 65504.0 if dtype == torch.float16 else 1e4
    z, index = scores(6, 5, dtype)
    z[0], z[1] = largest, -largest
    z[2, index[2]], z[3, index[3]] = largest, -largest
    z[4, (index[4] + 1) % 5], z[5, (index[5] + 1) % 5] = largest, -largest
    assert_as_composite(z, index)


@pytest.mark.parametrize("block", [4, 8192])
def test_infinities_and_nan(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class at minus infinity is left out; at plus infinity, or NaN, the set goes torch's way and no other does."""
    monkeypatch.setattr(triton, "_LARGEST_BLOCK", block)
    for dtype in TYPES:
        for place in (0, 3, 9):
            z, index = scores(9, 10, dtype)
            z[0, place] = -INF
            z[1, place], index[1] = -INF, place
            z[2], index[2] = -INF, place
            z[3, :], z[3, place], index[3] = -INF, 1.0, place  # no class but the index
            z[4, place] = NAN
            z[5, place], index[5] = NAN, place
            z[6, place], index[6] = INF, (place + 1) % 10
            z[7, place], index[7] = INF, place
            assert_as_composite(z, index)


def test_index_out_of_range_is_nan_and_reads_nothing() -> None:
    z, index = scores(7, 4)
    expected, slope = with_gradient(composite, z, index)
    wrong = index.clone()
    wrong[1:6] = torch.tensor([-1, 4, -100, 2**40 + 1, 2**32])
    value, gradient = with_gradient(index_log_odds, z, wrong)
    assert value[1:6].isnan().all()
    assert gradient[1:6].isnan().all()
    torch.testing.assert_close(value[[0, 6]], expected[[0, 6]], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(gradient[[0, 6]], slope[[0, 6]], rtol=1e-13, atol=1e-15)


def test_nothing_flows_back_into_a_set_that_does_not_count() -> None:
    """Its gradient is 0 though its scores are NaN or its index out of range."""
    z, index = scores(4, 6)
    z[1], index[2] = NAN, -100
    z.requires_grad_()
    kept = torch.tensor([True, False, False, True], device=DEVICE)
    torch.where(kept, index_log_odds(z, index), 0.0).sum().backward()
    assert z.grad is not None
    assert z.grad[1:3].count_nonzero() == 0
    assert z.grad[[0, 3]].count_nonzero(1).tolist() == [6, 6]


def test_any_strides() -> None:
    z, index = scores(40, 42, torch.float32)
    for view, chosen in (
        (z[:, ::2], index // 2),
        (z[:, 3:], (index - 3).clamp(min=0)),
        (z[::3, 1:40], index[::3].clamp(1, 39) - 1),
        (z.T, torch.arange(42, device=DEVICE) % 40),
        (z[:1].expand(40, 42), index),
        (z, index[:1].expand(40)),
        (z, torch.stack([index, index], 1)[:, 0]),
    ):
        assert_as_composite(view, chosen)


@pytest.mark.parametrize("strides", [(2**31 + 8, 1), (1, 2**30 + 4)])
def test_offsets_beyond_32_bits(strides: tuple[int, int]) -> None:
    """In memory of which all but two pages are only promised."""
    shape = (2, 3)
    reach = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    try:
        memory = torch.empty(reach, dtype=torch.float16, device=DEVICE)
    except RuntimeError as error:
        pytest.skip(f"no {2 * reach / 2**30:.0f} GiB of address space: {error}")
    z = memory.as_strided(shape, strides)
    near, index = scores(*shape, torch.float16)
    z.copy_(near)
    torch.testing.assert_close(index_log_odds(z, index), index_log_odds(near, index))
    expected = with_gradient(index_log_odds, near, index)[1]
    results = triton.index_log_odds_of_scores(z, index, None, 1.0)
    upstream = torch.tensor([0.5, 1.5], device=DEVICE)
    found = triton.index_log_odds_gradient(z, index, None, *results[1:], upstream, None, 1, 1.0)
    torch.testing.assert_close(found, expected)


def test_the_same_upstream_gradient_for_all_sets() -> None:
    """As from a sum, where it is one number read many times."""
    z, index = scores(70, 21)
    slopes = []
    for loss in (index_log_odds, composite):
        leaf = z.clone().requires_grad_()
        loss(leaf, index).sum().backward()
        slopes.append(leaf.grad)
    torch.testing.assert_close(*slopes, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_scores_are_left_as_they_are(dtype: torch.dtype) -> None:
    """The gradient is new memory, so that autograd's check of versions stays true in both directions."""
    z, index = scores(5, 4, dtype)
    z.requires_grad_()
    before, version = z.detach().clone(), z._version
    value = index_log_odds(z, index)
    first, second = (torch.autograd.grad(value.sum(), z, retain_graph=True)[0] for _ in range(2))
    assert z._version == version
    assert torch.equal(z.detach(), before)
    assert torch.equal(first, second)
    with torch.no_grad():
        z.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.sum().backward()


def test_derivatives_of_every_order() -> None:
    z, index = scores(3, 4)
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: index_log_odds(z, index), z)
    assert torch.autograd.gradgradcheck(lambda z: index_log_odds(z, index), z)
    third = []
    for loss in (index_log_odds, composite):
        value = loss(z, index).exp().sum()
        for _ in range(3):
            value = torch.autograd.grad(value, z, create_graph=True)[0].square().sum()
        third.append(value.detach())
    torch.testing.assert_close(*third, rtol=1e-10, atol=0)


def test_second_derivatives_of_half_precision_in_its_type() -> None:
    z, index = scores(3, 4, torch.bfloat16)
    z.requires_grad_()
    (gradient,) = torch.autograd.grad(index_log_odds(z, index).sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(gradient.float().square().sum(), z)
    assert second.dtype == torch.bfloat16
    assert second.isfinite().all()


def test_torch_accepts_both_operators() -> None:
    """Schema, fake tensors and tracing, as torch's own check has it."""
    z, index = scores(3, 5, torch.float32)
    shift, operators = torch.linspace(-1, 1, 5).to(z), torch.ops.equilog
    torch.library.opcheck(operators.index_log_odds_of_scores.default, (z, index, shift, 0.5))
    _, peaks, totals = triton.index_log_odds_of_scores(z, index, shift, 0.5)
    upstream = torch.ones(3, device=DEVICE)
    args = z, index, shift, peaks, totals, upstream, None, 1, 0.5
    torch.library.opcheck(operators.index_log_odds_gradient.default, args)


def test_compiles_without_a_break() -> None:
    torch.compiler.reset()
    compiled = torch.compile(index_log_odds, fullgraph=True, backend="aot_eager")
    for n in (5, 6, 9):
        z, index = scores(n, 7)
        for found, expected in zip(with_gradient(compiled, z, index), with_gradient(composite, z, index), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
