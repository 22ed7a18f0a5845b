"""Hugging Face accelerate, with gradient accumulation.

python examples/with_accelerate.py
accelerate launch --cpu --num_processes 2 examples/with_accelerate.py     # the same weights in the end
"""

import argparse

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from equilog import LogBalancedCrossEntropyLoss, accumulate


def train(accelerator: Accelerator, *, batch_size: int = 240, micro_batch_size: int = 50) -> torch.nn.Module:
    """Train one epoch on batches of `batch_size` rows in all, in micro-batches."""
    images, digits = load_digits(return_X_y=True)
    data = TensorDataset(torch.as_tensor(images / 16, dtype=torch.float32), torch.as_tensor(digits))
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Dropout(0.0), torch.nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
    # A loader of a rank's rows of one step; accumulation is ours, so Accelerator is not told of it.
    loader = DataLoader(data, batch_size=batch_size // accelerator.num_processes, drop_last=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    criterion = LogBalancedCrossEntropyLoss(num_classes=10, pool="batch", prior="auto", process_group="world").to(
        accelerator.device
    )
    for x, y in loader:
        optimizer.zero_grad()
        parts = zip(x.split(micro_batch_size), y.split(micro_batch_size), strict=True)
        loss = accumulate(
            lambda loss, part: loss(model(part[0]), part[1]),
            criterion,
            parts,
            model=model,
            backward=accelerator.backward,
        )
        optimizer.step()
        accelerator.print(f"loss {loss.item():.6f}")
    return accelerator.unwrap_model(model)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--save", help="file for the weights")
    arguments.add_argument("--micro-batch-size", type=int, default=50)
    options = arguments.parse_args()
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    model = train(accelerator, micro_batch_size=options.micro_batch_size)
    if options.save:
        accelerator.save(model.state_dict(), options.save)
    accelerator.end_training()


if __name__ == "__main__":
    main()
