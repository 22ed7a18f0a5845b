"""The losses on a GPU: through the kernels, the same as by the formulas, in the memory of the logits."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from equilog import class_mass, log_balanced_cross_entropy
from equilog.ops import dispatch
from ops.triton_device import DEVICE, quiet

pytestmark = quiet

N, C = 24, 6
NOWHERE = torch.tensor([-100] * N)

Options = dict[str, Any]

CALLS: dict[str, Options] = {
    "batch": {},
    "pools of 5": {"pool": 5},
    "recommended": {"pool": 16, "prior": torch.arange(1, C + 1)},
    "every set": {"pool": 1, "reduction": "none"},
    "ids": {"pool": torch.arange(N) % 3},
    "no balance": {"balance": "none"},
    "pairs": {"balance": "pair"},
    "nll": {"inner": "nll"},
    "divergence": {"inner": "divergence"},
    "everything": {
        "prior": torch.arange(1, C + 1),
        "scale": 0.5,
        "weight": torch.linspace(0.5, 2, C),
        "sample_weight": torch.linspace(0, 2, N),
        "reduction": "sum",
    },
}


@pytest.fixture
def by_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a GPU, also where the interpreter stands for it."""
    monkeypatch.setattr(dispatch, "triton", lambda *tensors: not dispatch.is_transformed(*tensors))
    with dispatch.only("triton"):
        yield


def draws(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return logits and labels with ignored sets, whose logits are NaN."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(N, C, generator=generator, dtype=torch.float64)
    labels = torch.randint(C, (N,), generator=generator)
    labels[::7], logits[::7] = -100, torch.nan
    logits[1, (labels[1] + 1) % C] = -torch.inf
    return logits.to(dtype), labels


def value_and_gradient(loss: Callable[..., Tensor], logits: Tensor, labels: Tensor, options: Options) -> list[Tensor]:
    logits = logits.detach().to(DEVICE).requires_grad_()
    options = {name: value.to(DEVICE) if isinstance(value, Tensor) else value for name, value in options.items()}
    value = loss(logits, labels.to(DEVICE), **options)
    return [value.detach().cpu(), torch.autograd.grad(value.sum(), logits)[0].cpu()]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.usefixtures("by_kernels")
def test_the_loss_is_that_of_the_formulas(name: str, dtype: torch.dtype) -> None:
    """In float64, from the same rounded logits; the gradient to a step of the logits' type."""
    logits, labels = draws(dtype)
    with dispatch.only("reference"):
        expected = value_and_gradient(log_balanced_cross_entropy, logits.double(), labels, CALLS[name])
    value, gradient = value_and_gradient(log_balanced_cross_entropy, logits, labels, CALLS[name])
    wide = dtype == torch.float64
    assert value.dtype == (torch.float64 if wide else torch.float32)
    assert gradient.dtype == dtype
    torch.testing.assert_close(value.double(), expected[0], rtol=1e-12 if wide else 1e-5, atol=0)
    rtol = 1e-11 if wide else max(1e-4, 2 * torch.finfo(dtype).eps)
    torch.testing.assert_close(gradient.double(), expected[1], rtol=rtol, atol=1e-14 if wide else 1e-7)


@pytest.mark.usefixtures("by_kernels")
def test_nothing_but_ignored_sets() -> None:
    logits, _ = draws()
    value, gradient = value_and_gradient(log_balanced_cross_entropy, logits, NOWHERE, {})
    assert value == 0.0
    assert gradient.count_nonzero() == 0


@pytest.mark.usefixtures("by_kernels")
def test_parts_of_a_whole() -> None:
    logits, labels = draws()
    _, expected = value_and_gradient(log_balanced_cross_entropy, logits, labels, {})
    halves = [(logits[:9], labels[:9]), (logits[9:], labels[9:])]
    masses = [class_mass(z.to(DEVICE), t.to(DEVICE)) for z, t in halves]
    whole = masses[0].merge(masses[1])
    found = [value_and_gradient(log_balanced_cross_entropy, z, t, {"class_mass": whole})[1] for z, t in halves]
    torch.testing.assert_close(torch.cat(found), expected, rtol=1e-12, atol=1e-15)


class LargeResults(TorchDispatchMode):
    """Notes the type of every result of N x C numbers or more that is memory of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.dtype] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        taken = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(args) if isinstance(leaf, Tensor)}
        results = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(results):
            own = isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() not in taken
            if own and leaf.is_floating_point() and leaf.numel() >= N * C:  # the interpreter makes bytes
                self.seen.append(leaf.dtype)
        return results


@pytest.mark.usefixtures("by_kernels")
def test_half_precision_logits_are_never_copied() -> None:
    """Nothing of their size is made but their gradient, in their own type."""
    logits, labels = draws(torch.bfloat16)
    logits, labels = logits.to(DEVICE).requires_grad_(), labels.to(DEVICE)
    with LargeResults() as results:
        log_balanced_cross_entropy(logits, labels).backward()
    assert results.seen == [torch.bfloat16]


@pytest.mark.usefixtures("by_kernels")
def test_transformed_calls_take_the_formulas() -> None:
    """vmap, per-sample gradients and batched gradients, of which the kernels know nothing."""
    logits, labels = draws()
    logits, labels = torch.where(logits.isnan(), 0.0, logits).to(DEVICE), labels.to(DEVICE)
    each = vmap(grad(log_balanced_cross_entropy))(logits, labels)
    for row, label, found in zip(logits, labels, each, strict=True):
        torch.testing.assert_close(found, grad(log_balanced_cross_entropy)(row, label), rtol=1e-12, atol=1e-15)
    logits.requires_grad_()
    values = log_balanced_cross_entropy(logits, labels, pool=6, reduction="none")
    rows = torch.autograd.grad(values, logits, torch.eye(4, device=DEVICE).double(), True, is_grads_batched=True)[0]
    for one, found in zip(values, rows, strict=True):
        torch.testing.assert_close(found, torch.autograd.grad(one, logits, retain_graph=True)[0], rtol=1e-12, atol=0)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("by_kernels", "fresh_compiler")
def test_compiles_whole() -> None:
    """One graph, with the kernels as single operations in it."""
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    operations: list[str] = []

    def note(graph: torch.fx.GraphModule, _: list[Any]) -> Callable[..., Any]:
        operations.extend(str(node.target) for node in graph.graph.nodes)
        return make_boxed_func(graph.forward)

    compiled = torch.compile(log_balanced_cross_entropy, fullgraph=True, backend=aot_autograd(fw_compiler=note))
    for size in (N, 11, 17):
        logits, labels = draws()
        found = value_and_gradient(compiled, logits[:size], labels[:size], {})
        expected = value_and_gradient(log_balanced_cross_entropy, logits[:size], labels[:size], {})
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    for operation in ("pooled_index_logs_of_scores", "index_log_odds_gradient"):
        assert f"equilog.{operation}.default" in operations
