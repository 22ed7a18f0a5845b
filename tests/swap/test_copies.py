"""What is done to any module: copies, files, casts, the meta device, and averages of weights."""

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from equilog import LogBalancedCrossEntropyLoss
from swap.criteria import (
    CLASSES,
    Make,
    Model,
    assert_goes_on_alike,
    assert_same_state,
    every_criterion,
    made,
    recommended,
    rows,
    stateful_criteria,
    train,
    trained,
    without_state,
)


def through_a_file(model: Model) -> Model:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), through_a_file],
    ids=["deepcopy", "pickle", "save"],
)
@every_criterion
def test_a_copy_goes_on_alike(make: Make, copied: Callable[[Model], Model]) -> None:
    model = trained(make)
    assert_goes_on_alike(model, copied(model))


@every_criterion
def test_a_state_dict_goes_through_a_file_into_a_fresh_model(make: Make) -> None:
    model, fresh = trained(make), made(make, seed=1)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert_goes_on_alike(model, fresh)


@every_criterion
def test_a_checkpoint_made_with_cross_entropy_loads_strictly(make: Make) -> None:
    before, after = trained(nn.CrossEntropyLoss), trained(make)
    kept = {name: value.clone() for name, value in after.criterion.state_dict().items()}
    after.load_state_dict(before.state_dict(), strict=True)
    assert torch.equal(after.network[0].weight, before.network[0].weight)
    assert all(torch.equal(value, kept[name]) for name, value in after.criterion.state_dict().items())


def test_a_loss_without_state_has_an_empty_state_dict() -> None:
    assert LogBalancedCrossEntropyLoss(pool=4).state_dict() == {}


@stateful_criteria
def test_state_has_its_shape_from_the_start(make: Make) -> None:
    model = made(make)
    before = {name: (value.shape, value.dtype) for name, value in model.state_dict().items()}
    train(model)
    assert {name: (value.shape, value.dtype) for name, value in model.state_dict().items()} == before


@pytest.mark.parametrize("cast", ["half", "bfloat16", "double", "float"])
@every_criterion
def test_a_cast_keeps_the_precision_of_what_is_remembered(make: Make, cast: str) -> None:
    model = trained(make)
    after = getattr(copy.deepcopy(model), cast)()
    assert_same_state(model.criterion, after.criterion)
    assert torch.isfinite(
        after.criterion(torch.zeros(6, CLASSES).to(after.network[0].weight), torch.arange(6) % CLASSES)
    )


def test_large_counts_survive_half_precision() -> None:
    """65504 is the largest number of float16."""
    criterion = recommended(prior=[900_000, 70_000, 5, 1]).half()
    assert torch.isfinite(criterion(torch.zeros(2, CLASSES), torch.tensor([0, 3])))


@every_criterion
def test_a_model_from_the_meta_device_takes_a_checkpoint(make: Make) -> None:
    model = trained(make)
    with torch.device("meta"):
        fresh = Model(make)
    fresh.to_empty(device="cpu")
    fresh.load_state_dict(model.state_dict())
    assert_goes_on_alike(model, fresh)


@every_criterion
def test_a_checkpoint_may_be_assigned_to_a_model_on_the_meta_device(make: Make) -> None:
    model = trained(make)
    with torch.device("meta"):
        fresh = Model(make)
    fresh.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    assert_goes_on_alike(model, fresh)


@pytest.mark.parametrize("assign", [False, True], ids=["to_empty", "assign"])
@stateful_criteria
def test_state_that_no_checkpoint_has_is_that_of_no_steps(make: Make, assign: bool) -> None:
    before = trained(make)
    fresh = made(make).to("meta")
    if assign:
        fresh.load_state_dict(without_state(before.state_dict()), assign=True)
        fresh.to("cpu")
    else:
        fresh.to_empty(device="cpu").load_state_dict(without_state(before.state_dict()))
    assert_same_state(fresh.criterion, made(make).criterion)


def test_values_that_are_lost_on_the_meta_device_are_no_prior() -> None:
    criterion = recommended(prior=[8.0, 4.0, 2.0, 1.0]).to("meta").to_empty(device="cpu")
    with pytest.raises(ValueError, match="prior must be positive"):
        criterion(torch.zeros(2, CLASSES), torch.tensor([0, 1]))


def test_reset_parameters_forgets_the_steps() -> None:
    model = trained(recommended)
    model.criterion.reset_parameters()
    assert_same_state(model.criterion, recommended())


@every_criterion
def test_a_device_without_float64_takes_the_model(make: Make) -> None:
    """As Apple's GPUs refuse it."""

    def moved(tensor: Tensor) -> Tensor:
        if tensor.dtype == torch.float64:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )
        return tensor.to("cpu", copy=True)

    model = trained(make)
    before = copy.deepcopy(model)
    model._apply(moved)
    assert_goes_on_alike(before, model)


@pytest.mark.parametrize("use_buffers", [False, True], ids=["parameters", "buffers"])
@pytest.mark.parametrize("kind", ["swa", "ema"])
@every_criterion
def test_averaged_models_average(make: Make, kind: str, use_buffers: bool) -> None:
    model = made(make)
    average = AveragedModel(
        model, multi_avg_fn=get_ema_multi_avg_fn(0.5) if kind == "ema" else None, use_buffers=use_buffers
    )
    seen = []
    for step in range(3):
        train(model, 1, first=step)
        average.update_parameters(model)
        seen.append(copy.deepcopy(model.state_dict()))
    share = torch.tensor([0.25, 0.25, 0.5] if kind == "ema" else [1 / 3] * 3, dtype=torch.float64)
    for name, value in average.module.state_dict().items():
        averaged = use_buffers or name.startswith("network.")
        each = torch.stack([state[name].double() for state in seen])
        expected = (each * share.reshape(-1, *[1] * value.dim())).sum(0) if averaged else each[-1]
        if not value.is_floating_point():
            expected = expected.to(value.dtype)
        # float32: a few times 1e-7 of values of 1.
        torch.testing.assert_close(value.double(), expected.double(), rtol=1e-6, atol=1e-6, msg=name)
    update_bn([rows(9)[0]], average)
    average(*rows(9)).backward()
