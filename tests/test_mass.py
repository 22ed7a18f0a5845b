"""The class mass: parts of a step add up to the whole, in value and gradient, for every option."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from equilog import (
    ClassMass,
    LogBalancedCrossEntropyLoss,
    MultiLabelCrossEntropyLoss,
    class_mass,
    log_balanced_cross_entropy,
    multilabel_class_mass,
    multilabel_cross_entropy,
)
from equilog.mass import SETS

C = 4
BLOCKS = torch.tensor([0, 1, 0, 1])
SPLITS = {"uneven": (5, 1, 7), "an empty part": (0, 13), "an ignored part": (4, 9), "one part": (13,)}


def draw(seed: int, n: int = 13, *, soft: bool = False) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, C, dtype=torch.float64, generator=generator)
    if soft:
        return logits, torch.rand(n, C, dtype=torch.float64, generator=generator).softmax(1)
    return logits, torch.randint(C, (n,), generator=generator)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def same(a: ClassMass, b: ClassMass) -> None:
    assert a.layout == b.layout
    close(a.packed(), b.packed())


MASSES = {
    "hard": lambda seed, n: class_mass(*draw(seed, n)),
    "soft": lambda seed, n: class_mass(*draw(seed, n, soft=True)),
    "pair": lambda seed, n: class_mass(*draw(seed, n, soft=True), balance="pair"),
    "own pools": lambda seed, n: class_mass(*draw(seed, n), pool=2),
    "nll": lambda seed, n: class_mass(*draw(seed, n, soft=True), inner="nll"),
    "divergence": lambda seed, n: class_mass(*draw(seed, n), inner="divergence"),
    "labels": lambda seed, n: multilabel_class_mass(*(v.double() for v in draw(seed, n, soft=True))),
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
        assert len(mass.packed()) == len(mass.log_sums) + 2 * mass.layout.classes + 2, kind


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


OPTIONS = {
    "class": {},
    "pair": {"balance": "pair"},
    "none": {"balance": "none"},
    "blocks": {"balance": BLOCKS},
    "prior": {"prior": torch.tensor([5.0, 1.0, 2.0, 9.0]), "prior_strength": 0.7},
    "class weight": {"weight": torch.tensor([1.0, 2.0, 0.5, 3.0])},
    "pair weight": {"balance": "pair", "weight": torch.tensor([1.0, 2.0, 0.5, 3.0])},
    "scale": {"scale": 0.5},
    "sum": {"reduction": "sum"},
    "own pools": {"pool": 1},
    "smoothing": {"label_smoothing": 0.2},
    "smoothing, offset": {"label_smoothing": 0.2, "compensation": "offset"},
    "smoothing, none": {"label_smoothing": 0.2, "compensation": None},
    "nll": {"inner": "nll"},
    "nll, offset": {"inner": "nll", "compensation": "offset"},
    "divergence": {"inner": "divergence"},
    "divergence, own pools": {"inner": "divergence", "pool": 1},
}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("name", OPTIONS)
def test_parts_add_up_to_the_whole(name, soft, split):
    options = OPTIONS[name]
    logits, target = draw(7, soft=soft)
    sizes = SPLITS[split]
    sample_weight = torch.rand(13, generator=torch.manual_seed(1)).double()
    if split == "an ignored part":
        sample_weight[: sizes[0]] = 0
    for_mass = {k: v for k, v in options.items() if k not in ("weight", "reduction")}
    for_mass["pool"] = options.get("pool", "batch")

    z = logits.clone().requires_grad_()
    whole = log_balanced_cross_entropy(z, target, sample_weight=sample_weight, **options)
    whole.backward()

    y = logits.clone().requires_grad_()
    rows = list(zip(y.split(sizes), target.split(sizes), sample_weight.split(sizes), strict=True))
    masses = [class_mass(a, b, sample_weight=w, **for_mass) for a, b, w in rows]
    total = masses[0].empty()
    for mass in masses:
        total = total.merge(mass)
    values = [log_balanced_cross_entropy(a, b, sample_weight=w, class_mass=total, **options) for a, b, w in rows]
    for value in values:
        value.backward(retain_graph=True)
    assert z.grad.abs().max() > 1e-3
    close(y.grad, z.grad)
    if total.layout.spans:
        for value in values:
            close(value, whole)
    else:
        close(sum(values), whole)


@pytest.mark.parametrize("inner", ["odds", "nll", "divergence"])
@pytest.mark.parametrize("compensation", ["weight", "offset"])
def test_parts_with_index_targets_share_the_compensation_of_soft_ones(compensation, inner):
    logits, soft = draw(4, soft=True)
    soft[:6] = torch.nn.functional.one_hot(torch.arange(6) % C, C).double()
    z, y = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    options = {"compensation": compensation, "inner": inner}
    whole = log_balanced_cross_entropy(z, soft, **options)
    whole.backward()
    parts = [(y[:6], torch.arange(6) % C), (y[6:], soft[6:])]
    total = class_mass(*parts[0], **options).merge(class_mass(*parts[1], **options))
    for part in parts:
        value = log_balanced_cross_entropy(*part, class_mass=total, **options)
        close(value, whole)
        value.backward()
    close(y.grad, z.grad)


@pytest.mark.parametrize("pool", ["batch", "sample"])
def test_multilabel_parts_add_up_to_the_whole(pool):
    logits, target = draw(9, soft=True)
    mask = torch.rand(13, C, generator=torch.manual_seed(5)) > 0.3
    mask[:4] = False
    options = {"pool": pool, "scale": 0.8, "weight": torch.tensor([1.0, 2.0, 0.5, 3.0]).double()}
    z, y = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    whole = multilabel_cross_entropy(z, target, mask=mask, pos_weight=2.5, **options)
    whole.backward()
    sizes = (4, 1, 8)
    rows = list(zip(y.split(sizes), target.split(sizes), mask.split(sizes), strict=True))
    masses = [multilabel_class_mass(a, b, mask=m, **options) for a, b, m in rows]
    total = masses[0].merge(masses[1]).merge(masses[2])
    values = [multilabel_cross_entropy(a, b, mask=m, pos_weight=2.5, class_mass=total, **options) for a, b, m in rows]
    torch.stack(values).sum().backward()
    close(y.grad, z.grad)
    close(values[0] if pool == "batch" else sum(values), whole)


def test_a_step_of_parts_is_noted_once_and_leaves_what_one_call_leaves():
    logits, target = draw(2)
    options = {"pool": "stream", "prior": "auto", "momentum": 0.5}
    one, many = LogBalancedCrossEntropyLoss(**options), LogBalancedCrossEntropyLoss(**options)
    for _ in range(3):
        whole = one(logits, target)
        total = many.class_mass(logits[:4], target[:4]).merge(many.class_mass(logits[4:], target[4:]))
        before = {name: value.clone() for name, value in many.state_dict().items()}
        close(many(logits[:4], target[:4], class_mass=total), whole)
        close(many(logits[4:], target[4:], class_mass=total), whole)
        assert all(torch.equal(value, before[name]) for name, value in many.state_dict().items() if name != "link")
        many.note(total)
    for name, value in one.state_dict().items():
        torch.testing.assert_close(many.state_dict()[name], value, rtol=1e-10, atol=1e-10, equal_nan=True)
    close(one.class_count, 1 + 3 * target.bincount(minlength=C).double())


def test_a_stream_is_the_moving_sum_its_momentum_says():
    criterion = LogBalancedCrossEntropyLoss(pool="stream", momentum=0.75)
    steps = [draw(seed, n) for seed, n in ((0, 13), (1, 5), (2, 9))]
    sums = torch.zeros(C, dtype=torch.float64)
    sets = 0.0
    for logits, target in steps:
        losses = criterion(logits, target)
        odds = 1 / logits.softmax(1).gather(1, target[:, None]).squeeze(1) - 1
        sums = 0.75 * sums + torch.zeros(C, dtype=torch.float64).index_add(0, target, odds)
        sets = 0.75 * sets + len(target)
        close(losses, sums.log1p().sum())
        assert criterion.effective_sets == pytest.approx(sets)
    for _ in range(100):
        criterion(*steps[1])
    assert criterion.effective_sets == pytest.approx(5 / (1 - 0.75))


def test_the_first_step_of_a_stream_is_that_of_a_batch():
    logits, target = draw(0)
    z, y = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    LogBalancedCrossEntropyLoss(pool="stream")(z, target).backward()
    LogBalancedCrossEntropyLoss(pool="batch")(y, target).backward()
    close(z.grad, y.grad)


def test_a_stream_at_rest_has_the_gradient_of_the_large_batch_it_stands_for():
    """Steps that repeat the same sets stand for those sets n / (1 - momentum) times over."""
    logits, target = draw(0)
    criterion = LogBalancedCrossEntropyLoss(pool="stream", momentum=0.75)
    for _ in range(200):
        criterion(logits, target)
    z, y = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    value = criterion(z, target)
    value.backward()
    large = log_balanced_cross_entropy(y.repeat(4, 1), target.repeat(4))
    large.backward()
    torch.testing.assert_close(value, large)
    torch.testing.assert_close(z.grad, y.grad)


@pytest.mark.parametrize("make", [LogBalancedCrossEntropyLoss, MultiLabelCrossEntropyLoss])
def test_a_restart_from_the_state_dict_goes_on_as_if_there_had_been_none(make):
    options = {"prior": "auto"} if make is LogBalancedCrossEntropyLoss else {}
    straight = make(pool="stream", **options)
    data = [(z, t if options else torch.nn.functional.one_hot(t, C)) for z, t in (draw(seed) for seed in range(6))]
    for step in data[:3]:
        straight(*step)
    restarted = make(pool="stream", **options)
    restarted.load_state_dict(straight.state_dict())
    for step in data[3:]:
        assert torch.equal(straight(*step), restarted(*step))
    assert straight.effective_sets == restarted.effective_sets > 13


def test_a_stream_keeps_its_precision_in_a_half_precision_model():
    criterion = LogBalancedCrossEntropyLoss(pool="stream", prior="auto")
    criterion(*draw(0))
    criterion.half()
    assert criterion.stream.dtype == criterion.class_count.dtype == torch.float64


def test_a_step_with_everything_ignored_leaves_a_stream_finite():
    criterion = LogBalancedCrossEntropyLoss(pool="stream", prior="auto")
    for target in (torch.full((13,), -100), draw(0)[1], torch.full((13,), -100)):
        logits = draw(0)[0].requires_grad_()
        loss = criterion(logits, target)
        loss.backward()
        assert loss.isfinite()
        assert logits.grad.isfinite().all()
    assert float(criterion.stream[SETS]) == pytest.approx(13 * 0.9)


def test_evaluation_leaves_the_stream_as_it_is():
    criterion = LogBalancedCrossEntropyLoss(pool="stream")
    criterion(*draw(0))
    before = criterion.stream.clone()
    value = criterion.eval()(*draw(1))
    assert torch.equal(criterion.stream, before)
    close(value, criterion.train()(*draw(1)))


def test_another_number_of_classes_is_told():
    criterion = LogBalancedCrossEntropyLoss(pool="stream", prior="auto")
    criterion(*draw(0))
    with pytest.raises(ValueError, match="has counted 4 classes, but logits have 3"):
        criterion(torch.zeros(2, 3), torch.tensor([0, 1]))
    stream = LogBalancedCrossEntropyLoss(pool="stream")
    stream(*draw(0))
    with pytest.raises(ValueError, match="the stream was started with another number of classes"):
        stream(torch.zeros(2, 3), torch.tensor([0, 1]))


@pytest.mark.parametrize("group", ["WORLD", 3])
def test_a_process_group_of_another_type_is_told(group):
    with pytest.raises(TypeError, match=r'process_group must be a torch\.distributed\.ProcessGroup, "world" or None'):
        log_balanced_cross_entropy(*draw(0), process_group=group)


def test_world_is_this_process_where_nothing_is_distributed():
    assert torch.equal(
        log_balanced_cross_entropy(*draw(0), process_group="world"), log_balanced_cross_entropy(*draw(0))
    )
