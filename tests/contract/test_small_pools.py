"""Pools of few sets among many classes compare their sets; given as ids they sum a table of classes: one loss."""

from typing import Any

import pytest
import torch
from torch import Tensor

from equilog import class_mass, log_balanced_cross_entropy

SETS = 11  # no multiple of a pool, so that the last one is short


def _call(classes: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Logits, labels of which a few meet in a pool, some ignored, and weights of sets and classes with zeros."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(SETS, classes, generator=generator, dtype=dtype)
    target = torch.randint(3, (SETS,), generator=generator) * (classes // 3)
    target[[0, 5, 8, 9]] = -100  # with the zero below, a whole pool of 2 and the first set of one of 4
    sample_weight = 2 * torch.rand(SETS, generator=generator, dtype=dtype)
    sample_weight[1] = 0.0
    weight = torch.rand(classes, generator=generator, dtype=dtype)
    weight[0] = 0.0
    return logits, target, {"sample_weight": sample_weight, "weight": weight}


def _outcome(logits: Tensor, target: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    logits = logits.clone().requires_grad_()
    values = log_balanced_cross_entropy(logits, target, **options)
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    return values.detach().flatten(), gradient


def _as_ids(pool: int) -> Tensor:
    return torch.arange(SETS) // pool


POOLS_OF_CLASSES = [(1, 3), (2, 8), (3, 18), (4, 40)]


@pytest.mark.parametrize(("pool", "classes"), POOLS_OF_CLASSES)
@pytest.mark.parametrize("balance", ["class", "pair"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_small_pools_cost_what_a_table_of_classes_says(pool: int, classes: int, balance: str, reduction: str) -> None:
    logits, target, options = _call(classes)
    options |= {"balance": balance, "reduction": reduction}
    found = _outcome(logits, target, pool=pool, **options)
    expected = _outcome(logits, target, pool=_as_ids(pool), **options)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("pool", "classes"), POOLS_OF_CLASSES)
@pytest.mark.parametrize("balance", ["class", "pair"])
def test_small_pools_have_the_class_mass_of_a_table(pool: int, classes: int, balance: str) -> None:
    logits, target, options = _call(classes)
    found = class_mass(logits, target, pool=pool, balance=balance, **options)
    expected = class_mass(logits, target, pool=_as_ids(pool), balance=balance, **options)
    torch.testing.assert_close(found.packed(), expected.packed(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("balance", ["class", "pair"])
def test_parts_of_small_pools_add_up(balance: str) -> None:
    logits, target, options = _call(40)
    options = {"weight": options["weight"], "pool": 4, "balance": balance}
    parts = [slice(0, 8), slice(8, SETS)]
    masses = [class_mass(logits[part], target[part], **options) for part in parts]
    whole = masses[0].merge(masses[1])
    shares = [_outcome(logits[part], target[part], class_mass=whole, **options) for part in parts]
    value, gradient = _outcome(logits, target, **options)
    torch.testing.assert_close(shares[0][0] + shares[1][0], value, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(torch.cat([share[1] for share in shares]), gradient, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("score", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", [2, 3])
def test_what_is_not_finite_stays_in_its_pool(score: float, where: int) -> None:
    logits, target, _ = _call(40)
    target[2:4] = 6  # two sets of one class, of which either may come first
    logits[where, 6] = score
    found = _outcome(logits, target, pool=4, reduction="none")
    expected = _outcome(logits, target, pool=_as_ids(4), reduction="none")
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14, equal_nan=True)
    assert found[0][1:].isfinite().all()


def test_small_pools_of_float32_keep_its_digits() -> None:
    logits, target, options = _call(40)
    expected = _outcome(logits, target, pool=4, **options)
    options = {name: value.float() for name, value in options.items()}
    found = _outcome(logits.float(), target, pool=4, **options)
    torch.testing.assert_close(found, tuple(each.float() for each in expected), rtol=2e-6, atol=1e-7)


def test_small_pools_of_a_batch_of_problems() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, SETS, 40, generator=generator, dtype=torch.float64)
    target = torch.randint(3, (3, SETS), generator=generator)

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        return log_balanced_cross_entropy(logits, target, pool=4)

    mapped = torch.func.vmap(torch.func.grad(loss))(logits, target)
    each = torch.stack([_outcome(*problem, pool=4)[1] for problem in zip(logits, target, strict=True)])
    torch.testing.assert_close(mapped, each, rtol=1e-12, atol=1e-14)
    assert torch.autograd.gradgradcheck(lambda z: loss(z, target[0]), logits[0].requires_grad_())
