"""What sets add to a pool, wherever they are: it merges in any order, packs into a row, and refuses what it is not."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from equilog import ClassMass, class_mass, log_balanced_cross_entropy, multilabel_class_mass
from equilog.core.pool_state import numbers_in, sets_in

C = 4
BLOCKS = torch.tensor([0, 1, 0, 1])


def draw(seed: int, n: int = 13, *, soft: bool = False) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, C, dtype=torch.float64, generator=generator)
    if soft:
        return logits, torch.rand(n, C, dtype=torch.float64, generator=generator).softmax(1)
    return logits, torch.randint(C, (n,), generator=generator)


def same(a: ClassMass, b: ClassMass) -> None:
    assert a.layout == b.layout
    torch.testing.assert_close(a.packed(), b.packed(), rtol=1e-10, atol=1e-10)


MASSES = {
    "hard": lambda seed, n: class_mass(*draw(seed, n)),
    "soft": lambda seed, n: class_mass(*draw(seed, n, soft=True)),
    "pair": lambda seed, n: class_mass(*draw(seed, n, soft=True), balance="pair"),
    "own pools": lambda seed, n: class_mass(*draw(seed, n), pool=2),
    "nll": lambda seed, n: class_mass(*draw(seed, n, soft=True), inner="nll"),
    "divergence": lambda seed, n: class_mass(*draw(seed, n), inner="divergence"),
    "labels": lambda seed, n: multilabel_class_mass(*(v.double() for v in draw(seed, n, soft=True))),
    "each label": lambda seed, n: multilabel_class_mass(*draw(seed, n, soft=True), pool="label", inner="nll"),
}


@pytest.mark.parametrize("kind", MASSES)
@settings(deadline=None, max_examples=25)
@given(sizes=st.lists(st.integers(0, 6), min_size=3, max_size=3), seed=st.integers(0, 2**20))
def test_merge_is_associative_and_commutative_with_a_neutral_empty_mass(kind, sizes, seed):
    a, b, c = (MASSES[kind](seed + i, n) for i, n in enumerate(sizes))
    same(a.merge(b).merge(c), a.merge(b.merge(c)))
    same(a.merge(b), b.merge(a))
    same(a.merge(a.empty()), a)
    same(a.empty().merge(a), a)


def test_merge_does_not_overflow_where_the_odds_would():
    logits = torch.tensor([[-3e4, 3e4]])
    one = class_mass(logits, torch.tensor([0]))
    assert one.merge(one).log_mass[0].item() == pytest.approx(6e4 + math.log(2))


def test_a_mass_packs_and_unpacks_to_itself():
    for kind, make in MASSES.items():
        mass = make(3, 5)
        same(mass.unpacked(mass.packed()), mass)
        layout = mass.layout
        assert len(mass.packed()) == numbers_in(len(mass.log_sums) // layout.pools, layout.classes, layout), kind
        if layout.pools == 1:
            assert len(mass.packed()) == len(mass.log_sums) + 2 * layout.classes + 4, kind
        assert sets_in(mass.packed(), layout) == mass.sets, kind


@pytest.mark.parametrize(
    "other",
    [
        class_mass(torch.zeros(2, C + 1), torch.tensor([0, 1])),
        class_mass(torch.zeros(2, C), torch.tensor([0, 1]), balance="pair"),
        class_mass(torch.zeros(2, C), torch.tensor([0, 1]), balance=BLOCKS),
        class_mass(torch.zeros(2, C), torch.tensor([0, 1]), pool=2),
        class_mass(torch.zeros(2, C), torch.tensor([0, 1]), compensation=None),
        class_mass(torch.zeros(2, C), torch.tensor([0, 1]), inner="nll"),
        class_mass(torch.zeros(2, C), torch.tensor([0, 1]), inner="divergence"),
        multilabel_class_mass(torch.zeros(2, C), torch.zeros(2, C)),
    ],
    ids=["classes", "balance", "blocks", "pool", "compensation", "nll", "divergence", "multilabel"],
)
def test_masses_of_different_losses_refuse_each_other(other):
    mine = class_mass(torch.zeros(2, C), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"ClassMass\.merge: expected a mass of balance \"class\" over 4 classes"):
        mine.merge(other)
    with pytest.raises(ValueError, match="class_mass must come from the same options as this call"):
        log_balanced_cross_entropy(torch.zeros(2, C), torch.tensor([0, 1]), class_mass=other)


def test_blocks_that_differ_refuse_each_other():
    logits, target = draw(0)
    mine, other = (class_mass(logits, target, balance=torch.tensor(b)) for b in ([0, 0, 1, 1], [0, 1, 0, 1]))
    with pytest.raises(ValueError, match=r"blocks \[0, 0, 1, 1\]"):
        mine.merge(other)
