"""Derivatives of every order and mode, under torch.func and torch.compile."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jvp, vmap

from contract.cases import Case, Inputs, cases
from equilog import LogBalancedCrossEntropyLoss, log_balanced_cross_entropy, multilabel_cross_entropy
from equilog.core.inner import INNERS

# torch scripts parts of its own derivatives and compiler, and warns of it.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script(_method)?. is deprecated:DeprecationWarning")


@pytest.mark.parametrize("case", cases())
def test_derivatives_backward_and_forward(case: Case) -> None:
    inputs = case.inputs()
    logits = inputs.logits.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: case.loss(inputs.with_logits(z), reduction="none"), logits, check_forward_ad=True, fast_mode=True
    )


@pytest.mark.parametrize("case", cases())
def test_second_derivatives(case: Case) -> None:
    """Also where a class has no set in a pool, and its log is that of 1."""
    inputs = case.inputs()
    logits = inputs.logits.clone().requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda z: case.loss(inputs.with_logits(z)), logits, check_fwd_over_rev=True, fast_mode=True
    )


@pytest.mark.parametrize("case", cases("probability", without="always compensated"))
def test_derivatives_of_soft_targets_and_weights(case: Case) -> None:
    """With the compensation and the units of the mean held fixed, which is why they are left out here."""
    inputs = case.inputs()
    options = {} if case.multilabel else {"compensation": None}
    weight = torch.rand(len(inputs.logits), generator=torch.Generator().manual_seed(0)).double() + 0.1
    assert torch.autograd.gradcheck(
        lambda t, v: case.loss(Inputs(inputs.logits, t, inputs.options), sample_weight=v, reduction="sum", **options),
        (inputs.target.clone().requires_grad_(), weight.requires_grad_()),
        fast_mode=True,
    )


@pytest.mark.parametrize("case", cases())
def test_vmap_is_a_loop(case: Case) -> None:
    """Several problems at once: logits, targets and, where they are tensors, weights and pool ids."""
    draws = [case.inputs(seed) for seed in range(3)]
    tensors = [name for name, value in draws[0].options.items() if isinstance(value, Tensor) and name != "balance"]
    fixed = {name: value for name, value in draws[0].options.items() if name not in tensors}

    def one(logits: Tensor, target: Tensor, *values: Tensor) -> Tensor:
        return case.loss(Inputs(logits, target, fixed | dict(zip(tensors, values, strict=True))))

    stacked = [torch.stack(each) for each in zip(*_tensors(draws, tensors), strict=True)]
    looped = torch.stack([one(*each) for each in _tensors(draws, tensors)])
    torch.testing.assert_close(vmap(one)(*stacked), looped, rtol=1e-13, atol=0)
    gradients = torch.stack([case.gradient(inputs) for inputs in draws])
    torch.testing.assert_close(vmap(grad(one))(*stacked), gradients, rtol=1e-12, atol=1e-15)


def _tensors(draws: list[Inputs], names: list[str]) -> list[list[Tensor]]:
    return [[each.logits, each.target, *(each.options[name] for name in names)] for each in draws]


@pytest.mark.parametrize("case", cases("index"))
def test_directional_derivative_is_the_gradient_along_it(case: Case) -> None:
    inputs = case.inputs()
    direction = torch.randn(inputs.logits.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, slope = jvp(lambda z: case.loss(inputs.with_logits(z)), (inputs.logits,), (direction,))
    torch.testing.assert_close(slope, (case.gradient(inputs) * direction).sum(), rtol=1e-12, atol=1e-14)


def test_gradient_of_each_sample() -> None:
    """vmap over single sets, as for per-sample gradients."""
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = torch.tensor([0, 1, -100, 3, 2])
    each = vmap(grad(log_balanced_cross_entropy))(logits, target)
    for row, label, found in zip(logits, target, each, strict=True):
        expected = grad(torch.nn.functional.cross_entropy)(row, label) if label >= 0 else torch.zeros(4)
        torch.testing.assert_close(found, expected.double(), rtol=1e-12, atol=1e-15)


def test_hessian_where_classes_are_left_out() -> None:
    """Derivatives with respect to the scores that are there, with minus infinity where none is."""
    there = torch.rand(5, 4, generator=torch.Generator().manual_seed(0)) < 0.7
    target = torch.tensor([0, 1, 2, 3, 0])
    there[torch.arange(5), target] = True
    for balance in ("class", "pair", "none", torch.tensor([0, 1, 1, 0])):
        for given in (target, torch.nn.functional.one_hot(target, 4).double()):
            found = hessian(
                lambda z, b=balance, t=given: log_balanced_cross_entropy(
                    torch.where(there, z, -torch.inf), t, balance=b
                )
            )(torch.zeros(5, 4, dtype=torch.float64))
            assert found.isfinite().all()


@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("no class mass", lambda: torch.zeros(3, 4, dtype=torch.float64)),
        ("certain", lambda: 800.0 * torch.eye(4, dtype=torch.float64)[:3]),
        ("certainly wrong", lambda: -800.0 * torch.eye(4, dtype=torch.float64)[:3]),
    ],
)
def test_second_derivatives_stay_finite_at_the_ends(name: str, make: Callable[[], Tensor], inner: Any) -> None:
    target = torch.tensor([0, 1, -100])
    for given in (target, torch.nn.functional.one_hot(target.clamp(min=0), 4).double()):
        found = hessian(lambda z, t=given: log_balanced_cross_entropy(z, t, inner=inner))(make())
        assert found.isfinite().all(), name


class Counting:
    """A compiler that runs the graph as it is and counts how often it was asked."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, _: list[Any]) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


COMPILED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "index": log_balanced_cross_entropy,
    "pools of 4": lambda z, t: log_balanced_cross_entropy(z, t, pool=4),
    "every set": lambda z, t: log_balanced_cross_entropy(z, t, pool=1, reduction="none"),
    "ids": lambda z, t: log_balanced_cross_entropy(z, t, pool=t.clamp(min=0) % 3),
    "smoothing": lambda z, t: log_balanced_cross_entropy(z, t, label_smoothing=0.1, compensation="offset"),
    "soft": lambda z, _: log_balanced_cross_entropy(z, z.detach().sin().softmax(1), pool=4),
    "pair": lambda z, t: log_balanced_cross_entropy(z, t, balance="pair"),
    "everything": lambda z, t: log_balanced_cross_entropy(
        z, t, prior=torch.ones(6), weight=torch.ones(6), sample_weight=t.abs() + 1.0, scale=0.5
    ),
    "nll": lambda z, t: log_balanced_cross_entropy(z, t, inner="nll"),
    "divergence": lambda z, _: log_balanced_cross_entropy(z, z.detach().sin().softmax(1), inner="divergence"),
    "labels": lambda z, _: multilabel_cross_entropy(z, z.detach().sin() > 0.5, mask=z.detach().cos() > 0),
}


QUICK = ("index", "soft", "labels")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in COMPILED]
)
def test_compiles_whole_and_once_for_all_batch_sizes(name: str) -> None:
    """One graph with no break, and not one more for every size: the first is for its size, the next for any.

    Pools of several sets may need one more, since a short last pool is filled up.
    """
    torch.compiler.reset()
    counting = Counting()
    loss = COMPILED[name]
    compiled = torch.compile(loss, fullgraph=True, backend=counting)
    generator = torch.Generator().manual_seed(0)
    for size in (8, 9, 12, 15, 20, 31, 64):
        logits = torch.randn(size, 6, generator=generator, dtype=torch.float64, requires_grad=True)
        target = torch.randint(6, (size,), generator=generator)
        target[::5] = -100
        expected = loss(logits, target)
        found = compiled(logits, target)
        if name == "ids":  # as many pools as sets, most of them empty, and the same mean
            assert found.dim() == 0
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
        (gradient,) = torch.autograd.grad(found.sum(), logits)
        (wanted,) = torch.autograd.grad(expected.sum(), logits)
        torch.testing.assert_close(gradient, wanted, rtol=1e-12, atol=1e-14)
    assert counting.graphs <= 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["index", "soft"])
def test_compiled_to_machine_code(name: str) -> None:
    """By the default compiler; an index out of range reads nothing it must not, and gives NaN."""
    torch.compiler.reset()
    loss = COMPILED[name]
    compiled = torch.compile(loss, fullgraph=True)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(16, 6, generator=generator, requires_grad=True)
    target = torch.randint(6, (16,), generator=generator)
    target[3] = -100
    expected = loss(logits, target)
    found = compiled(logits, target)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)  # float32, sums in another order
    (gradient,) = torch.autograd.grad(found, logits)
    (wanted,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-6)
    if name == "index":
        for wrong in (6, -1, 2**40):
            target[5] = wrong
            assert compiled(logits, target).isnan()


@pytest.mark.slow
def test_a_training_module_with_a_running_prior_compiles() -> None:
    torch.compiler.reset()
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(8, 5, generator=generator), torch.randint(5, (8,), generator=generator)) for _ in range(4)]
    plain, tracked = (LogBalancedCrossEntropyLoss(5, pool=4, prior="auto") for _ in range(2))
    compiled = torch.compile(tracked, fullgraph=True, backend="eager")
    for logits, target in batches:
        logits.requires_grad_()
        torch.testing.assert_close(compiled(logits, target), plain(logits, target))
    assert float(tracked.class_count.sum()) == 32
    torch.testing.assert_close(tracked.class_count, plain.class_count)
