"""The kernels of the pairwise terms' sums against torch's own operations in float64."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from equilog.ops.pair_sums import reference, triton, triton_blocks
from ops.memory import Largest
from ops.triton_device import DEVICE, close_to, quiet, with_gradient

pytestmark = quiet

INF, NAN = float("inf"), float("nan")
TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """So that rows are taken in blocks, and common classes in chunks."""
    monkeypatch.setattr(triton, "_BLOCK", 16)
    monkeypatch.setattr(triton, "_TILE", 32)
    monkeypatch.setattr(triton, "_FEWEST_SETS", 5)
    triton.layout_of.cache_clear()
    yield
    triton.layout_of.cache_clear()


def drawn(n: int, classes: int, dtype: torch.dtype = torch.float64, *, spread: float = 3.0) -> dict[str, Any]:
    """Return sets with prior and scale, some left out and holding NaN, most of one class."""
    generator = torch.Generator().manual_seed(1000 * n + classes)
    z = spread * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    index = torch.randint(classes, (n,), generator=generator)
    index[: n // 2] = classes // 2
    wide = torch.promote_types(dtype, torch.float32)
    log_weight = torch.linspace(-2, 2, n, dtype=wide)
    log_weight[1::5], z[1::5] = -INF, NAN
    shift = torch.linspace(-1, 1, classes, dtype=wide)
    tensors = {"z": z.to(dtype), "index": index, "log_weight": log_weight, "shift": shift}
    return {name: tensor.to(DEVICE) for name, tensor in tensors.items()} | {"scale": 0.5}


def assert_as_formula(of: dict[str, Any], size: int) -> None:
    def by_kernels(z: Tensor) -> Tensor:
        args = of["index"], of["log_weight"], size, of["shift"], of["scale"], of.get("ids")
        return triton.pooled_pair_log_sums(z, *args)

    def by_formula(z: Tensor) -> Tensor:
        shift = None if of["shift"] is None else of["shift"].double()
        args = of["index"], of["log_weight"].double(), size, shift, of["scale"], of.get("ids")
        return reference.pooled_pair_log_sums(z, *args)

    close_to(with_gradient(by_kernels, of["z"]), with_gradient(by_formula, of["z"].double()), of["z"].dtype)


@pytest.mark.parametrize(("n", "classes", "size"), [(3, 1, 3), (12, 2, 4), (27, 5, 10), (13, 20, 13)])
def test_value_and_gradient(n: int, classes: int, size: int) -> None:
    assert_as_formula(drawn(n, classes), size)


def test_pools_by_id() -> None:
    """Of which one has no sets."""
    of = drawn(27, 5)
    of["ids"] = (torch.arange(27, device=DEVICE) * 2) % 6
    of["ids"][of["ids"] == 4] = 3
    assert_as_formula(of, 5)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_blocks_of_classes(dtype: torch.dtype) -> None:
    """Of one class, of many, and one without any; with strides and without a prior."""
    block = torch.tensor([0, 2, 2, 0, 1, *[4] * 35], device=DEVICE)
    of = drawn(11, 40, dtype)
    of["z"][0, 5:], of["z"][2, of["index"][2]] = -INF, -INF
    for z, shift in ((of["z"], of["shift"]), (of["z"].T.contiguous().T, None)):
        args = of["index"], of["log_weight"], block, 5, shift, 0.5
        exact = of["index"], of["log_weight"].double(), block, 5, None if shift is None else shift.double(), 0.5
        found = with_gradient(lambda z, a=args: triton_blocks.block_log_terms(z, *a), z)
        expected = with_gradient(lambda z, a=exact: reference.block_log_terms(z, *a), z.double())
        expected[1][2] = 0.0  # of infinite terms nothing is sent back
        close_to(found, expected, dtype)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_type(dtype: torch.dtype) -> None:
    assert_as_formula(drawn(24, 5, dtype), 12)


def test_strides() -> None:
    of = drawn(24, 10, torch.float32)
    index = torch.stack([of["index"] // 2, of["index"]], 1)[:, 0]
    assert_as_formula(of | {"z": of["z"][:, ::2], "index": index, "shift": None}, 10)


def test_scores_that_are_sure_or_far() -> None:
    for dtype in (torch.float64, torch.float32):
        of = drawn(12, 4, dtype) | {"shift": None, "scale": 1.0}
        of["z"][2, 1], of["z"][3, 1], of["z"][4, 2] = 100.0, -100.0, 1e4
        of["z"][5, (of["index"][5] + 1) % 4] = -INF
        assert_as_formula(of, 12)


def test_infinite_terms_are_a_constant_and_nan_stays_in_its_pool() -> None:
    of = drawn(8, 3) | {"shift": None}
    of["z"][0, of["index"][0]] = -INF
    of["z"][4, 0] = NAN
    args = of["index"], of["log_weight"], 2, None, 1.0
    value, gradient = with_gradient(lambda z: triton.pooled_pair_log_sums(z, *args), of["z"])
    assert (value[0] == INF).sum() == 2
    assert gradient[[0, 1, 2, 3, 6, 7]].isfinite().all()
    assert value.isnan().any(1).tolist() == [False, False, True, False]


def test_derivatives_of_every_order() -> None:
    of = drawn(2, 3, spread=1.0)
    of["z"] = of["z"].nan_to_num(0.0).requires_grad_()
    args = of["index"], of["log_weight"], 2, of["shift"], of["scale"]
    # Not minus infinity, of which differences are no number.
    assert torch.autograd.gradgradcheck(lambda z: triton.pooled_pair_log_sums(z, *args).exp(), of["z"], fast_mode=True)
    blocks = of["index"], of["log_weight"], torch.tensor([0, 1, 0], device=DEVICE), 2, of["shift"], of["scale"]
    assert torch.autograd.gradgradcheck(
        lambda z: triton_blocks.block_log_terms(z, *blocks).exp(), of["z"], fast_mode=True
    )


def test_nothing_of_the_logits_size_is_made_but_the_gradient() -> None:
    of = drawn(90, 8, torch.bfloat16)
    of["z"] = of["z"].nan_to_num(0.0)
    z = of["z"].requires_grad_()
    with Largest(z.nbytes, z) as seen:
        triton.pooled_pair_log_sums(z, of["index"], of["log_weight"], 90, None, 1.0).logsumexp(1).sum().backward()
    assert z.nbytes in seen.made
    # Those of a number a set: its slot, and its place in their order.
    assert all(nbytes <= 8 * 91 for nbytes in seen.made if nbytes != z.nbytes)


def test_torch_accepts_the_operators() -> None:
    of = drawn(9, 4, torch.float32)
    tensors, operators = [of[name] for name in ("z", "index", "log_weight", "shift")], torch.ops.equilog
    checks = "test_schema", "test_faketensor"
    torch.library.opcheck(operators.pair_log_sums_of_pools.default, (*tensors, 1, False, 0.5), test_utils=checks)
    log_sums, peaks, totals = triton.pair_log_sums_of_pools(*tensors, 1, False, 0.5)
    args = *tensors, peaks, totals, torch.ones_like(log_sums), 0.5
    torch.library.opcheck(operators.pair_log_sums_gradient.default, args, test_utils=checks)
    block, (z, index, log_weight, shift) = torch.arange(4, device=DEVICE) % 2, tensors
    args = z, index, log_weight, block, shift, 2, 0.5
    torch.library.opcheck(operators.log_terms_of_blocks.default, args, test_utils=checks)
    terms = triton_blocks.log_terms_of_blocks(*args)
    args = z, index, log_weight, block, shift, terms, torch.ones_like(terms), 0.5
    torch.library.opcheck(operators.log_terms_of_blocks_gradient.default, args, test_utils=checks)
