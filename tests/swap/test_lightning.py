"""PyTorch Lightning: the averaging callback, the learning-rate finder, checkpoints, and its own evaluation steps."""

import copy
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from pytorch_lightning.tuner import Tuner
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from swap.criteria import Make, Model, assert_same_state, made, main_criteria, rows, stateful_criteria, train

pytestmark = [
    # A few rows need no processes that load them, and Lightning says so of its own internals.
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*number of training batches"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*exists and is not empty"),
]
ROWS = 32


class Learner(pl.LightningModule):
    """The model of the other tests, learning as Lightning has it."""

    def __init__(self, make: Make) -> None:
        super().__init__()
        self.model = made(make)
        self.lr = 0.1

    def training_step(self, batch: Any) -> Tensor:
        return self.model(*batch)

    def validation_step(self, batch: Any) -> None:
        self.log("loss", self.model(*batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def loaders() -> dict[str, DataLoader]:
    return {
        "train_dataloaders": DataLoader(TensorDataset(*rows(0, count=ROWS)), batch_size=8),
        "val_dataloaders": DataLoader(TensorDataset(*rows(1, count=ROWS)), batch_size=8),
    }


def trainer(folder: Path, epochs: int = 2, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **{"enable_checkpointing": False} | options,
    )


def by_hand(make: Make, epochs: int = 2) -> Model:
    """The same training in a loop of three lines."""
    model = made(make)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(epochs):
        for x, target in loaders()["train_dataloaders"]:
            optimizer.zero_grad()
            model(x, target).backward()
            optimizer.step()
    return model


@main_criteria
def test_it_trains_as_a_plain_loop_does_and_counts_no_validation_row(make: Make, tmp_path: Path) -> None:
    """Validation runs before the first epoch, as a check of sanity, and after each."""
    learner = Learner(make)
    trainer(tmp_path).fit(learner, **loaders())
    assert_same_state(by_hand(make), learner.model)


@main_criteria
def test_the_averaging_callback_averages(make: Make, tmp_path: Path) -> None:
    learner = Learner(make)
    trainer(tmp_path, callbacks=[EMAWeightAveraging(decay=0.5)]).fit(learner, **loaders())
    plain = by_hand(make)
    for name, value in learner.model.state_dict().items():
        assert torch.isfinite(value).all(), name
        assert value.shape == plain.state_dict()[name].shape
    assert not torch.equal(learner.model.network[0].weight, plain.network[0].weight)


@main_criteria
def test_the_finder_of_learning_rates_rolls_back(make: Make, tmp_path: Path) -> None:
    learner = Learner(make)
    before = copy.deepcopy(learner.model)
    Tuner(trainer(tmp_path, enable_checkpointing=True)).lr_find(learner, **loaders(), num_training=8, min_lr=1e-4)
    assert_same_state(before, learner.model)


@main_criteria
def test_a_resumed_training_ends_where_a_straight_one_does(make: Make, tmp_path: Path) -> None:
    straight, first, resumed = Learner(make), Learner(make), Learner(make)
    trainer(tmp_path, epochs=3).fit(straight, **loaders())
    begun = trainer(tmp_path, epochs=1)
    begun.fit(first, **loaders())
    begun.save_checkpoint(tmp_path / "begun.ckpt")
    train(resumed.model, 1)  # what it has seen is forgotten
    trainer(tmp_path, epochs=3).fit(resumed, **loaders(), ckpt_path=tmp_path / "begun.ckpt", weights_only=False)
    assert_same_state(straight.model, resumed.model)


@stateful_criteria
def test_a_checkpoint_of_cross_entropy_loads_strictly(make: Make, tmp_path: Path) -> None:
    before = Learner(nn.CrossEntropyLoss)
    training = trainer(tmp_path, epochs=1)
    training.fit(before, **loaders())
    training.save_checkpoint(tmp_path / "before.ckpt")
    after = Learner.load_from_checkpoint(tmp_path / "before.ckpt", make=make, strict=True, weights_only=False)
    assert torch.equal(after.model.network[0].weight, before.model.network[0].weight)
    assert_same_state(after.model.criterion, made(make).criterion)
    # And training goes on from it, the optimizer's state included.
    trainer(tmp_path, epochs=2).fit(after, **loaders(), ckpt_path=tmp_path / "before.ckpt", weights_only=False)
