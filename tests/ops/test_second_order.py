"""Gradients of gradients of every operation, every way: as float64's, and without what is left out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from equilog import ops
from equilog.ops import dispatch
from equilog.ops.label_logs import reference as label_logs
from equilog.ops.native.call import has_kernels

N, C = 12, 4
NAN = torch.nan
GENERATOR = torch.Generator().manual_seed(0)
VALUES = torch.randn(N, C, generator=GENERATOR, dtype=torch.float64)
INDEX = torch.randint(C, (N,), generator=GENERATOR)
PROBS = torch.randn(N, C, generator=GENERATOR, dtype=torch.float64).softmax(1)
WEIGHT = torch.rand(N, generator=GENERATOR, dtype=torch.float64) + 0.1
LEFT_OUT = 1
"""A row of weight 0."""
WEIGHT[LEFT_OUT] = 0.0
POSITIVES = torch.tensor([[0, 2], [1, C], [C, C]]).repeat(4, 1)


@dataclass(frozen=True)
class Case:
    """An operation as a function of its values alone, and which of its results something flows back to."""

    of: Callable[[Tensor], Tensor]
    ways: tuple[str, ...] = ("native", "chunked", "reference")
    column: bool = False
    """Whether the values are one a row."""
    blanks: bool = True
    """Whether what has weight 0 is left out by the operation, whatever it holds."""


def log_weight(z: Tensor) -> Tensor:
    return WEIGHT.to(z.dtype).log()


def label_weight(z: Tensor) -> Tensor:
    return WEIGHT.to(z.dtype)[:, None].expand(N, C)


def index_log_odds(z: Tensor) -> Tensor:
    """As the loss has it: an ignored set is left out of what is made of its log odds."""
    log_odds = ops.index_log_odds(z, INDEX, torch.linspace(0, 1, C).to(z), 0.5)
    return torch.where(WEIGHT == 0, -torch.inf, log_odds)


def index_mean(z: Tensor) -> Tensor:
    weight, shift, of_class = log_weight(z), torch.linspace(0, 1, C).to(z), torch.linspace(0.5, 1.5, C).to(z)
    options = {"log_weight": weight, "shift": shift, "scale": 0.5, "class_weight": of_class}
    return ops.pooled_index_logs(z, INDEX, 5, units=ops.Units(2), **options)


def label_mean(z: Tensor) -> Tensor:
    x, target, weight, units = z.reshape(-1), PROBS.reshape(-1).to(z), label_weight(z).reshape(-1), ops.Units(1)
    if ops.takes_label_logs(x, target, weight, 20):
        return ops.pooled_label_logs(x, target, weight, 20, scale=0.5, yes_weight=3.0, units=units)
    return label_logs.pooled_label_logs(x, target, weight, 20, 0.5, 3.0, units)


def label_terms(z: Tensor) -> Tensor:
    asked, shift = ops.LabelSums(20, 0.5, "nll"), torch.linspace(0, 1, C).to(z)
    return ops.pooled_label_terms(z.reshape(-1), PROBS.reshape(-1), label_weight(z).reshape(-1), asked, shift)[0]


FEW = ("native", "reference")
CASES = {
    "index": Case(index_log_odds),
    "soft": Case(lambda z: ops.pooled_class_log_odds(z, PROBS.to(z), log_weight(z), 5, True)[0]),
    "pairs": Case(
        lambda z: ops.pooled_pair_log_sums(z, INDEX, log_weight(z), 5, torch.linspace(0, 1, C).to(z), 0.5), FEW
    ),
    "labels": Case(
        lambda z: ops.pooled_label_log_sums(z.reshape(-1), PROBS.reshape(-1), label_weight(z).reshape(-1), 20, 0.5)
    ),
    "label terms": Case(label_terms, ("chunked", "reference")),
    "index mean": Case(index_mean, FEW),
    "label mean": Case(label_mean, FEW),
    "positives": Case(lambda z: ops.indexed_label_log_sums(z, POSITIVES, label_weight(z), 0.5)),
    "by id": Case(
        lambda z: ops.log_sum_exp_by(z + log_weight(z), torch.arange(N) // 5, 3), FEW, column=True, blanks=False
    ),
    "at first": Case(
        lambda z: ops.log_sum_exp_at_first((z + log_weight(z))[:, None], INDEX, 5, C), FEW, column=True, blanks=False
    ),
}


@pytest.fixture(params=[(name, way) for name, case in CASES.items() for way in case.ways], ids=" by ".join)
def case(request: pytest.FixtureRequest) -> Iterator[tuple[Case, Tensor]]:
    """A case with its values in the type that its way of computing takes."""
    name, way = request.param
    if way == "native" and not has_kernels():
        pytest.skip("no C++ compiler here")
    values = VALUES[:, 0] if CASES[name].column else VALUES
    with dispatch.only(way):
        yield CASES[name], values.to(torch.float32 if way == "native" else torch.float64)


def total(case: Case, values: Tensor) -> Tensor:
    """A curved function of the results."""
    result = case.of(values)
    return (torch.linspace(0.5, 2, result.numel()).to(result).view_as(result) * result.exp()).log1p().sum()


def derivatives(case: Case, values: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient, and that of a curved function of it."""
    values = values.detach().requires_grad_()
    (slope,) = torch.autograd.grad(total(case, values), values, create_graph=True)
    return slope.detach(), torch.autograd.grad(slope.square().sum(), values)[0]


def plain_gradient(case: Case, values: Tensor) -> Tensor:
    values = values.detach().requires_grad_()
    return torch.autograd.grad(total(case, values), values)[0]


def test_second_derivatives_are_those_of_float64(case: tuple[Case, Tensor]) -> None:
    operation, values = case
    found = derivatives(operation, values)
    with dispatch.only("reference"):
        expected = derivatives(operation, values.double())
    # float32 keeps seven digits, of sums of terms of both signs a few less.
    rtol, atol = (1e-10, 1e-12) if values.dtype == torch.float64 else (1e-4, 1e-5)
    torch.testing.assert_close(found[0].double(), expected[0], rtol=rtol, atol=atol)
    torch.testing.assert_close(found[1].double(), expected[1], rtol=rtol, atol=atol)
    torch.testing.assert_close(plain_gradient(operation, values), found[0], rtol=rtol, atol=atol)


@pytest.mark.parametrize("held", [NAN, torch.inf])
def test_what_is_left_out_may_hold_anything(case: tuple[Case, Tensor], held: float) -> None:
    """In the value and both derivatives, and in those of torch.func."""
    operation, values = case
    if not operation.blanks:
        pytest.skip("its values are logarithms, of weight 0 if they are minus infinity")
    expected = total(operation, values), plain_gradient(operation, values), *derivatives(operation, values)
    values = values.clone()
    values[LEFT_OUT] = held
    found = total(operation, values), plain_gradient(operation, values), *derivatives(operation, values)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    if held == torch.inf and operation in (CASES["index"], CASES["index mean"]):
        return  # torch.func does not tell that nothing flows back to it
    slope = torch.func.grad(lambda values: total(operation, values))
    torch.testing.assert_close(slope(values), expected[1], rtol=1e-4, atol=1e-5)
    curve = torch.func.grad(lambda values: slope(values).square().sum())(values)
    torch.testing.assert_close(curve, expected[3], rtol=1e-4, atol=1e-5)


def test_gradients_in_batches(case: tuple[Case, Tensor]) -> None:
    operation, values = case
    values = values.detach().requires_grad_()
    result = operation.of(values)
    some = result.isfinite()
    rows = torch.eye(result.numel(), dtype=result.dtype).view(-1, *result.shape)[some.flatten()][:5]
    (batched,) = torch.autograd.grad(result, values, rows, is_grads_batched=True, retain_graph=True)
    for row, gradient in zip(rows, batched, strict=True):
        (expected,) = torch.autograd.grad(result, values, row, retain_graph=True)
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)


def test_a_gradient_may_be_asked_for_again(case: tuple[Case, Tensor]) -> None:
    """The first backward may give away the memory of forward; the second makes it anew."""
    operation, values = case
    values = values.detach().requires_grad_()
    value = total(operation, values)
    (first,) = torch.autograd.grad(value, values, retain_graph=True)
    kept = first.clone()
    first.mul_(3.0)
    torch.testing.assert_close(torch.autograd.grad(value, values)[0], kept, rtol=1e-6, atol=0)
