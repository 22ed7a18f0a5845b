"""The kernels of the summed odds against torch's own operations in float64."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from equilog.ops.scores import scores_of
from equilog.ops.soft_odds import reference, triton
from equilog.ops.soft_odds.sums import Sums
from equilog.ops.soft_odds.targets import target_probs
from ops.memory import Largest
from ops.triton_device import DEVICE, close_to, quiet, with_gradient

pytestmark = quiet

INF, NAN = float("inf"), float("nan")
TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def no_remembered_layout() -> Iterator[None]:
    """Since tiles are made smaller here."""
    triton._layout.cache_clear()
    yield
    triton._layout.cache_clear()


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in several blocks."""
    monkeypatch.setattr(triton, "_WHOLE", 4)
    monkeypatch.setattr(triton, "_BLOCK", 8)
    monkeypatch.setattr(triton, "_TILE", 64)


def drawn(n: int, classes: int, dtype: torch.dtype = torch.float64, *, spread: float = 3.0) -> dict[str, Any]:
    """Return sets of all kinds: sure ones, left out ones, with prior and scale, and targets without a class."""
    generator = torch.Generator().manual_seed(1000 * n + classes)
    z = spread * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    target = torch.rand(n, classes, generator=generator, dtype=torch.float64)
    target[:, ::3] = 0.0 if classes > 1 else 1.0
    target /= target.sum(1, keepdim=True).clamp(min=0.1)
    wide = torch.promote_types(dtype, torch.float32)
    log_weight = torch.linspace(-2, 2, n, dtype=wide)
    log_weight[1::5] = -INF
    z[1::5], target[1::5] = NAN, NAN
    shift = torch.linspace(-1, 1, classes, dtype=wide)
    tensors = {"z": z.to(dtype), "target": target.to(dtype), "log_weight": log_weight, "shift": shift}
    return {name: tensor.to(DEVICE) for name, tensor in tensors.items()} | {"scale": 0.5}


def by_kernels(of: dict[str, Any], z: Tensor, asked: Sums) -> tuple[Tensor, Tensor | None]:
    return triton.pooled_class_log_odds(z, of["target"], of["log_weight"], of["shift"], of.get("ids"), asked)


def assert_as_formula(
    of: dict[str, Any], size: int, with_residual: bool = True, inner: str = "odds", smoothing: float = 0.0
) -> None:
    residuals: list[Tensor | None] = []
    asked = Sums(size, with_residual, of["scale"], inner, smoothing)

    def found_for(z: Tensor) -> Tensor:
        log_sums, residual = by_kernels(of, z, asked)
        residuals.append(residual)
        return log_sums

    def by_formula(z: Tensor) -> Tensor:
        shift = None if of["shift"] is None else of["shift"].double()
        probs = target_probs(of["target"], z, smoothing, torch.float64)
        args = probs, of["log_weight"].double(), size, with_residual, inner, of.get("ids")
        log_sums, residual = reference.pooled_class_log_odds(scores_of(z, shift, of["scale"]), *args)
        residuals.append(residual)
        return log_sums

    found, expected = with_gradient(found_for, of["z"]), with_gradient(by_formula, of["z"].double())
    close_to(found, expected, of["z"].dtype)
    if with_residual:
        assert residuals[0] is not None
        torch.testing.assert_close(residuals[0].double(), residuals[1], rtol=4e-6, atol=1e-7)
    else:
        assert residuals == [None, None]


@pytest.mark.parametrize(("n", "classes", "size"), [(3, 1, 3), (12, 21, 5), (70, 7, 70)])
def test_value_and_gradient(n: int, classes: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tiles, so that a pool of 70 sets is cut into chunks."""
    monkeypatch.setattr(triton, "_TILE", 64)
    assert_as_formula(drawn(n, classes), size)


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize(("n", "classes", "size"), [(4, 5, 1), (12, 21, 5), (70, 7, 70)])
def test_rows_in_several_blocks(n: int, classes: int, size: int) -> None:
    assert_as_formula(drawn(n, classes), size)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("inner", ["nll", "power", "divergence"])
def test_other_inner_terms(inner: str, dtype: torch.dtype) -> None:
    """Also of sets that are as good as certain, either way."""
    of = drawn(20, 6, dtype)
    of["z"][0, 1], of["z"][2, 2], of["z"][3, 1] = 60.0, -60.0, 30.0
    assert_as_formula(of, 5, inner != "divergence", inner)


def test_the_divergence_near_its_zero_and_far_from_it() -> None:
    """At p = t, within 1e-9 to 1 of it either way, and where p is as good as 0 or 1 with a target that is not.

    The term is a square of log p - log t, which is rounded by 1e-16.
    """
    steps = torch.tensor([0.0, -1e-9, 1e-6, -1e-3, 0.2, -0.9, 1.1, -3.0, 30.0, -80.0, 700.0]).double()
    target = torch.tensor([[0.5, 0.3, 0.2]]).double().repeat(len(steps), 1)
    z = target.log()
    z[:, 0] += steps
    z, target, log_weight = z.to(DEVICE), target.to(DEVICE), torch.zeros(len(steps)).double().to(DEVICE)
    of = {"target": target, "log_weight": log_weight, "shift": None}
    found = with_gradient(lambda z: by_kernels(of, z, Sums(1, inner="divergence"))[0].exp(), z)
    expected = with_gradient(lambda z: reference.log_sums(z, target, log_weight, 1, "divergence").exp(), z)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-9, atol=1e-22)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-12, atol=1e-15)


INDEXED = [("odds", 0.1, True), ("divergence", 0.0, False), ("power", 0.2, True)]


@pytest.mark.parametrize(("inner", "smoothing", "with_residual"), INDEXED)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_indices_and_smoothing(
    inner: str, smoothing: float, with_residual: bool, dtype: torch.dtype, request: pytest.FixtureRequest
) -> None:
    """Without a table, of indices as of probabilities; what is left out of a set gets no share."""
    of = drawn(20, 6, dtype)
    of["z"][3, 4] = of["z"][8, 1] = of["z"][8, 2] = -INF
    of["target"][3, 4] = of["target"][8, 1] = of["target"][8, 2] = 0.0
    index = of["target"].nan_to_num(0.0).argmax(1)
    assert_as_formula(of | {"target": index}, 5, with_residual, inner, smoothing)
    request.getfixturevalue("in_parts")
    triton._layout.cache_clear()
    assert_as_formula(of | {"target": index}, 5, with_residual, inner, smoothing)
    assert_as_formula(of, 5, with_residual, inner, smoothing)


@pytest.mark.parametrize(("pools", "smoothing"), [(1, 0.0), (5, 0.1)])
def test_pools_by_id(pools: int, smoothing: float, request: pytest.FixtureRequest) -> None:
    """One in several chunks, and some of no sets."""
    of = drawn(80, 6)
    of["ids"] = torch.arange(80, device=DEVICE) * 5 % max(pools - 2, 1)
    assert_as_formula(of, pools, smoothing=smoothing)
    request.getfixturevalue("in_parts")
    triton._layout.cache_clear()
    assert_as_formula(of, pools, smoothing=smoothing)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("with_residual", [False, True])
def test_every_type(dtype: torch.dtype, with_residual: bool, request: pytest.FixtureRequest) -> None:
    assert_as_formula(drawn(30, 9, dtype), 15, with_residual)
    triton._layout.cache_clear()
    request.getfixturevalue("in_parts")
    assert_as_formula(drawn(30, 9, dtype), 15, with_residual)


def test_strides() -> None:
    of = drawn(24, 14, torch.float32) | {"shift": None, "scale": 1.0}
    assert_as_formula(of | {"z": of["z"][:, ::2], "target": of["target"].T.contiguous().T[:, 7:]}, 10)


def test_scores_that_are_sure(request: pytest.FixtureRequest) -> None:
    """Right or wrong by a hundred, two alike at the top, and a class that is left out."""
    for _ in range(2):
        for dtype in (torch.float64, torch.float32):
            of = drawn(12, 6, dtype)
            of["z"][0, 1], of["z"][2, 2], of["z"][3, 1] = 100.0, -100.0, 30.0
            of["z"][4, 1:3] = 20.0
            of["z"][5, 0] = -INF  # of target 0
            assert_as_formula(of, 6 if dtype == torch.float64 else 1)
        request.getfixturevalue("in_parts")
        triton._layout.cache_clear()


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-9), (torch.float32, 5e-3)])
def test_far_scores(dtype: torch.dtype, rtol: float) -> None:
    """Log odds of 1e4 are rounded by 1e-3 in float32, and so are shares in a sum of several."""
    of = drawn(8, 5, dtype, spread=1e4)
    found = with_gradient(lambda z: by_kernels(of | {"shift": None}, z, Sums(4))[0], of["z"])
    exact = of["target"].double(), of["log_weight"].double(), 4
    expected = with_gradient(lambda z: reference.log_sums(z, *exact), of["z"].double())
    shows = expected[0] > -50.0  # what is less has no digits in float32, and is nothing beside 1
    torch.testing.assert_close(found[0].double()[shows], expected[0][shows], rtol=1e-6, atol=1e-6)
    assert found[1].isfinite().all()
    shows = shows.all(1).repeat_interleave(4)
    torch.testing.assert_close(found[1].double()[shows], expected[1][shows], rtol=rtol, atol=rtol)


def test_infinite_odds_are_a_constant_and_nan_stays_in_its_pool() -> None:
    of = drawn(8, 5) | {"shift": None}
    of["z"][0, 1] = -INF  # a target's class
    of["z"][4, 2] = NAN
    value, gradient = with_gradient(lambda z: by_kernels(of, z, Sums(2))[0], of["z"])
    assert value[0, 1] == INF
    assert gradient[:2].isfinite().all()
    assert value.isnan().any(1).tolist() == [False, False, True, False]
    assert gradient[[2, 3, 6, 7]].isfinite().all()


def test_derivatives_of_every_order() -> None:
    of = drawn(2, 3, spread=1.0)
    of["z"] = of["z"].nan_to_num(0.0).requires_grad_()
    asked = Sums(2, scale=of["scale"], smoothing=0.1)
    assert torch.autograd.gradgradcheck(lambda z: by_kernels(of, z, asked)[0].exp(), of["z"])


def test_nothing_of_the_logits_size_is_made_but_the_gradient() -> None:
    of = drawn(64, 100, torch.bfloat16)
    z = of["z"].requires_grad_()
    with Largest(z.nbytes // 2, z, of["target"]) as seen:
        by_kernels(of, z, Sums(64, True))[0].sum().backward()
    assert seen.made == [z.nbytes]


def test_torch_accepts_the_operators() -> None:
    of = drawn(9, 4, torch.float32)
    tensors = *(of[name] for name in ("z", "target", "log_weight", "shift")), None
    asked = Sums(4, True, 0.5, smoothing=0.1)
    operators, checks = torch.ops.equilog, ("test_schema", "test_faketensor")
    torch.library.opcheck(operators.class_log_odds_sums.default, (*tensors, *asked), test_utils=checks)
    log_sums, of_sets, _ = triton.class_log_odds_sums(*tensors, *asked)
    args = *tensors, log_sums, of_sets, torch.ones_like(log_sums), 4, 0.5, "odds", 0.1
    torch.library.opcheck(operators.class_log_odds_sums_gradient.default, args, test_utils=checks)
