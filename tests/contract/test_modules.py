"""The modules: the functions' values, what they remember, and that they survive what is done to modules."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contract.cases import Case, cases
from equilog import (
    LogBalancedCrossEntropyLoss,
    MultiLabelCrossEntropyLoss,
    log_balanced_cross_entropy,
    multilabel_cross_entropy,
)

MODULES = [LogBalancedCrossEntropyLoss, MultiLabelCrossEntropyLoss]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", cases())
def test_a_module_is_its_function(case: Case, training: bool) -> None:
    inputs = case.inputs()
    options: dict[str, Any] = dict(inputs.options)
    called = {name: options.pop(name) for name in ("sample_weight", "mask") if name in options}
    module = MODULES[case.multilabel](**options).train(training)
    logits = inputs.logits.clone().requires_grad_()
    loss = module(logits, inputs.target, **called)
    assert torch.equal(loss, case.loss(inputs))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.equal(gradient, case.gradient(inputs))


def counted(criterion: LogBalancedCrossEntropyLoss) -> list[float]:
    assert criterion.class_count is not None
    return criterion.class_count.tolist()


def test_a_running_prior_counts_index_targets() -> None:
    criterion = LogBalancedCrossEntropyLoss(prior="auto", ignore_index=-1)
    logits = torch.zeros(2, 3, 2)
    criterion(logits, torch.tensor([[0, 0], [1, -1]]))
    assert counted(criterion) == [1 + 2, 1 + 1, 1]
    criterion(logits, torch.tensor([[2, 0], [-1, -1]]))
    assert counted(criterion) == [1 + 3, 1 + 1, 1 + 1]


def test_a_running_prior_counts_soft_targets_and_weights() -> None:
    criterion = LogBalancedCrossEntropyLoss(prior="auto")
    target = torch.tensor([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]])
    criterion(torch.zeros(2, 3), target)
    assert counted(criterion) == [1.5, 2.25, 1.25]
    criterion(torch.zeros(2, 3), target, sample_weight=torch.tensor([4.0, 0.0]))
    assert counted(criterion) == [3.5, 3.25, 2.25]
    criterion(torch.zeros(2, 3), torch.tensor([2, 2]), sample_weight=torch.tensor([0.5, 2.0]))
    assert counted(criterion) == [3.5, 3.25, 4.75]


def test_a_running_prior_counts_exactly_under_autocast_and_for_long() -> None:
    """bfloat16 holds 8 digits of 2, float32 stops counting ones at 2**24."""
    criterion = LogBalancedCrossEntropyLoss(prior="auto")
    target = torch.full((999, 3), 1 / 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        criterion(torch.zeros(999, 3), target)
    assert counted(criterion) == pytest.approx([334.0] * 3, rel=1e-6)
    assert criterion.class_count is not None
    criterion.class_count += 2.0**26
    criterion(torch.zeros(1, 3), torch.tensor([0]))
    before = counted(criterion)
    criterion(torch.zeros(1, 3), torch.tensor([0]))
    assert counted(criterion)[0] - before[0] == 1.0


def test_the_prior_of_a_step_is_that_of_earlier_steps() -> None:
    """So that parts of a step, and ranks, all see one prior; the first step has none."""
    criterion = LogBalancedCrossEntropyLoss(prior="auto")
    logits, target = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 0, 0, 0, 1, 2])
    assert torch.equal(criterion(logits, target), log_balanced_cross_entropy(logits, target))
    prior = torch.tensor([5.0, 2.0, 2.0])
    expected = log_balanced_cross_entropy(logits, target, prior=prior)
    torch.testing.assert_close(criterion(logits, target), expected)


def test_evaluation_uses_the_prior_and_counts_nothing() -> None:
    criterion = LogBalancedCrossEntropyLoss(prior="auto")
    logits, target = torch.zeros(4, 3), torch.tensor([0, 0, 1, 2])
    criterion(logits, target)
    criterion.eval()
    before = counted(criterion)
    value = criterion(logits, target)
    assert counted(criterion) == before
    expected = log_balanced_cross_entropy(logits, target, prior=torch.tensor(before))
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("make", MODULES)
def test_evaluation_remembers_nothing(make: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    criterion = make(pool="stream")
    batches = [(torch.randn(6, 3, generator=generator), torch.rand(6, 3, generator=generator)) for _ in range(3)]
    criterion(*batches[0])
    criterion(*batches[1])
    before = copy.deepcopy(criterion)
    criterion.eval()
    criterion(*batches[2])
    assert_same_state(before, criterion)


def trained(seed: int = 0) -> LogBalancedCrossEntropyLoss:
    """A module that has counted, streamed and observed."""
    generator = torch.Generator().manual_seed(seed)
    criterion = LogBalancedCrossEntropyLoss(pool="stream", prior="auto", weight=torch.tensor([1.0, 2.0, 0.5]))
    for _ in range(3):
        criterion(torch.randn(8, 3, generator=generator), torch.randint(3, (8,), generator=generator))
    criterion.observe(torch.randn(8, 3, generator=generator), torch.randint(3, (8,), generator=generator))
    return criterion


def assert_same_state(one: nn.Module, other: nn.Module) -> None:
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert value.dtype == theirs[name].dtype, name
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=0, equal_nan=True, msg=name)


def fresh() -> LogBalancedCrossEntropyLoss:
    return LogBalancedCrossEntropyLoss(pool="stream", prior="auto", weight=torch.ones(3))


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a model"])
def test_state_dict_goes_into_a_fresh_module(inside: bool) -> None:
    before = trained()
    after = fresh()
    source, sink = (nn.ModuleDict({"loss": each}) if inside else each for each in (before, after))
    saved = io.BytesIO()
    torch.save(source.state_dict(), saved)
    saved.seek(0)
    sink.load_state_dict(torch.load(saved, weights_only=True))
    assert_same_state(before, after)
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    for kind in ("balanced", "posterior"):
        assert torch.equal(before.probabilities(logits, kind), after.probabilities(logits, kind))


def test_state_dict_goes_into_a_module_that_has_seen_something_else() -> None:
    before, after = trained(0), trained(1)
    after.load_state_dict(before.state_dict())
    assert_same_state(before, after)


@pytest.mark.parametrize(
    "through",
    [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module)), lambda module: module.to("cpu")],
    ids=["deepcopy", "pickle", "to"],
)
def test_what_is_remembered_survives(through: Any) -> None:
    before = trained()
    after = through(copy.deepcopy(before))
    assert_same_state(before, after)
    logits, target = torch.randn(8, 3, generator=torch.Generator().manual_seed(2)), torch.arange(8) % 3
    assert torch.equal(before(logits, target), after(logits, target))
    assert_same_state(before, after)


@pytest.mark.parametrize("cast", ["half", "bfloat16", "double", "float"])
def test_a_cast_keeps_the_precision_of_what_is_remembered(cast: str) -> None:
    before = trained()
    after = getattr(copy.deepcopy(before), cast)()
    assert_same_state(before, after)
    model = nn.Sequential(nn.Linear(2, 3), copy.deepcopy(before)).half()
    assert model[0].weight.dtype == torch.float16
    assert_same_state(before, model[1])


def test_memory_takes_no_part_in_gradients() -> None:
    criterion = LogBalancedCrossEntropyLoss(prior="auto", pool="stream")
    target = torch.full((4, 3), 1 / 3).requires_grad_()
    criterion(torch.randn(4, 3, requires_grad=True), target)
    assert not any(buffer.requires_grad for buffer in criterion.buffers())


@pytest.mark.parametrize("make", MODULES)
def test_modules_have_no_parameters_and_describe_themselves(make: Any) -> None:
    module = make(pool=4)
    assert list(module.parameters()) == []
    assert "pool=4" in repr(module)


@pytest.mark.parametrize("kind", ["balanced", "posterior"])
@pytest.mark.parametrize("shape", [(4,), (6, 4), (2, 4, 3), (2, 4, 3, 2)], ids=str)
@pytest.mark.parametrize("prior", [None, "auto"])
@pytest.mark.parametrize("observed", [False, True])
def test_probabilities_are_of_the_logits_shape_and_sum_to_one(
    kind: Any, shape: tuple[int, ...], prior: Any, observed: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    criterion = LogBalancedCrossEntropyLoss(pool=4, prior=prior)
    seen = torch.randn(32, 4, generator=generator), torch.randint(3, (32,), generator=generator)
    criterion(*seen)
    if observed:
        criterion.observe(*seen)
    logits = torch.randn(shape, generator=generator)
    dim = 0 if len(shape) == 1 else 1
    for given in (logits, logits.double(), logits.half()):
        found = criterion.probabilities(given, kind)
        assert found.shape == shape
        assert found.dtype == (torch.float64 if given.dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(found.sum(dim), torch.ones_like(found.sum(dim)))
        assert (found >= 0).all()
    decided = criterion.predict(logits)
    assert decided.shape == shape[:dim] + shape[dim + 1 :]
    assert torch.equal(decided, criterion.probabilities(logits, "balanced").argmax(dim))
    # A temperature changes how sure, never which.
    assert torch.equal(decided, criterion.probabilities(logits, "balanced", temperature=7.0).argmax(dim))


@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("shape", [(4,), (6, 4), (2, 4, 3)], ids=str)
def test_multilabel_probabilities(shape: tuple[int, ...], observed: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    criterion = MultiLabelCrossEntropyLoss(pool="batch")
    if observed:
        criterion.observe(torch.randn(8, 4, generator=generator), torch.randint(2, (8, 4), generator=generator))
    logits = torch.randn(shape, generator=generator)
    for kind in ("balanced", "posterior"):
        found = criterion.probabilities(logits, kind)
        assert found.shape == shape
        assert ((found > 0) & (found < 1)).all()
    assert torch.equal(criterion.predict(logits), (logits > 0).long())
    assert torch.equal(criterion.predict(logits), (criterion.probabilities(logits, "balanced") > 0.5).long())


def test_a_whole_training_step_replaces_cross_entropy() -> None:
    """A model with its loss inside, trained and evaluated as with torch.nn.CrossEntropyLoss."""
    torch.manual_seed(0)
    x = torch.randn(256, 2)
    target = (x[:, 0] + 0.3 * torch.randn(256) > 1.5).long()
    assert 0 < int(target.sum()) < 32  # a rare class
    model, criterion = nn.Linear(2, 2), LogBalancedCrossEntropyLoss(pool=16, prior="auto")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(100):
        optimizer.zero_grad()
        criterion(model(x), target).backward()
        optimizer.step()
    right = (criterion.predict(model(x)) == target).float()
    recall = torch.stack([right[target == c].mean() for c in (0, 1)])
    assert float(recall.min()) > 0.8


def multilabel_values(logits: Tensor, target: Tensor) -> list[float]:
    return multilabel_cross_entropy(logits, target, reduction="none").tolist()


def test_multilabel_pools_are_samples_unless_told_otherwise() -> None:
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    target = torch.randint(2, (3, 5), generator=torch.Generator().manual_seed(1))
    apart = [multilabel_values(logits[i : i + 1], target[i : i + 1])[0] for i in range(3)]
    assert multilabel_values(logits, target) == pytest.approx(apart, rel=1e-6)
