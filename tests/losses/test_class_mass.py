"""The class mass: parts of a step add up to the whole, in value and gradient, for every option."""

import pytest
import torch
from torch import Tensor, nn

from equilog import (
    LogBalancedCrossEntropyLoss,
    MultiLabelCrossEntropyLoss,
    class_mass,
    linear_log_balanced_cross_entropy,
    linear_multilabel_cross_entropy,
    log_balanced_cross_entropy,
    log_balanced_from_cross_entropy,
    multilabel_class_mass,
    multilabel_cross_entropy,
)

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


LOSSES = {
    log_balanced_cross_entropy: lambda z, t: (z, t),
    log_balanced_from_cross_entropy: lambda z, t: (nn.functional.cross_entropy(z, t, reduction="none"), t, C),
    multilabel_cross_entropy: lambda z, t: (z, nn.functional.one_hot(t, C)),
    linear_log_balanced_cross_entropy: lambda z, t: (z, torch.eye(C).double(), t),
    linear_multilabel_cross_entropy: lambda z, t: (z, torch.eye(C).double(), nn.functional.one_hot(t, C)),
}


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_the_defaults_of_a_loss_and_of_its_class_mass_are_one(loss):
    inputs = LOSSES[loss](*draw(3))
    close(loss(*inputs, class_mass=class_mass(*inputs, loss=loss)), loss(*inputs))


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
    z = logits.clone().requires_grad_()
    whole = log_balanced_cross_entropy(z, target, sample_weight=sample_weight, **options)
    whole.backward()

    y = logits.clone().requires_grad_()
    rows = list(zip(y.split(sizes), target.split(sizes), sample_weight.split(sizes), strict=True))
    masses = [class_mass(a, b, sample_weight=w, **options) for a, b, w in rows]
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
    soft[:6] = nn.functional.one_hot(torch.arange(6) % C, C).double()
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


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("inner", ["odds", "nll", "divergence"])
@pytest.mark.parametrize("pool", ["batch", "sample", "label"])
def test_multilabel_parts_add_up_to_the_whole(pool, inner, reduction):
    if pool == "sample" and reduction == "none":
        pytest.skip("a value for each sample is that of its part alone")
    logits, target = draw(9, soft=True)
    generator = torch.manual_seed(5)
    mask = torch.rand(13, C, generator=generator) > 0.3
    mask[:4] = False
    weight = torch.rand(13, generator=generator).double()
    prior = torch.tensor([0.1, 0.5, 0.8, 0.02]).double()
    options = {"pool": pool, "inner": inner, "scale": 0.8, "prior": prior, "weight": torch.tensor([1.0, 2.0, 0.5, 3.0])}
    options["reduction"] = reduction
    z, y = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    whole = multilabel_cross_entropy(z, target, mask=mask, sample_weight=weight, pos_weight=2.5, **options)
    whole.sum().backward()
    sizes = (4, 1, 8)
    rows = list(zip(y.split(sizes), target.split(sizes), mask.split(sizes), weight.split(sizes), strict=True))
    masses = [multilabel_class_mass(a, b, mask=m, sample_weight=w, **options) for a, b, m, w in rows]
    total = masses[0].empty().merge(masses[0]).merge(masses[1]).merge(masses[2])
    values = [
        multilabel_cross_entropy(a, b, mask=m, sample_weight=w, pos_weight=2.5, class_mass=total, **options)
        for a, b, m, w in rows
    ]
    torch.stack(values).sum().backward()
    close(y.grad, z.grad)
    close(sum(values) if pool == "sample" else values[0], whole)


@pytest.mark.parametrize("of_loss", [log_balanced_cross_entropy, log_balanced_from_cross_entropy])
def test_a_mass_without_the_weights_that_its_units_are_by_is_refused(of_loss):
    """Else the mean over the parts' own pools is of other units; one pool over all parts knows them by its counts."""
    logits, target = draw(0)
    weight = torch.arange(1.0, 1.0 + C)
    losses = nn.functional.cross_entropy(logits, target, reduction="none")
    inputs = (logits, target) if of_loss is log_balanced_cross_entropy else (losses, target, C)
    for mass_weight, loss_weight in ((None, weight), (weight, None)):
        whole = class_mass(*inputs, loss=of_loss, pool=4, weight=mass_weight)
        with pytest.raises(ValueError, match=r"class_mass must come from the same options as this call.*by class"):
            of_loss(*inputs, pool=4, weight=loss_weight, class_mass=whole)
    for pool, mass_weight in ((4, weight), ("batch", None)):
        whole = class_mass(*inputs, loss=of_loss, pool=pool, weight=mass_weight)
        expected = of_loss(*inputs, pool=pool, weight=weight)
        close(of_loss(*inputs, pool=pool, weight=weight, class_mass=whole), expected)


def test_a_step_of_parts_is_noted_once_and_leaves_what_one_call_leaves():
    logits, target = draw(2)
    options = {"pool": "stream", "prior": "auto", "momentum": 0.5}
    one, many = LogBalancedCrossEntropyLoss(C, **options), LogBalancedCrossEntropyLoss(C, **options)
    logits.requires_grad_()
    for _ in range(3):
        whole = one(logits, target)
        total = many.class_mass(logits[:4], target[:4]).merge(many.class_mass(logits[4:], target[4:]))
        before = {name: value.clone() for name, value in many.state_dict().items()}
        close(many(logits[:4], target[:4], class_mass=total), whole)
        close(many(logits[4:], target[4:], class_mass=total), whole)
        assert all(torch.equal(value, before[name]) for name, value in many.state_dict().items())
        many.note(total)
    for name, value in one.state_dict().items():
        torch.testing.assert_close(many.state_dict()[name], value, rtol=1e-10, atol=1e-10, equal_nan=True)
    close(one.class_count, 3 * target.bincount(minlength=C).double())


def test_a_stream_is_the_moving_sum_its_momentum_says():
    criterion = LogBalancedCrossEntropyLoss(C, pool="stream", momentum=0.75, reduction="sum")
    steps = [draw(seed, n) for seed, n in ((0, 13), (1, 5), (2, 9))]
    sums = torch.zeros(C, dtype=torch.float64)
    sets = 0.0
    for logits, target in steps:
        losses = criterion(logits.requires_grad_(), target)
        odds = 1 / logits.softmax(1).gather(1, target[:, None]).squeeze(1) - 1
        sums = 0.75 * sums + torch.zeros(C, dtype=torch.float64).index_add(0, target, odds)
        sets = 0.75 * sets + len(target)
        close(losses, sums.log1p().sum())
        assert criterion.effective_sets == pytest.approx(sets)
    for _ in range(100):
        criterion(*steps[1])
    assert criterion.effective_sets == pytest.approx(5 / (1 - 0.75))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_first_step_of_a_stream_is_that_of_a_batch(reduction):
    logits, target = draw(0)
    z, y = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    of_stream = LogBalancedCrossEntropyLoss(C, pool="stream", reduction=reduction)(z, target)
    of_batch = LogBalancedCrossEntropyLoss(pool="batch", reduction=reduction)(y, target)
    close(of_stream, of_batch)
    of_stream.backward()
    of_batch.backward()
    close(z.grad, y.grad)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_stream_at_rest_has_the_gradient_of_the_large_batch_it_stands_for(reduction):
    """Steps that repeat the same sets stand for those sets n / (1 - momentum) times over."""
    logits, target = draw(0)
    criterion = LogBalancedCrossEntropyLoss(C, pool="stream", momentum=0.75, reduction=reduction)
    z, y = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    for _ in range(200):
        criterion(z, target)
    value = criterion(z, target)
    value.backward()
    large = log_balanced_cross_entropy(y.repeat(4, 1), target.repeat(4), reduction=reduction)
    large.backward()
    torch.testing.assert_close(value, large)
    torch.testing.assert_close(z.grad, y.grad)


def test_a_stream_counts_no_more_logs_than_sets_it_still_holds():
    """Of 1,000 classes once seen, the odds of long ago stand in as many logs; the units are those of 2 sets a step."""
    criterion = LogBalancedCrossEntropyLoss(1000, pool="stream", momentum=0.5)
    criterion(torch.zeros(1000, 1000, dtype=torch.float64, requires_grad=True), torch.arange(1000))
    logits = torch.zeros(2, 1000, dtype=torch.float64, requires_grad=True)
    for _ in range(60):  # 1000 / 2^60 is nothing beside 2
        loss = criterion(logits, torch.tensor([0, 1]))
    loss.backward()
    # 2 / 0.5 = 4 sets of odds 999, two a class; the gradient is that of 4 sets, of which 2 are here.
    assert criterion.effective_sets == pytest.approx(4)
    share = 2 * 999 / (1 + 2 * 999)
    assert float(logits.grad.abs().sum()) == pytest.approx(2 * 2 * share / 4, rel=1e-12)


@pytest.mark.parametrize("make", [LogBalancedCrossEntropyLoss, MultiLabelCrossEntropyLoss])
def test_a_restart_from_the_state_dict_goes_on_as_if_there_had_been_none(make):
    options = {"num_classes": C, "prior": "auto"} if make is LogBalancedCrossEntropyLoss else {}
    straight = make(pool="stream", **options)
    data = [
        (z.requires_grad_(), t if options else nn.functional.one_hot(t, C))
        for z, t in (draw(seed) for seed in range(6))
    ]
    for step in data[:3]:
        straight(*step)
    restarted = make(pool="stream", **options)
    restarted.load_state_dict(straight.state_dict())
    for step in data[3:]:
        assert torch.equal(straight(*step), restarted(*step))
    assert straight.effective_sets == restarted.effective_sets > 13


def test_a_stream_keeps_its_precision_in_a_half_precision_model():
    criterion = LogBalancedCrossEntropyLoss(C, pool="stream", prior="auto").half()
    assert criterion.stream.dtype == criterion.class_count.dtype == torch.float64


def test_a_step_with_everything_ignored_leaves_a_stream_finite():
    criterion = LogBalancedCrossEntropyLoss(C, pool="stream", prior="auto")
    for target in (torch.full((13,), -100), draw(0)[1], torch.full((13,), -100)):
        logits = draw(0)[0].requires_grad_()
        loss = criterion(logits, target)
        loss.backward()
        assert loss.isfinite()
        assert logits.grad.isfinite().all()
    assert criterion.effective_sets == pytest.approx(13 * 0.9)


def test_evaluation_leaves_the_stream_as_it_is():
    criterion = LogBalancedCrossEntropyLoss(C, pool="stream")
    (logits, target), (other, other_target) = draw(0), draw(1)
    criterion(logits.requires_grad_(), target)
    before = criterion.stream.clone()
    value = criterion.eval()(other.requires_grad_(), other_target)
    assert torch.equal(criterion.stream, before)
    close(value, criterion.train()(other, other_target))
    assert not torch.equal(criterion.stream, before)


def test_another_number_of_classes_is_told():
    criterion = LogBalancedCrossEntropyLoss(C, pool="stream", prior="auto")
    with pytest.raises(ValueError, match="the running prior counts 4 classes, but logits have 3"):
        criterion(torch.zeros(2, 3), torch.tensor([0, 1]))
    stream = LogBalancedCrossEntropyLoss(C, pool="stream")
    with pytest.raises(ValueError, match=r"the stream is one of 4 classes, but logits have 3\. Say num_classes=3"):
        stream(torch.zeros(2, 3), torch.tensor([0, 1]))


@pytest.mark.parametrize("group", ["WORLD", 3])
def test_a_process_group_of_another_type_is_told(group):
    with pytest.raises(TypeError, match=r'process_group must be a torch\.distributed\.ProcessGroup, "world" or None'):
        log_balanced_cross_entropy(*draw(0), process_group=group)


def test_world_is_this_process_where_nothing_is_distributed():
    assert torch.equal(
        log_balanced_cross_entropy(*draw(0), process_group="world"), log_balanced_cross_entropy(*draw(0))
    )
