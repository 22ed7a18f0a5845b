"""Micro-batches back-propagate what one large batch does."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from equilog import (
    Accumulation,
    LogBalancedCrossEntropyLoss,
    MultiLabelCrossEntropyLoss,
    accumulate,
    log_balanced_cross_entropy,
)

N, D, C = 22, 6, 4
SIZES = (9, 1, 12)
CRITERIA = {
    "batch": lambda: LogBalancedCrossEntropyLoss(),
    "pair": lambda: LogBalancedCrossEntropyLoss(balance="pair"),
    "pool 1": lambda: LogBalancedCrossEntropyLoss(C, pool=1, prior="auto"),
    "stream and prior": lambda: LogBalancedCrossEntropyLoss(C, pool="stream", prior="auto"),
    "smoothing": lambda: LogBalancedCrossEntropyLoss(label_smoothing=0.1),
    "sum": lambda: LogBalancedCrossEntropyLoss(reduction="sum"),
    "labels": lambda: MultiLabelCrossEntropyLoss(pool="batch", pos_weight=2.0),
    "labels of a sample": lambda: MultiLabelCrossEntropyLoss(),
}


def steps(multilabel: bool = False) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, N, D, generator=generator).double()
    target = torch.randint(C, (3, N), generator=generator)
    target[:, :4] = -100
    if multilabel:
        target = nn.functional.one_hot(target.clamp(min=0), C)
    return list(zip(x, target, strict=True))


def network(*extra: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(D, 8), *extra, nn.Tanh(), nn.Linear(8, C)).double()


def micro_batches(x: Tensor, target: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(SIZES), target.split(SIZES), strict=True))


def close(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=1e-10, atol=1e-10, equal_nan=True, msg=lambda m, n=name: n + m)


@pytest.mark.parametrize("name", CRITERIA)
def test_weights_after_three_steps_are_those_of_one_large_batch(name):
    whole, parts = CRITERIA[name](), CRITERIA[name]()
    large = network()
    small = copy.deepcopy(large)
    optimizers = [torch.optim.Adam(model.parameters(), lr=0.1) for model in (large, small)]
    for x, target in steps(whole.multilabel):
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss = whole(large(x), target)
        loss.backward()
        same = accumulate(lambda loss, part: loss(small(part[0]), part[1]), parts, micro_batches(x, target))
        torch.testing.assert_close(same, loss.detach(), rtol=1e-6, atol=1e-6)
        close({n: p.grad for n, p in small.named_parameters()}, {n: p.grad for n, p in large.named_parameters()})
        for optimizer in optimizers:
            optimizer.step()
    close(small.state_dict(), large.state_dict())
    close(parts.state_dict(), whole.state_dict())


def test_dropout_is_replayed_and_batch_norm_moves_once():
    """Against one graph through all micro-batches in their order, which is what the two passes stand for."""
    at_once = network(nn.Dropout(0.4), nn.BatchNorm1d(8))
    twice = copy.deepcopy(at_once)
    criterion = LogBalancedCrossEntropyLoss(C, prior="auto")
    for x, target in steps():
        # A micro-batch of one row has no batch statistics.
        parts = [(x[:9], target[:9]), (x[9:], target[9:])]
        torch.manual_seed(5)
        logits = torch.cat([at_once(a) for a, _ in parts])
        state = torch.get_rng_state()
        log_balanced_cross_entropy(logits, target, prior=criterion.current_prior()).backward()
        torch.manual_seed(5)
        accumulate(lambda loss, part: loss(twice(part[0]), part[1]), criterion, parts, model=twice)
        assert torch.equal(torch.get_rng_state(), state)
    close({n: p.grad for n, p in twice.named_parameters()}, {n: p.grad for n, p in at_once.named_parameters()})
    close(twice.state_dict(), at_once.state_dict())
    assert twice[2].num_batches_tracked == 6


def test_trainers_that_divide_the_loss_get_it_scaled():
    x, target = steps()[0]
    model = network()
    criterion = LogBalancedCrossEntropyLoss()

    def call(loss, part):
        return loss(model(part[0]), part[1])

    value = accumulate(call, criterion, micro_batches(x, target))
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    again = accumulate(
        call, criterion, micro_batches(x, target), backward=lambda loss: (loss / 3).backward(), loss_scale=3
    )
    torch.testing.assert_close(again, value)
    close({n: p.grad for n, p in model.named_parameters()}, gradients)

    model.zero_grad()
    step = Accumulation(criterion, loss_scale=None)
    step.gather(call, micro_batches(x, target))
    reported = []
    for part in micro_batches(x, target):
        loss = step.part(call, part) / 3
        loss.backward()
        reported.append(loss.detach())
    torch.testing.assert_close(sum(reported), value)
    close({n: p.grad for n, p in model.named_parameters()}, gradients)


def test_other_terms_of_the_loss_add_up_too():
    x, target = steps()[0]
    large = network()
    small = copy.deepcopy(large)
    (LogBalancedCrossEntropyLoss()(large(x), target) + 0.1 * large(x).square().sum()).backward()

    def call(loss, part):
        logits = small(part[0])
        return loss(logits, part[1]) + 0.1 * logits.square().sum()

    accumulate(call, LogBalancedCrossEntropyLoss(), micro_batches(x, target))
    close({n: p.grad for n, p in small.named_parameters()}, {n: p.grad for n, p in large.named_parameters()})


@pytest.mark.parametrize("inside", [True, False], ids=["autocast inside", "autocast outside"])
def test_autocast_weights_keep_their_gradient(inside):
    """Autocast remembers the weights it has cast; those of the pass without gradient must not reach the second."""
    x, target = steps()[0]
    x = x.float()
    large = network().float()
    small = copy.deepcopy(large)
    with torch.autocast("cpu", torch.bfloat16):
        logits = torch.cat([large(part) for part in x.split(SIZES)])
    LogBalancedCrossEntropyLoss()(logits, target).backward()

    def call(loss, part):
        with torch.autocast("cpu", torch.bfloat16, enabled=inside or torch.is_autocast_enabled("cpu")):
            logits = small(part[0])
        return loss(logits, part[1])

    with torch.autocast("cpu", torch.bfloat16, enabled=not inside):
        accumulate(call, LogBalancedCrossEntropyLoss(), micro_batches(x, target))
    for mine, theirs in zip(small.parameters(), large.parameters(), strict=True):
        # Weight gradients are sums over rows in bfloat16, of 8 binary digits, split in three here.
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=0.03, atol=0.03 * float(theirs.grad.abs().max()))


def test_checkpointed_activations_change_nothing():
    x, target = steps()[0]
    plain = network(nn.Dropout(0.5))
    saved = copy.deepcopy(plain)
    criterion = LogBalancedCrossEntropyLoss()
    torch.manual_seed(3)
    accumulate(lambda loss, part: loss(plain(part[0]), part[1]), criterion, micro_batches(x, target))
    torch.manual_seed(3)
    accumulate(
        lambda loss, part: loss(checkpoint(saved, part[0], use_reentrant=False), part[1]),
        criterion,
        micro_batches(x, target),
    )
    close({n: p.grad for n, p in saved.named_parameters()}, {n: p.grad for n, p in plain.named_parameters()})


def test_saving_in_the_middle_of_training_gives_the_same_weights(tmp_path):
    def training(model, criterion, optimizer, data):
        for x, target in data:
            optimizer.zero_grad()
            accumulate(lambda loss, part: loss(model(part[0]), part[1]), criterion, micro_batches(x, target))
            optimizer.step()

    def fresh():
        model = network()
        criterion = LogBalancedCrossEntropyLoss(C, pool="stream", prior="auto")
        return model, criterion, torch.optim.Adam(model.parameters(), lr=0.1)

    straight = fresh()
    training(*straight, steps())
    first = fresh()
    training(*first, steps()[:2])
    torch.save([part.state_dict() for part in first], tmp_path / "middle.pt")
    second = fresh()
    for part, state in zip(second, torch.load(tmp_path / "middle.pt"), strict=True):
        part.load_state_dict(state)
    training(*second, steps()[2:])
    for one, other in zip(straight[0].parameters(), second[0].parameters(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(straight[1].stream, second[1].stream)
    assert torch.equal(straight[1].class_count, second[1].class_count)


def test_wrong_use_is_told():
    x, target = steps()[0]
    model = network()

    def call(loss, part):
        return loss(model(part[0]), part[1])

    with pytest.raises(ValueError, match="at least one micro-batch"):
        accumulate(call, LogBalancedCrossEntropyLoss(), [])
    with pytest.raises(ValueError, match="never called its first argument"):
        accumulate(lambda loss, part: model(part[0]).sum(), LogBalancedCrossEntropyLoss(), [(x, target)])  # noqa: ARG005
    with pytest.raises(ValueError, match='the loss must be a scalar, of reduction "mean" or "sum"'):
        accumulate(call, LogBalancedCrossEntropyLoss(reduction="none"), micro_batches(x, target))
    step = Accumulation(LogBalancedCrossEntropyLoss())
    with pytest.raises(RuntimeError, match="Call gather with the micro-batches of the next step first"):
        step.part(call, (x, target))
    step.gather(call, [(x, target)])
    step.part(call, (x, target))
    with pytest.raises(RuntimeError, match="1 micro-batches of the step have been used"):
        step.part(call, (x, target))
