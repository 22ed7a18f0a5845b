"""The modules: the functions' values, what they remember, and that they survive what is done to modules."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contract.cases import Case, cases
from equilog import (
    LogBalancedCrossEntropyLoss,
    MultiLabelCrossEntropyLoss,
    class_mass,
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


def learning(*shape: int, seed: int | None = None) -> Tensor:
    """Logits of a training step: zeros, or random where there is a seed."""
    if seed is None:
        return torch.zeros(shape, requires_grad=True)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def counted(criterion: LogBalancedCrossEntropyLoss) -> list[float]:
    assert criterion.class_count is not None
    return criterion.class_count.tolist()


def running(**options: Any) -> LogBalancedCrossEntropyLoss:
    return LogBalancedCrossEntropyLoss(3, prior="auto", **options)


@pytest.mark.parametrize("case", cases())
def test_a_module_without_running_prior_or_stream_has_no_state_of_its_own(case: Case) -> None:
    """What it was given is a buffer, so that it goes where the module goes; a training step changes nothing."""
    inputs = case.inputs()
    options: dict[str, Any] = dict(inputs.options)
    called = {name: options.pop(name) for name in ("sample_weight", "mask") if name in options}
    module = MODULES[case.multilabel](**options)
    given = {name for name in ("prior", "weight", "pos_weight") if options.get(name) is not None}
    given |= {"pool_ids"} if isinstance(options.get("pool"), Tensor) else set()
    before = copy.deepcopy(module)
    assert set(module.state_dict()) == given
    module(inputs.logits.clone().requires_grad_(), inputs.target, **called)
    assert_same_state(before, module)


@pytest.mark.parametrize("options", [{"prior": "auto"}, {"pool": "stream"}], ids=str)
def test_a_running_prior_and_a_stream_need_the_number_of_classes(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^LogBalancedCrossEntropyLoss: .* Say LogBalancedCrossEntropyLoss\(num_cl"):
        LogBalancedCrossEntropyLoss(**options)
    options = {"pool": "label-stream"} if "pool" in options else options
    with pytest.raises(ValueError, match=r"^MultiLabelCrossEntropyLoss: .* Say MultiLabelCrossEntropyLoss\(num_labels"):
        MultiLabelCrossEntropyLoss(**options)


def test_labels_count_their_positives_and_negatives_each() -> None:
    """By the weights of the labels, named or with a value each; of the next step the prior is one more of each."""
    x, target = learning(4, 3, seed=0), torch.tensor([[1, 0, 0], [1, 0, 1], [0, 0, 0], [1, 0, 1]])
    weight = torch.tensor([1.0, 2.0, 0.0, 0.5])
    mask = torch.tensor([True, True, False])
    named = torch.tensor([[0, -1], [2, 0], [-1, -1], [0, 2]])
    for form in (target, named, target.float()):
        criterion = MultiLabelCrossEntropyLoss(3, prior="auto", pool="label", prior_strength=0.5)
        criterion(x, form, sample_weight=weight, mask=mask)
        assert criterion.class_count is not None
        assert criterion.class_count.tolist() == [[3.5, 0.0], [0.0, 3.5], [0.0, 0.0]]
        prior = torch.tensor([4.5 / 5.5, 1 / 5.5, 0.5])
        expected = multilabel_cross_entropy(x, target, pool="label", prior=prior, prior_strength=0.5)
        torch.testing.assert_close(criterion(x, form), expected)
    with pytest.raises(ValueError, match=r"the running prior counts 3 labels, but logits have 2. Say num_labels=2"):
        criterion(learning(4, 2), torch.zeros(4, 2))
    stream = MultiLabelCrossEntropyLoss(3, pool="label-stream")
    with pytest.raises(ValueError, match=r"the stream is one of 3 labels, but logits have 2. Say num_labels=2"):
        stream(learning(4, 2), torch.zeros(4, 2))


@pytest.mark.parametrize("balance", ["class", "pair", "none", torch.tensor([4, 0, 4])], ids=str)
def test_state_has_its_shape_from_the_start(balance: Any) -> None:
    criterion = running(pool="stream", balance=balance)
    before = {name: (value.data_ptr(), value.shape, value.dtype) for name, value in criterion.state_dict().items()}
    for step in range(3):
        criterion(learning(8, 3, seed=step), torch.arange(8) % 3)
    after = {name: (value.data_ptr(), value.shape, value.dtype) for name, value in criterion.state_dict().items()}
    assert before == after
    assert set(before) == {"class_count", "stream"}


def test_a_running_prior_counts_index_targets() -> None:
    criterion = running(ignore_index=-1)
    logits = learning(2, 3, 2)
    criterion(logits, torch.tensor([[0, 0], [1, -1]]))
    assert counted(criterion) == [2, 1, 0]
    criterion(logits, torch.tensor([[2, 0], [-1, -1]]))
    assert counted(criterion) == [3, 1, 1]


def test_a_running_prior_counts_soft_targets_and_weights() -> None:
    criterion = running()
    target = torch.tensor([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]])
    criterion(learning(2, 3), target)
    assert counted(criterion) == [0.5, 1.25, 0.25]
    criterion(learning(2, 3), target, sample_weight=torch.tensor([4.0, 0.0]))
    assert counted(criterion) == [2.5, 2.25, 1.25]
    criterion(learning(2, 3), torch.tensor([2, 2]), sample_weight=torch.tensor([0.5, 2.0]))
    assert counted(criterion) == [2.5, 2.25, 3.75]


def test_a_running_prior_counts_what_smoothing_spreads() -> None:
    """Evenly over the classes that take part in each set."""
    criterion = running(label_smoothing=0.75)
    target = torch.tensor([0, 1])
    criterion(learning(2, 3), target)
    assert counted(criterion) == [0.75, 0.75, 0.5]
    criterion(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, -torch.inf]], requires_grad=True), target)
    assert counted(criterion) == [1.625, 1.625, 0.75]


def test_a_running_prior_counts_exactly_under_autocast_and_for_long() -> None:
    """bfloat16 holds 8 digits of 2, float32 stops counting ones at 2**24."""
    criterion = running()
    target = torch.full((999, 3), 1 / 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        criterion(learning(999, 3), target)
    assert counted(criterion) == pytest.approx([333.0] * 3, rel=1e-6)
    assert criterion.class_count is not None
    criterion.class_count += 2.0**26
    before = counted(criterion)
    criterion(learning(1, 3), torch.tensor([0]))
    assert counted(criterion)[0] - before[0] == 1.0


def test_one_call_counts_more_than_float32_can() -> None:
    """20 million sets of one class, of one logit each."""
    mass = class_mass(torch.zeros(1, 1).expand(2**24 + 5, 1), torch.zeros(2**24 + 5, dtype=torch.uint8))
    assert mass.class_count.tolist() == [2.0**24 + 5]


def test_the_prior_of_a_step_is_that_of_earlier_steps() -> None:
    """So that parts of a step, and ranks, all see one prior; one of each class is added, so the first has none."""
    criterion = running()
    logits, target = learning(6, 3, seed=0), torch.tensor([0, 0, 0, 0, 1, 2])
    torch.testing.assert_close(criterion(logits, target), log_balanced_cross_entropy(logits, target))
    prior = torch.tensor([5.0, 2.0, 2.0])
    expected = log_balanced_cross_entropy(logits, target, prior=prior)
    torch.testing.assert_close(criterion(logits, target), expected)


def test_evaluation_uses_the_prior_and_counts_nothing() -> None:
    criterion = running()
    logits, target = learning(4, 3), torch.tensor([0, 0, 1, 2])
    criterion(logits, target)
    criterion.eval()
    before = counted(criterion)
    value = criterion(logits, target)
    assert counted(criterion) == before == [2, 1, 1]
    expected = log_balanced_cross_entropy(logits, target, prior=torch.tensor([3.0, 2.0, 2.0]))
    torch.testing.assert_close(value, expected)


def without_gradient(criterion: Any, logits: Tensor, target: Tensor) -> None:
    criterion(logits.detach(), target)


def under_no_grad(criterion: Any, logits: Tensor, target: Tensor) -> None:
    with torch.no_grad():
        criterion(logits, target)


def under_inference_mode(criterion: Any, logits: Tensor, target: Tensor) -> None:
    with torch.inference_mode():
        criterion(logits, target)


def under_func_grad(criterion: Any, logits: Tensor, target: Tensor) -> None:
    torch.func.grad(lambda z: criterion(z, target))(logits.detach())


def as_a_part(criterion: Any, logits: Tensor, target: Tensor) -> None:
    criterion(logits, target, class_mass=criterion.class_mass(logits, target))


REMEMBERING: dict[str, Callable[[], LogBalancedCrossEntropyLoss | MultiLabelCrossEntropyLoss]] = {
    "classes": lambda: LogBalancedCrossEntropyLoss(3, pool="stream", prior="auto"),
    "labels": lambda: MultiLabelCrossEntropyLoss(pool="stream"),
    "each label": lambda: MultiLabelCrossEntropyLoss(3, pool="label-stream", prior="auto", inner="nll"),
}
remembering = pytest.mark.parametrize("make", REMEMBERING.values(), ids=REMEMBERING)


@pytest.mark.parametrize("call", [without_gradient, under_no_grad, under_inference_mode, under_func_grad, as_a_part])
@remembering
def test_only_a_step_that_learns_is_remembered(make: Any, call: Any) -> None:
    """A validation loop in training mode is none, and leaves the next step as it would have been."""
    criterion, other = make(), make()
    target = torch.rand(6, 3, generator=torch.Generator().manual_seed(0)).softmax(1)
    for each in (criterion, other):
        each(learning(6, 3, seed=0), target)
    call(criterion, learning(6, 3, seed=1), target)
    assert_same_state(criterion, other)
    losses = [each(learning(6, 3, seed=2), target) for each in (criterion, other)]
    assert torch.equal(*losses)
    assert_same_state(criterion, other)


@remembering
def test_evaluation_remembers_nothing(make: Any) -> None:
    criterion = make()
    target = torch.rand(6, 3, generator=torch.Generator().manual_seed(0)).softmax(1)
    criterion(learning(6, 3, seed=0), target)
    criterion(learning(6, 3, seed=1), target)
    before = copy.deepcopy(criterion)
    criterion.eval()
    criterion(learning(6, 3, seed=2), target)
    assert_same_state(before, criterion)


def trained(seed: int = 0) -> LogBalancedCrossEntropyLoss:
    """A module that has counted and streamed."""
    generator = torch.Generator().manual_seed(seed)
    criterion = running(pool="stream", weight=torch.tensor([1.0, 2.0, 0.5]))
    for step in range(3):
        criterion(learning(8, 3, seed=step), torch.randint(3, (8,), generator=generator))
    return criterion


def assert_same_state(one: nn.Module, other: nn.Module) -> None:
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert value.dtype == theirs[name].dtype, name
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=0, equal_nan=True, msg=name)


def fresh() -> LogBalancedCrossEntropyLoss:
    return running(pool="stream", weight=torch.ones(3))


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
    logits, target = learning(5, 3, seed=1), torch.arange(5) % 3
    assert torch.equal(before(logits, target), after(logits, target))
    assert torch.equal(before.probabilities(logits), after.probabilities(logits))
    mine, theirs = (each.calibrate(logits, target) for each in (before, after))
    assert torch.equal(mine.probabilities(logits, "posterior"), theirs.probabilities(logits, "posterior"))


def test_a_checkpoint_from_before_the_swap_leaves_what_is_remembered_as_it_is() -> None:
    model = nn.ModuleDict({"layer": nn.Linear(2, 3), "loss": trained()})
    before = copy.deepcopy(model["loss"])
    old = nn.ModuleDict({"layer": nn.Linear(2, 3), "loss": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]))})
    model.load_state_dict(old.state_dict())
    assert_same_state(before, model["loss"])


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
    logits, target = learning(8, 3, seed=2), torch.arange(8) % 3
    assert torch.equal(before(logits, target), after(logits, target))
    assert_same_state(before, after)


@pytest.mark.parametrize("cast", ["half", "bfloat16", "double", "float"])
def test_a_cast_keeps_the_precision_of_what_is_remembered(cast: str) -> None:
    before = trained()
    after = getattr(copy.deepcopy(before), cast)()
    model = nn.Sequential(nn.Linear(2, 3), copy.deepcopy(before)).half()
    assert model[0].weight.dtype == torch.float16
    for cast_module in (after, model[1]):
        for name in ("class_count", "stream"):
            assert torch.equal(getattr(cast_module, name), getattr(before, name))
            assert getattr(cast_module, name).dtype == torch.float64


def test_memory_takes_no_part_in_gradients() -> None:
    criterion = running(pool="stream")
    target = torch.full((4, 3), 1 / 3).requires_grad_()
    criterion(learning(4, 3, seed=0), target)
    assert not any(buffer.requires_grad for buffer in criterion.buffers())


@pytest.mark.parametrize("make", MODULES)
def test_modules_have_no_parameters_and_describe_themselves(make: Any) -> None:
    module = make(pool=4)
    assert list(module.parameters()) == []
    assert "pool=4" in repr(module)


@pytest.mark.parametrize("kind", ["balanced", "posterior"])
@pytest.mark.parametrize("shape", [(4,), (6, 4), (2, 4, 3), (2, 4, 3, 2)], ids=str)
@pytest.mark.parametrize("prior", [None, "auto"])
@pytest.mark.parametrize("calibrated", [False, True])
def test_probabilities_are_of_the_logits_shape_and_sum_to_one(
    kind: Any, shape: tuple[int, ...], prior: Any, calibrated: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    criterion = LogBalancedCrossEntropyLoss(4, pool=4, prior=prior)
    seen = torch.randn(32, 4, generator=generator).requires_grad_(), torch.randint(3, (32,), generator=generator)
    criterion(*seen)
    decider = criterion.calibrate(*seen) if calibrated else criterion
    logits = torch.randn(shape, generator=generator)
    dim = 0 if len(shape) == 1 else 1
    if not calibrated and kind == "posterior":
        with pytest.raises(RuntimeError, match=r"calibration = criterion\.calibrate\(logits, target\)"):
            criterion.probabilities(logits, kind)
        return
    for given in (logits, logits.double(), logits.half()):
        found = decider.probabilities(given, kind)
        assert found.shape == shape
        assert found.dtype == (torch.float64 if given.dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(found.sum(dim), torch.ones_like(found.sum(dim)))
        assert (found >= 0).all()
    decided = decider.predict(logits)
    assert decided.shape == shape[:dim] + shape[dim + 1 :]
    assert torch.equal(decided, decider.probabilities(logits).argmax(dim))
    if calibrated:  # a temperature changes how sure, never which
        assert torch.equal(decided, decider.probabilities(logits, "balanced", temperature=7.0).argmax(dim))


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("shape", [(4,), (6, 4), (2, 4, 3)], ids=str)
def test_multilabel_probabilities(shape: tuple[int, ...], calibrated: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    criterion = MultiLabelCrossEntropyLoss(pool="batch")
    seen = torch.randn(8, 4, generator=generator), torch.randint(2, (8, 4), generator=generator)
    decider = criterion.calibrate(*seen, pool_size=32) if calibrated else criterion
    logits = torch.randn(shape, generator=generator)
    for kind in ("balanced", "posterior") if calibrated else ("balanced",):
        found = decider.probabilities(logits, kind)
        assert found.shape == shape
        assert ((found > 0) & (found < 1)).all()
    assert torch.equal(decider.predict(logits), (logits > 0).long())
    assert torch.equal(decider.predict(logits), (decider.probabilities(logits) > 0.5).long())


def test_a_whole_training_replaces_cross_entropy() -> None:
    """A model with its loss inside, trained and evaluated as with torch.nn.CrossEntropyLoss, at the same rate."""
    torch.manual_seed(0)
    x = torch.randn(256, 2)
    target = (x[:, 0] + 0.3 * torch.randn(256) > 1.5).long()
    assert 0 < int(target.sum()) < 32  # a rare class
    least = []
    for criterion in (LogBalancedCrossEntropyLoss(2, pool=16, prior="auto"), nn.CrossEntropyLoss()):
        torch.manual_seed(1)
        model = nn.Linear(2, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for _ in range(400):
            optimizer.zero_grad()
            criterion(model(x), target).backward()
            optimizer.step()
        decided = getattr(criterion, "predict", lambda logits: logits.argmax(1))(model(x))
        right = (decided == target).float()
        least.append(min(float(right[target == c].mean()) for c in (0, 1)))
    assert least[0] > 0.8 > least[1]


def multilabel_values(logits: Tensor, target: Tensor) -> list[float]:
    return multilabel_cross_entropy(logits, target, reduction="none").tolist()


def test_multilabel_pools_are_samples_unless_told_otherwise() -> None:
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    target = torch.randint(2, (3, 5), generator=torch.Generator().manual_seed(1))
    apart = [multilabel_values(logits[i : i + 1], target[i : i + 1])[0] for i in range(3)]
    assert multilabel_values(logits, target) == pytest.approx(apart, rel=1e-6)
