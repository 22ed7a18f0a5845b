"""Hugging Face accelerate: save_state and load_state in both formats, accumulation, and models loaded by parts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator, init_empty_weights, load_checkpoint_and_dispatch
from accelerate.state import AcceleratorState, GradientState
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from swap.criteria import (
    Make,
    Model,
    assert_goes_on_alike,
    assert_same_state,
    made,
    main_criteria,
    rows,
    stateful_criteria,
    train,
    trained,
    without_state,
)


@pytest.fixture
def accelerator() -> Any:
    yield Accelerator(cpu=True, gradient_accumulation_steps=2)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def fit(accelerator: Accelerator, model: nn.Module) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Train as accelerate's own guide does, with gradient accumulation and an evaluation."""
    model, optimizer, loader = accelerator.prepare(
        model, torch.optim.SGD(model.parameters(), lr=0.1), DataLoader(TensorDataset(*rows(0, count=32)), batch_size=8)
    )
    for x, target in loader:
        with accelerator.accumulate(model):
            accelerator.backward(model(x, target))
            optimizer.step()
            optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        model(*rows(9))
    model.train()
    return model, optimizer


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "pickle"])
@main_criteria
def test_load_state_goes_on_from_save_state(make: Make, safe: bool, accelerator: Accelerator, tmp_path: Path) -> None:
    model, _ = fit(accelerator, made(make))
    before = made(make)
    before.load_state_dict(model.state_dict())
    accelerator.save_state(str(tmp_path / "state"), safe_serialization=safe)
    train(model, 2, first=20)
    accelerator.load_state(str(tmp_path / "state"))
    assert_goes_on_alike(before, model)


@stateful_criteria
def test_accumulated_steps_count_every_row_once(make: Make, accelerator: Accelerator) -> None:
    model, _ = fit(accelerator, made(make))
    if (count := model.state_dict().get("criterion.class_count")) is not None:
        assert torch.equal(count, rows(0, count=32)[1].bincount(minlength=len(count)).double())


@stateful_criteria
def test_a_checkpoint_of_cross_entropy_is_loaded_and_dispatched(
    make: Make, accelerator: Accelerator, tmp_path: Path
) -> None:
    before = trained(nn.CrossEntropyLoss)
    accelerator.save_model(before, str(tmp_path))
    with init_empty_weights(include_buffers=True):
        model = Model(make)
    model = load_checkpoint_and_dispatch(model, str(tmp_path), device_map={"": "cpu"})
    assert torch.equal(model.network[0].weight, before.network[0].weight)
    expected = made(make)
    assert_same_state(model.criterion, expected.criterion)
    expected.load_state_dict(without_state(before.state_dict()))
    assert_goes_on_alike(model, expected)


@main_criteria
def test_a_checkpoint_with_state_is_loaded_and_dispatched(make: Make, accelerator: Accelerator, tmp_path: Path) -> None:
    before = trained(make)
    accelerator.save_model(before, str(tmp_path))
    with init_empty_weights(include_buffers=True):
        model = Model(make)
    assert_goes_on_alike(before, load_checkpoint_and_dispatch(model, str(tmp_path), device_map={"": "cpu"}))
