"""Ranks that hold parts of a step have the value and the gradients of one process that holds it all."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from equilog import (
    LogBalancedCrossEntropyLoss,
    MultiLabelCrossEntropyLoss,
    accumulate,
    log_balanced_cross_entropy,
    multilabel_cross_entropy,
)
from ranks import run_ranks

N, D, C, STEPS = 24, 5, 4, 3
SIZES = {
    2: {"even": (12, 12), "uneven": (17, 7), "a rank with no rows": (24, 0)},
    3: {"uneven": (3, 1, 20), "a rank with no rows": (10, 0, 14)},
    4: {"uneven": (9, 1, 10, 4), "ranks with no rows": (0, 24, 0, 0)},
}
BALANCED: dict[str, dict[str, Any]] = {
    "batch": {},
    "pair": {"balance": "pair"},
    "pool 1": {"pool": 1},
    "prior": {"prior": "auto"},
    "stream and prior": {"pool": "stream", "prior": "auto", "momentum": 0.7},
    "class weight": {"weight": torch.tensor([1.0, 2.0, 0.5, 3.0])},
    "sum": {"reduction": "sum"},
    "smoothing": {"label_smoothing": 0.1, "compensation": "offset"},
    "nll": {"inner": "nll"},
    "divergence": {"inner": "divergence"},
}


def rows() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, class indices (the first six ignored), soft targets, weights."""
    generator = torch.Generator().manual_seed(11)
    x = 2 * torch.randn(N, D, dtype=torch.float64, generator=generator)
    hard = torch.randint(C, (N,), generator=generator)
    hard[:6] = -100
    soft = (2 * torch.randn(N, C, dtype=torch.float64, generator=generator)).softmax(1)
    weight = torch.rand(N, dtype=torch.float64, generator=generator)
    weight[:6] = 0
    return x, hard, soft, weight


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, C)).double()


def criteria(process_group: Any) -> dict[str, tuple[nn.Module, str]]:
    """Every loss with the kind of target it is trained with."""
    group = {"process_group": process_group}
    made: dict[str, tuple[nn.Module, str]] = {}
    for name, options in BALANCED.items():
        made[name] = (LogBalancedCrossEntropyLoss(C, **options, **group), "hard")
    for name in ("batch", "pair", "stream and prior", "nll"):
        made[f"{name}, soft"] = (LogBalancedCrossEntropyLoss(C, **BALANCED[name], **group), "soft")
    for pool in ("batch", "sample", "stream"):
        made[f"labels, {pool}"] = (MultiLabelCrossEntropyLoss(pool=pool, pos_weight=2.0, **group), "soft")
    for pool, inner in (("label", "odds"), ("label-stream", "nll"), ("sample", "nll")):
        options = {"pool": pool, "inner": inner, "prior": "auto"}
        made[f"labels, {pool}, {inner}"] = (MultiLabelCrossEntropyLoss(C, **options, **group), "soft")
    return made


Wrap = Callable[[nn.Module], nn.Module]
Result = dict[str, tuple[list[float], list[Tensor], dict[str, Tensor]]]


def train(mine: slice, process_group: Any, wrap: Wrap, only: tuple[str, ...] = ()) -> Result:
    """Return the losses, the weights and the criterion's state after a few steps, for every loss."""
    x, hard, soft, weight = rows()
    result: Result = {}
    for name, (criterion, kind) in criteria(process_group).items():
        if only and name not in only:
            continue
        model = wrap(network())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        losses = []
        for _ in range(STEPS):
            optimizer.zero_grad()
            options = {"sample_weight": weight[mine]} if kind == "soft" else {}
            target = soft if kind == "soft" else hard
            loss = criterion(model(x[mine]), target[mine], **options)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        result[name] = (losses, [full(p) for p in model.parameters()], criterion.state_dict())
    return result


def full(parameter: Tensor) -> Tensor:
    parameter = parameter.detach()
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter


def check_same(ranks: list[Result], alone: Result) -> None:
    assert ranks[0].keys() == alone.keys()
    for name, (losses, weights, state) in alone.items():
        of_ranks = [result[name] for result in ranks]
        values = torch.tensor([losses_of_rank for losses_of_rank, _, _ in of_ranks]).double()
        torch.testing.assert_close(values.mean(0), torch.tensor(losses).double(), rtol=1e-6, atol=1e-6, msg=name)
        for _, weights_of_rank, state_of_rank in of_ranks:
            for mine, theirs in zip(weights_of_rank, weights, strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")
            for key, value in state.items():
                torch.testing.assert_close(state_of_rank[key], value, rtol=1e-10, atol=1e-10, equal_nan=True, msg=key)
            for key, value in of_ranks[0][2].items():
                assert torch.equal(state_of_rank[key].nan_to_num(), value.nan_to_num()), (name, key)


def my_slice(rank: int, sizes: tuple[int, ...]) -> slice:
    return slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))


def train_all_splits(rank: int) -> dict[str, Result]:
    return {
        name: train(my_slice(rank, sizes), "world", DistributedDataParallel)
        for name, sizes in SIZES[dist.get_world_size()].items()
    }


@pytest.fixture(scope="module")
def alone() -> Result:
    return train(slice(0, N), None, lambda model: model)


@pytest.mark.parametrize("world", [2, *(pytest.param(world, marks=pytest.mark.slow) for world in (3, 4))])
def test_weights_after_some_steps_are_those_of_one_process(world, alone):
    """The first six rows are ignored: with (3, 1, 20) two ranks hold nothing else."""
    ranks = run_ranks(world, train_all_splits)
    for split in SIZES[world]:
        check_same([result[split] for result in ranks], alone)


# What two ranks show together in one spawn, to save starting processes.


@contextmanager
def counted_all_reduces() -> Iterator[list[tuple[tuple[int, ...], torch.dtype]]]:
    """List the shape and type of what is exchanged by this process's all-reduces."""
    seen: list[tuple[tuple[int, ...], torch.dtype]] = []
    inner = dist.all_reduce

    def counting(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append((tuple(tensor.shape), tensor.dtype))
        return inner(tensor, *args, **kwargs)

    dist.all_reduce = counting
    try:
        yield seen
    finally:
        dist.all_reduce = inner


def collectives_of(rank: int) -> dict[str, Any]:
    x, hard, soft, _ = rows()
    mine = my_slice(rank, (17, 7))
    logits, group = x[mine, :C].requires_grad_(), dist.group.WORLD
    found: dict[str, Any] = {}
    for name, call in {
        "class": lambda: log_balanced_cross_entropy(logits, hard[mine], process_group=group),
        "pair": lambda: log_balanced_cross_entropy(logits, hard[mine], balance="pair", process_group=group),
        "soft": lambda: log_balanced_cross_entropy(logits, soft[mine], process_group=group),
        "labels": lambda: multilabel_cross_entropy(logits, soft[mine], pool="batch", process_group=group),
        "module": lambda: LogBalancedCrossEntropyLoss(C, pool="stream", prior="auto", process_group=group)(
            logits, hard[mine]
        ),
        "evaluation": lambda: LogBalancedCrossEntropyLoss(process_group=group).eval()(logits, hard[mine]),
    }.items():
        call()  # the first of its kind in a group also exchanges the layouts
        # The profiler sees every collective, whatever Python name it was called by.
        with counted_all_reduces() as seen, torch.profiler.profile() as profile:
            call()
        ops = [event.name for event in profile.events() if event.name.startswith("gloo:")]
        found[name] = (seen, ops)
    return found


def told(call: Callable[[], Tensor]) -> str:
    try:
        call()
    except (RuntimeError, ValueError) as error:
        return str(error)
    return "no error"


def nan_on_one_rank(rank: int) -> dict[object, str]:
    logits, group = torch.zeros(4, C), dist.group.WORLD
    if rank == 1:
        logits[2, 0] = torch.nan
    target = torch.tensor([0, 1, 3, 2])
    return {
        pool: told(lambda pool=pool: log_balanced_cross_entropy(logits, target, pool=pool, process_group=group))
        for pool in ("batch", "sample", 2, 1)
    } | {"labels": told(lambda: multilabel_cross_entropy(logits, torch.zeros(4, C), process_group=group))}


def other_kinds_on_one_rank(rank: int) -> dict[str, str]:
    """What each rank is told where rank 1 has another kind of loss; equal ones then still work."""
    target, group = torch.arange(4), dist.group.WORLD

    def call(classes: int = C + 3, **options: Any) -> str:
        return told(lambda: log_balanced_cross_entropy(torch.zeros(4, classes), target, process_group=group, **options))

    return {
        "classes": call(C + 1 + rank),
        "balance": call(balance=("class", "pair")[rank]),
        "pool": call(pool=("batch", 2)[rank]),
        "compensation": call(compensation=("weight", None)[rank]),
        "same": call(),
        "again": call(),
    }


def fully_sharded(model: nn.Module) -> nn.Module:
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer)
    return fully_shard(model)


SHARDED = ("batch", "pair, soft", "stream and prior", "labels, sample")


def train_fsdp2(rank: int) -> Result:
    return train(my_slice(rank, (17, 7)), "world", fully_sharded, SHARDED)


def micro_batches_of(rank: int, wrap: Wrap, pieces: int) -> dict[str, list[Tensor]]:
    """Train on micro-batches whose lengths differ, by rank too."""
    x, hard, _, _ = rows()
    mine = my_slice(rank, (17, 7))
    result = {}
    for name in ("batch", "stream and prior", "pool 1"):
        criterion = LogBalancedCrossEntropyLoss(C, **BALANCED[name], process_group="world")
        model = wrap(network())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        with counted_all_reduces() as seen:
            for _ in range(STEPS):
                optimizer.zero_grad()
                parts = zip(x[mine].tensor_split(pieces), hard[mine].tensor_split(pieces), strict=True)
                accumulate(lambda loss, part, m=model: loss(m(part[0]), part[1]), criterion, parts, model=model)
                optimizer.step()
        assert len(seen) == STEPS, seen
        result[name] = [full(p) for p in model.parameters()]
    return result


OWN_POOLS = {"pool": 3, "prior": torch.tensor([4.0, 1.0, 2.0, 3.0])}


def own_pools(rank: int) -> tuple[float, Tensor]:
    """Pools that lie within a rank, the last of each one short."""
    x, hard, _, _ = rows()
    mine = my_slice(rank, (17, 7))
    logits = x[mine, :C].requires_grad_()
    loss = log_balanced_cross_entropy(logits, hard[mine], process_group="world", **OWN_POOLS)
    loss.backward()
    return loss.item(), logits.grad / dist.get_world_size()


def two_ranks(rank: int) -> dict[str, Any]:
    return {
        "own pools": own_pools(rank),
        "collectives": collectives_of(rank),
        "nan": nan_on_one_rank(rank),
        "other kinds": other_kinds_on_one_rank(rank),
        "fsdp2": train_fsdp2(rank),
        # Fully sharded models gather their weights together, so only there the ranks must keep step.
        "micro-batches": micro_batches_of(rank, DistributedDataParallel, pieces=4 - rank),
        "sharded micro-batches": micro_batches_of(rank, fully_sharded, pieces=3),
    }


@pytest.fixture(scope="module")
def of_two_ranks() -> list[dict[str, Any]]:
    return run_ranks(2, two_ranks)


def test_a_step_costs_one_all_reduce_of_a_few_numbers_a_class(of_two_ranks):
    for result in of_two_ranks:
        groups = {"class": C, "pair": C * C, "soft": C, "module": C}
        for name, (seen, ops) in result["collectives"].items():
            if name == "evaluation":
                assert seen == ops == []
                continue
            classes, numbers = (2, 2) if name == "labels" else (C, groups[name])
            assert seen == [((2, numbers + 2 * classes + 4), torch.float64)], name
            assert ops == ["gloo:all_reduce"], name


def test_nan_on_one_rank_is_told_on_every_rank_with_rank_and_class(of_two_ranks):
    for result in of_two_ranks:
        for pool, message in result["nan"].items():
            place = "class group 1" if pool == "labels" else "class 3"
            assert f"the class mass is NaN on rank 1 in {place}." in message, pool


def test_ranks_with_other_classes_balance_or_pools_are_all_told_whose(of_two_ranks):
    for result in of_two_ranks:
        messages = result["other kinds"]
        assert (
            f'rank 0 has balance "class" over {C + 1} classes, compensated, but rank 1 has balance "class" over '
            f"{C + 2} classes, compensated." in messages["classes"]
        )
        assert 'but rank 1 has balance "pair"' in messages["balance"]
        assert "compensated, but rank 1 has balance" in messages["compensation"]
        assert "with pools of its own." in messages["pool"]
        assert messages["same"] == messages["again"] == "no error"


def test_fully_sharded_weights_are_those_of_one_process(of_two_ranks, alone):
    check_same([result["fsdp2"] for result in of_two_ranks], {name: alone[name] for name in SHARDED})


@pytest.mark.parametrize("kind", ["micro-batches", "sharded micro-batches"])
def test_micro_batches_on_ranks_are_one_large_batch(kind, of_two_ranks, alone):
    for result in of_two_ranks:
        for name, weights in result[kind].items():
            for mine, theirs in zip(weights, alone[name][1], strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_pools_within_a_rank_count_alike_wherever_they_are(of_two_ranks):
    x, hard, _, _ = rows()
    logits = x[:, :C].clone().requires_grad_()
    ids = torch.cat([torch.arange(17) // 3, 6 + torch.arange(7) // 3])
    loss = log_balanced_cross_entropy(logits, hard, **(OWN_POOLS | {"pool": ids}))
    loss.backward()
    values, gradients = zip(*(result["own pools"] for result in of_two_ranks), strict=True)
    assert sum(values) / 2 == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(torch.cat(gradients), logits.grad, rtol=1e-10, atol=1e-10)


def waits_for_a_dead_rank(rank: int) -> tuple[str, float]:
    if rank == 1:
        os._exit(0)  # as a process that is killed: no clean-up, no word to the others
    started = time.monotonic()
    try:
        log_balanced_cross_entropy(torch.zeros(4, C), torch.arange(4), process_group=dist.group.WORLD)
    except RuntimeError as error:
        return str(error), time.monotonic() - started
    return "no error", 0.0


def waits_for_a_silent_rank(rank: int) -> tuple[str, float]:
    started = time.monotonic()
    if rank == 1:
        time.sleep(4.0)  # it never takes part in the step
        return "", 0.0
    try:
        log_balanced_cross_entropy(torch.zeros(4, C), torch.arange(4), process_group=dist.group.WORLD)
    except RuntimeError as error:
        return str(error), time.monotonic() - started
    return "no error", 0.0


@pytest.mark.parametrize("work", [waits_for_a_dead_rank, waits_for_a_silent_rank])
def test_a_rank_that_is_gone_leaves_an_error_within_the_groups_timeout(work):
    message, seconds = run_ranks(2, work, timeout=2.0)[0]
    assert message != "no error"
    assert seconds < 4.0
