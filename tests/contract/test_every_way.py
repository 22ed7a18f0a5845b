"""Every loss by every way of computing it, in float32, which is what the C++ kernels take.

Against the formulas in many digits of the same rounded numbers, so that only the arithmetic differs.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from mpmath import mp
from torch import Tensor

from contract import reference
from contract.cases import CASES, Case, Inputs, cases
from equilog import class_mass, multilabel_cross_entropy
from equilog.ops import dispatch
from equilog.ops.native.call import has_kernels

WAYS = ("native", "chunked", "reference")
SIZES = (1.0, 15.0)  # the second is of sets that are sure and wrong


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """The one way that every operation goes by, where it can."""
    if request.param == "native" and not has_kernels():
        pytest.skip("no compiler for the C++ kernels")
    with dispatch.only(request.param):
        yield request.param


def in_float32(inputs: Inputs) -> Inputs:
    """The same inputs with every number rounded to float32."""
    options = {
        name: value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in inputs.options.items()
    }
    target = inputs.target.float() if inputs.target.is_floating_point() else inputs.target
    return Inputs(inputs.logits.float(), target, options)


@functools.lru_cache(maxsize=2 * len(CASES))
def drawn(case: Case, size: float) -> tuple[Inputs, reference.Pooled]:
    inputs = case.inputs(8)
    inputs = in_float32(inputs.with_logits(size * inputs.logits))
    return inputs, case.expected(inputs)


# A sum of some fifty terms, each rounded at 6e-8 of itself, and so are logits of up to 60 before they meet in a
# difference, whose rounding is that of its exponential.
def close(found: Tensor, expected: Tensor, size: float) -> None:
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=2e-6 * (1 + size), atol=2e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", cases())
def test_values_and_gradients_are_the_formula(case: Case, size: float, way: str) -> None:
    del way
    inputs, expected = drawn(case, size)
    values = torch.tensor([float(value) for value in expected.values], dtype=torch.float64)
    close(case.loss(inputs, reduction="none").reshape(-1), values, size)
    close(case.loss(inputs), torch.tensor(float(expected.mean), dtype=torch.float64), size)
    units = float(mp.fsum(expected.units))
    close(case.gradient(inputs, reduction="sum"), expected.gradient, size)
    close(units * case.gradient(inputs), expected.gradient, size)


def positives(target: Tensor) -> Tensor:
    """The positions of the ones of each row, filled up with -1."""
    number = torch.where(target == 1, torch.arange(target.shape[1]), target.shape[1])
    return torch.where(number.sort(1).values == target.shape[1], -1, number.sort(1).values)[:, :4]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_label_indices_are_the_formula(size: float, weighted: bool, way: str) -> None:
    del way
    generator = torch.Generator().manual_seed(0)
    logits = (size * torch.randn(5, 21, generator=generator)).requires_grad_()
    target = torch.zeros(5, 21, dtype=torch.long)
    target[torch.arange(4).repeat(3), torch.randint(21, (12,), generator=generator)] = 1  # none in the last
    weight = torch.rand(21, generator=generator) if weighted else None
    sample = torch.arange(5).repeat_interleave(21)
    every = None if weight is None else weight.double().repeat(5)
    row = logits.detach().double().reshape(-1)
    expected = reference.multilabel(row, target.reshape(-1), pool=sample, sample=sample, weight=every)
    losses = multilabel_cross_entropy(logits, positives(target), index_target=True, weight=weight, reduction="none")
    close(losses, torch.tensor([float(value) for value in expected.values], dtype=torch.float64), size)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    close(gradient, expected.gradient.reshape(5, 21), size)


@pytest.mark.parametrize("name", ["native", "chunked"])
def test_every_operation_that_has_a_way_goes_by_it_in_some_case(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the tests above are of what they say."""
    if name == "native" and not has_kernels():
        pytest.skip("no compiler for the C++ kernels")
    taken: set[str] = set()

    def noted(operation: str, compute: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            taken.add(operation)
            return compute(*args)

        return call

    have = set()
    for operation, table in dispatch.OPERATIONS.items():
        ways = [
            (way, takes, noted(operation, compute) if way == name else compute) for way, takes, compute in table.ways
        ]
        monkeypatch.setattr(table, "ways", tuple(ways))
        have |= {operation} if any(way == name for way, *_ in ways) else set()
    with dispatch.only(name):
        for case in CASES:
            inputs = drawn(case, 1.0)[0]
            case.gradient(inputs)
        logits = torch.zeros(3, 21, requires_grad=True)
        # Of labels a loss asks for the sums where it is a part of more.
        for target in (torch.zeros(3, 21), torch.tensor([[1, 5], [3, -1], [0, 2]])):
            class_mass(logits, target, loss=multilabel_cross_entropy)
    assert taken == have
