"""Logits spread over ranks by class have the value and the gradient of logits in one place."""

import warnings
from typing import Any

import pytest
import torch
from packaging.version import Version
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor, init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, loss_parallel, parallelize_module
from torch.nn import functional as F

from equilog import (
    LogBalancedCrossEntropyLoss,
    class_mass,
    log_balanced_cross_entropy,
    log_balanced_from_cross_entropy,
)
from ranks import run_ranks

N = 12
KEEPS_SHARDS = Version(torch.__version__) >= Version("2.13")
"""Whether gradients of sharded leaves come back sharded: of torch 2.10 they come back whole."""

Result = dict[str, tuple[Tensor, Tensor]]
PRIOR = torch.tensor([4.0, 1.0, 2.0, 3.0, 0.5])

# The first rank has three classes of five, and the only one of one.
CASES: dict[str, dict[str, Any]] = {
    "batch": {},
    "pools": {"pool": 4, "reduction": "none"},
    "pool of one": {"pool": 1},
    "prior": {"prior": PRIOR, "prior_strength": 0.7, "scale": 1.3},
    "weights": {"weight": PRIOR, "sample_weight": torch.arange(N) / 4.0},
    "nll": {"inner": "nll"},
    "no balance": {"balance": "none"},
    "one class": {"classes": 1},
    "positions": {"positions": True},
    "checked": {"validate": True},
    # Gathered: these need more than the odds against one label.
    "pairs": {"balance": "pair"},
    "divergence": {"inner": "divergence", "prior": PRIOR},
    "smoothing": {"label_smoothing": 0.1},
    "probabilities": {"soft": True, "prior": PRIOR},
}


def inputs(options: dict[str, Any]) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Logits of any size (the extreme ones among them), targets with ignored sets, and what is left of the options."""
    options = dict(options)
    classes = options.pop("classes", 5)
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(N, classes, generator=generator, dtype=torch.float64)
    logits[3] *= 300
    target = torch.randint(classes, (N,), generator=generator)
    target[::5] = -100
    logits[0] = torch.nan  # of an ignored set
    if options.pop("soft", False):
        return logits[1:], (2 * torch.randn(N - 1, 5, generator=generator, dtype=torch.float64)).softmax(1), options
    logits[4, (target[4] + 1) % classes] = -torch.inf if classes > 1 else 0.0  # a class that takes no part
    if options.pop("positions", False):
        return logits.reshape(3, 4, 5).movedim(-1, 1), target.reshape(3, 4), options
    return logits, target, options


def value_and_gradient(logits: Tensor, target: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    logits.requires_grad_()
    value = log_balanced_cross_entropy(logits, target, **options)
    value.sum().backward()
    return value.detach(), logits.grad


def whole(logits: Tensor) -> Tensor:
    return logits.full_tensor() if isinstance(logits, DTensor) else logits


def of_a_rank(_: int) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (2,))
    found: dict[str, Any] = {}
    for name, options in CASES.items():
        logits, target, options = inputs(options)
        spread = distribute_tensor(logits, mesh, [Shard(1)])
        value, gradient = value_and_gradient(spread, target, **options)
        assert type(value) is Tensor
        if KEEPS_SHARDS:
            assert gradient.placements == (Shard(1),)
        found[name] = value, gradient.full_tensor()
    logits, target, _ = inputs({})
    copies = value_and_gradient(distribute_tensor(logits, mesh, [Replicate()]), target)
    found["a copy on each rank"] = copies[0], copies[1].full_tensor()
    spread = distribute_tensor(logits, mesh, [Shard(1)])
    with torch.profiler.profile() as profile:
        log_balanced_cross_entropy(spread, target, prior=PRIOR)
    found["exchanges"] = [event.name for event in profile.events() if event.name.startswith("gloo:")]
    found["mass"] = class_mass(spread, target).log_mass
    criterion = LogBalancedCrossEntropyLoss(5, prior="auto", pool="stream")
    spread.requires_grad_()
    found["module"] = torch.stack([criterion(spread, target) for _ in range(2)]).detach()
    found["twice"] = message(lambda: gradient_with_graph(spread, target))
    found["layer"] = layer_gradient(mesh)
    rows = distribute_tensor(logits, mesh, [Shard(0)])
    found["torch's own"] = of_loss_parallel(mesh)
    found["sets spread"] = message(lambda: log_balanced_cross_entropy(rows, target))
    return found


def layer_gradient(mesh: DeviceMesh | None) -> Tensor:
    """The gradient of a linear layer's matrix, its classes spread over the mesh where there is one."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 5, dtype=torch.float64)
    if mesh is not None:
        parallelize_module(layer, mesh, ColwiseParallel(output_layouts=Shard(-1), use_local_output=False))
    hidden = torch.randn(N, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    log_balanced_cross_entropy(layer(hidden), torch.arange(N) % 5).backward()
    return whole(layer.weight.grad)


def of_loss_parallel(mesh: DeviceMesh) -> tuple[Tensor, Tensor]:
    """Value and gradient by torch's own cross-entropy of logits spread over ranks."""
    logits, target, options = inputs({"weight": PRIOR})
    logits[0] = 0.0  # torch gives NaN in an ignored set a gradient
    spread = distribute_tensor(logits, mesh, [Shard(1)]).requires_grad_()
    with loss_parallel():
        losses = F.cross_entropy(spread, target, reduction="none")
        value = log_balanced_from_cross_entropy(losses, target, 5, **options)
        value.backward()
    return value.detach(), spread.grad.full_tensor()


def gradient_with_graph(logits: Tensor, target: Tensor) -> None:
    logits = logits.detach().requires_grad_()
    torch.autograd.grad(log_balanced_cross_entropy(logits, target), logits, create_graph=True)


def message(call: Any) -> str:
    with pytest.raises((RuntimeError, ValueError)) as raised:
        call()
    return str(raised.value)


@pytest.fixture(scope="module")
def of_two_ranks() -> list[dict[str, Any]]:
    return run_ranks(2, of_a_rank)


@pytest.mark.parametrize("name", [*CASES, "a copy on each rank"])
def test_value_and_gradient_are_those_of_logits_in_one_place(name: str, of_two_ranks: list[dict[str, Any]]) -> None:
    logits, target, options = inputs(CASES.get(name, {}))
    value, gradient = value_and_gradient(logits, target, **options)
    for result in of_two_ranks:
        torch.testing.assert_close(result[name][0], value, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(result[name][1], gradient, rtol=1e-10, atol=1e-12)


def test_class_mass_and_module_take_them_too(of_two_ranks: list[dict[str, Any]]) -> None:
    logits, target, _ = inputs({})
    criterion = LogBalancedCrossEntropyLoss(5, prior="auto", pool="stream")
    logits.requires_grad_()
    losses = torch.stack([criterion(logits, target) for _ in range(2)]).detach()
    for result in of_two_ranks:
        torch.testing.assert_close(result["mass"], class_mass(logits, target).log_mass, rtol=1e-12, atol=1e-12)
        assert losses[0] != losses[1]  # the first was counted
        torch.testing.assert_close(result["module"], losses, rtol=1e-12, atol=1e-12)


def test_a_layer_spread_over_ranks_learns_as_in_one_place(of_two_ranks: list[dict[str, Any]]) -> None:
    for result in of_two_ranks:
        torch.testing.assert_close(result["layer"], layer_gradient(None), rtol=1e-10, atol=1e-12)


def test_cross_entropies_of_spread_logits_do_as_well(of_two_ranks: list[dict[str, Any]]) -> None:
    logits, target, options = inputs({"weight": PRIOR})
    value, gradient = value_and_gradient(logits, target, **options)
    for result in of_two_ranks:
        torch.testing.assert_close(result["torch's own"][0], value, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(result["torch's own"][1], gradient, rtol=1e-10, atol=1e-12)


def test_only_sums_are_exchanged(of_two_ranks: list[dict[str, Any]]) -> None:
    """The largest, then the sum with the label's own score; the logits stay where they are."""
    for result in of_two_ranks:
        assert result["exchanges"] == ["gloo:all_reduce", "gloo:all_reduce"]


def test_what_they_cannot_do_is_told(of_two_ranks: list[dict[str, Any]]) -> None:
    for result in of_two_ranks:
        assert "logits.full_tensor()" in result["twice"]
        assert "must be sharded over their classes, Shard(1); got (Shard(dim=0),)" in result["sets spread"]


def of_a_rank_of_a_grid(_: int) -> list[tuple[Tensor, Tensor]]:
    mesh = init_device_mesh("cpu", (2, 2))
    logits, target, _ = inputs({})
    found = []
    for placements in ([Replicate(), Shard(1)], [Shard(1), Replicate()], [Shard(1), Shard(1)]):
        spread = distribute_tensor(logits, mesh, placements)
        value, gradient = value_and_gradient(spread, target, prior=PRIOR, pool=5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # two gathers, where torch would have one
            found.append((value, gradient.full_tensor()))
    return found


@pytest.mark.slow
def test_a_grid_of_ranks_spreads_them_over_either_side_or_both() -> None:
    logits, target, _ = inputs({})
    expected = value_and_gradient(logits, target, prior=PRIOR, pool=5)
    for of_rank in run_ranks(4, of_a_rank_of_a_grid):
        for found in of_rank:
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
