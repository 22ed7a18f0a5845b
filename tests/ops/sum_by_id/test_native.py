"""The C++ sums over sets that share a group, against the formula in float64."""

import pytest
import torch
from torch import Tensor

from equilog import class_mass, log_balanced_cross_entropy
from equilog.ops.native.call import has_kernels
from equilog.ops.sum_by_id.native import first_of_slot, log_sum_exp_by
from equilog.ops.sum_by_id.reference import log_sum_exp_by as by_formula

pytestmark = pytest.mark.skipif(not has_kernels(), reason="no C++ compiler here")

INF = torch.inf


def by(way: object, values: Tensor, ids: Tensor, count: int) -> tuple[Tensor, Tensor]:
    values = values.detach().requires_grad_()
    log_sums = way(values, ids, count)  # type: ignore[operator]
    weight = torch.linspace(-1, 2, count, dtype=values.dtype)
    return log_sums.detach(), torch.autograd.grad(log_sums, values, weight)[0]


@pytest.mark.parametrize("size", [1.0, 50.0, 1e5])
@pytest.mark.parametrize(("n", "count"), [(1, 1), (15, 1), (1000, 7), (300, 1000), (4096, 4096)])
def test_sums_and_shares(n: int, count: int, size: float) -> None:
    generator = torch.Generator().manual_seed(n)
    values = size * torch.randn(n, generator=generator)
    ids = torch.randint(count, (n,), generator=generator)
    found, gradient = by(log_sum_exp_by, values, ids, count)
    expected, slope = by(by_formula, values.double(), ids, count)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient.double(), slope, rtol=1e-5, atol=1e-6)


def test_infinities_and_nan_stay_in_their_sums() -> None:
    values = torch.tensor([-INF, -INF, 1.0, -INF, INF, 2.0, torch.nan, 3.0])
    found, gradient = by(log_sum_exp_by, values, torch.tensor([0, 0, 1, 1, 2, 2, 3, 4]), 6)
    torch.testing.assert_close(found, torch.tensor([-INF, 1.0, INF, torch.nan, 3.0, -INF]), equal_nan=True)
    weight = torch.linspace(-1, 2, 6)
    assert gradient[:6].tolist() == [0, 0, weight[1], 0, 0, 0]
    assert gradient[6].isnan()
    assert gradient[7] == weight[4]


@pytest.mark.parametrize("size", [1, 3, 8, 100])
def test_first_of_slot(size: int) -> None:
    slot = torch.randint(5, (64,), generator=torch.Generator().manual_seed(0))
    found = first_of_slot(slot, size, 5).tolist()
    for i, first in enumerate(found):
        pool = range(i // size * size, i + 1)
        assert first == next(k for k in pool if slot[k] == slot[i])


@pytest.mark.parametrize("classes", [2, 7, 50])
@pytest.mark.parametrize("pool", [1, 2, 5, 16, 33, 60, "batch"])
def test_pools_of_any_size_are_those_of_float64(pool: str | int, classes: int) -> None:
    """What is left of the way there: pools, weights, ignored sets, the mean, and the class mass."""
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(60, classes, generator=generator)
    target = torch.randint(classes, (60,), generator=generator)
    target[::7] = -100
    options = {
        "pool": pool,
        "weight": torch.linspace(0.5, 2, classes),
        "sample_weight": torch.linspace(0, 3, 60).round(),
    }
    found = []
    for z in (logits.clone().requires_grad_(), logits.double().requires_grad_()):
        loss = log_balanced_cross_entropy(z, target, **options)
        mass = class_mass(z, target, pool=pool, sample_weight=options["sample_weight"])
        (gradient,) = torch.autograd.grad(loss, z)
        found.append((loss.detach().double(), gradient.double(), mass.packed()))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)
