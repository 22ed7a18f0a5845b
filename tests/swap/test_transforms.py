"""What wraps a call: torch.func, activation checkpointing, inference mode, torch.compile, torch.export."""

import copy
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, stack_module_state, vmap
from torch.utils.checkpoint import checkpoint

from equilog import MultiLabelCrossEntropyLoss, accumulate
from swap.criteria import (
    CLASSES,
    CRITERIA,
    FEATURES,
    Make,
    Model,
    assert_goes_on_alike,
    assert_same_state,
    every_criterion,
    made,
    recommended,
    rows,
    stateful_criteria,
    trained,
)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_same_gradients(one: nn.Module, other: nn.Module) -> None:
    ones, others = gradients(one), gradients(other)
    assert ones.keys() == others.keys() != set()
    for name, value in ones.items():
        # The same sums of float32, now and then in another order.
        torch.testing.assert_close(value, others[name], rtol=1e-5, atol=1e-7, msg=lambda text, name=name: name + text)


@every_criterion
def test_torch_func_takes_the_gradient_of_a_model_in_training_and_counts_nothing(make: Make) -> None:
    model, (x, target) = trained(make), rows(5)
    before = copy.deepcopy(model)
    parameters = dict(model.named_parameters())
    found = grad(lambda values: functional_call(model, values, (x, target)))(parameters)
    assert_same_state(before, model)
    model.zero_grad()
    model(x, target).backward()
    for name, value in gradients(model).items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)


@every_criterion
def test_per_sample_gradients_in_training(make: Make) -> None:
    model, (x, target) = trained(make), rows(5, count=3)
    before = copy.deepcopy(model)
    parameters = dict(model.named_parameters())

    def loss(values: dict[str, Tensor], features: Tensor, label: Tensor) -> Tensor:
        return functional_call(model, values, (features[None], label[None]))

    found = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, target)
    assert_same_state(before, model)
    for row in range(3):
        expected = grad(loss)(parameters, x[row], target[row])
        for name, value in expected.items():
            torch.testing.assert_close(found[name][row], value, rtol=1e-5, atol=1e-7)


@every_criterion
def test_an_ensemble_trains_in_one_call(make: Make) -> None:
    """As torch's tutorial on ensembles has it, the module that is called being on the meta device."""
    models, (x, target) = [made(make, seed) for seed in range(2)], rows(5)
    parameters, buffers = stack_module_state(models)
    base = copy.deepcopy(models[0]).to("meta")

    def loss(values: dict[str, Tensor], state: dict[str, Tensor]) -> Tensor:
        return functional_call(base, (values, state), (x, target))

    found, values = vmap(grad_and_value(loss))(parameters, buffers)
    for number, model in enumerate(models):
        expected = model(x, target)
        expected.backward()
        torch.testing.assert_close(values[number], expected)
        for name, value in gradients(model).items():
            torch.testing.assert_close(found[name][number], value, rtol=1e-5, atol=1e-7)


@every_criterion
def test_a_first_call_in_inference_mode_changes_nothing(make: Make) -> None:
    model, untouched = made(make), made(make)
    with torch.inference_mode():
        model(*rows(9))
    assert_goes_on_alike(untouched, model)


Region = Callable[[Model, Tensor, Tensor, Callable[..., Tensor]], Tensor]


def criterion_alone(model: Model, x: Tensor, target: Tensor, run: Callable[..., Tensor]) -> Tensor:
    return run(model.criterion, model.network(x), target)


def whole_model(model: Model, x: Tensor, target: Tensor, run: Callable[..., Tensor]) -> Tensor:
    return run(model, x, target)


def target_made_within(model: Model, x: Tensor, target: Tensor, run: Callable[..., Tensor]) -> Tensor:
    return run(lambda x, target: model(x, target.clone()), x, target)


def directly(call: Callable[..., Tensor], *arguments: Any) -> Tensor:
    return call(*arguments)


def checkpointed(call: Callable[..., Tensor], *arguments: Any) -> Tensor:
    return checkpoint(call, *arguments, use_reentrant=False)


def reentrant(call: Callable[..., Tensor], *arguments: Any) -> Tensor:
    return checkpoint(call, *arguments, use_reentrant=True)


regions = pytest.mark.parametrize(
    "region", [criterion_alone, whole_model, target_made_within], ids=lambda region: region.__name__
)


@pytest.mark.parametrize("run", [checkpointed, reentrant], ids=lambda run: run.__name__)
@regions
@every_criterion
def test_checkpointing_changes_neither_gradients_nor_counts(make: Make, region: Region, run: Any) -> None:
    plain, saving = made(make), made(make)
    for step in range(3):
        x, target = rows(step)
        for model, way in ((plain, directly), (saving, run)):
            model.zero_grad()
            # A reentrant checkpoint passes gradients on where an input asks for one.
            loss = region(model, x.clone().requires_grad_(), target, way)
            loss.backward()
        assert_same_gradients(plain, saving)
        assert_same_state(plain, saving)


@pytest.mark.parametrize("order", ["summed", "first first", "last first"])
@regions
@stateful_criteria
def test_several_checkpointed_calls_before_a_backward_pass(make: Make, region: Region, order: str) -> None:
    """Of the same targets, in every order."""
    plain, saving = trained(make), trained(make)
    target = rows(0)[1]
    count = 6 if order == "summed" else 3
    for model, way in ((plain, directly), (saving, checkpointed)):
        model.zero_grad()
        losses = [region(model, rows(number)[0], target, way) for number in range(count)]
        if order == "summed":
            torch.stack(losses).sum().backward()
        for loss in () if order == "summed" else losses if order == "first first" else reversed(losses):
            loss.backward()
    assert_same_gradients(plain, saving)
    assert_same_state(plain, saving)


@stateful_criteria
def test_several_calls_within_one_checkpoint(make: Make) -> None:
    """Deep supervision: a head in the middle, with the targets of the last."""
    plain, saving = trained(make), trained(make)
    x, target = rows(5)

    def both(model: Model, x: Tensor) -> Tensor:
        return model(x, target) + 0.3 * model(2 * x, target)

    for model, way in ((plain, directly), (saving, checkpointed)):
        model.zero_grad()
        way(lambda x, model=model: both(model, x), x).backward()
    assert_same_gradients(plain, saving)
    assert_same_state(plain, saving)


@stateful_criteria
def test_several_reentrant_calls_before_a_backward_pass_count_together(make: Make) -> None:
    """Each has the gradient of its value, which is that of the state before all of them."""
    saving, frozen = trained(make), trained(make)
    for number in range(3):
        one = copy.deepcopy(frozen)
        one.zero_grad()
        one(*rows(number)).backward()
        for parameter, other in zip(frozen.parameters(), one.parameters(), strict=True):
            parameter.grad = other.grad.clone() + (0 if number == 0 else parameter.grad)
    saving.zero_grad()
    inputs = [(rows(number)[0].requires_grad_(), rows(number)[1]) for number in range(3)]
    torch.stack([reentrant(saving, *row) for row in inputs]).sum().backward()
    assert_same_gradients(frozen, saving)
    counted = trained(make)
    for number in range(3):
        counted(*rows(number))
    mine, theirs = saving.state_dict(), counted.state_dict()
    for name in ("criterion.class_count",):
        if name in mine:
            assert torch.equal(mine[name], theirs[name])


@stateful_criteria
def test_a_second_backward_pass_counts_no_more(make: Make) -> None:
    plain, saving = trained(make), trained(make)
    for model, way in ((plain, directly), (saving, checkpointed)):
        model.zero_grad()
        loss = way(model, *rows(5))
        loss.backward(retain_graph=True)
        loss.backward()
    assert_same_gradients(plain, saving)
    assert_same_state(plain, saving)


@stateful_criteria
def test_checkpointing_within_accumulated_micro_batches(make: Make) -> None:
    plain, saving = trained(make), trained(make)
    x, target = rows(5)
    for model, way in ((plain, directly), (saving, checkpointed)):
        criterion = getattr(model.criterion, "criterion", model.criterion)

        def call(loss: Any, batch: Any, model: Model = model, way: Any = way, criterion: Any = criterion) -> Tensor:
            features, label = batch
            if isinstance(criterion, MultiLabelCrossEntropyLoss):
                label = nn.functional.one_hot(label, CLASSES).float()
            return way(lambda features: loss(model.network(features), label), features)

        model.zero_grad()
        accumulate(call, criterion, list(zip(x.split(5), target.split(5), strict=True)))
    assert_same_gradients(plain, saving)
    assert_same_state(plain, saving)


def test_what_was_computed_is_let_go_with_its_graph() -> None:
    model = made(recommended)
    x, target = rows(0)
    loss = model(x, target)
    kept = weakref.ref(loss.grad_fn.metadata["equilog"])
    loss.backward()
    assert kept() is not None
    del loss
    assert kept() is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["recommended", "labels of a stream"])
def test_a_compiled_step_is_the_eager_step(name: str) -> None:
    torch.compiler.reset()
    eager, compiled = made(CRITERIA[name]), made(CRITERIA[name])

    def step(model: Model, x: Tensor, target: Tensor) -> Tensor:
        return model(x, target)

    fast = torch.compile(step, backend="aot_eager", fullgraph=True)
    for number in range(2):
        for model, call in ((eager, step), (compiled, fast)):
            model.zero_grad()
            call(model, *rows(number)).backward()
        assert_same_gradients(eager, compiled)
    # A stream is summed in another order.
    for name, value in eager.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], value, rtol=1e-6, atol=0.0, msg=name)


class Decides(nn.Module):
    """A network and what its logits say, as it is shipped."""

    def __init__(self, network: nn.Module, calibration: nn.Module) -> None:
        super().__init__()
        self.network, self.calibration = network, calibration

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = self.network(x)
        says = self.calibration
        return says.predict(logits), says.probabilities(logits), says.probabilities(logits, "posterior")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["recommended", "weighted", "labels"])
def test_a_calibrated_model_is_exported(name: str) -> None:
    model, (x, target) = trained(CRITERIA[name]).eval(), rows(5, count=40)
    criterion: Any = model.criterion
    logits = model.network(x).detach()
    if name.startswith("labels"):
        criterion, target = criterion.criterion, nn.functional.one_hot(target, CLASSES)
    shipped = Decides(model.network, criterion.calibrate(logits, target)).eval()
    rows_of_a_batch = torch.export.Dim("rows", min=1, max=1024)
    program = torch.export.export(shipped, (x,), dynamic_shapes=({0: rows_of_a_batch},))
    other = torch.randn(7, FEATURES, generator=torch.Generator().manual_seed(3))
    for mine, theirs in zip(program.module()(other), shipped(other), strict=True):
        torch.testing.assert_close(mine, theirs)
