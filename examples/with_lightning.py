"""PyTorch Lightning: automatic optimisation, accumulate_grad_batches and ddp.

python examples/with_lightning.py
python examples/with_lightning.py --devices 2     # ddp; the same weights in the end

Lightning shows a module one micro-batch at a time, but the class mass of a step is needed before its first gradient.
So the loader hands the micro-batches of a step along with the first of them.
"""

import argparse
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from equilog import Accumulation, LogBalancedCrossEntropyLoss

ROWS = 1600


class StepByStep:
    """A loader's batches, the first of every k with the list of them all, the others with an empty list."""

    def __init__(self, loader: DataLoader, k: int) -> None:
        self.loader, self.k = loader, k

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Any, list[Any]]]:
        batches = iter(self.loader)
        while step := list(islice(batches, self.k)):
            for i, batch in enumerate(step):
                yield batch, [] if i else step


class Classifier(pl.LightningModule):
    """A classifier of digits. The criterion is a submodule, so checkpoints hold its running prior."""

    def __init__(self) -> None:
        super().__init__()
        self.network = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10))
        self.criterion = LogBalancedCrossEntropyLoss(num_classes=10, pool="batch", prior="auto", process_group="world")

    def on_train_start(self) -> None:
        """Know how many micro-batches make a step."""
        # Lightning divides the loss by the number of micro-batches.
        self.step = Accumulation(self.criterion, model=self, loss_scale=self.trainer.accumulate_grad_batches)

    def call(self, loss: Any, batch: Any) -> torch.Tensor:
        """Return a micro-batch's loss."""
        x, y = batch
        return loss(self.network(x), y)

    def training_step(self, batch: Any) -> torch.Tensor:
        """Return the micro-batch's share of the step's loss."""
        batch, step = batch
        if step:
            self.step.gather(self.call, step)
        return self.step.part(self.call, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.SGD(self.parameters(), lr=2.0)

    def train_dataloader(self) -> StepByStep:
        """Return this rank's micro-batches."""
        images, digits = load_digits(return_X_y=True)
        data = TensorDataset(torch.as_tensor(images[:ROWS] / 16, dtype=torch.float32), torch.as_tensor(digits[:ROWS]))
        world, k = self.trainer.world_size, self.trainer.accumulate_grad_batches
        sampler = DistributedSampler(data, world, self.trainer.global_rank, shuffle=False)
        return StepByStep(DataLoader(data, 400 // (world * k), sampler=sampler), k)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--devices", type=int, default=1)
    arguments.add_argument("--micro-batches", type=int, default=4, help="of each step of 400 rows")
    arguments.add_argument("--save", help="file for the weights")
    options = arguments.parse_args()
    pl.seed_everything(0, verbose=False)
    model = Classifier()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=options.devices,
        strategy="ddp" if options.devices > 1 else "auto",
        accumulate_grad_batches=options.micro_batches,
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model)
    if options.save and trainer.is_global_zero:
        torch.save(model.network.state_dict(), options.save)


if __name__ == "__main__":
    main()
