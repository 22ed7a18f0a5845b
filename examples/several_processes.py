"""Data parallelism: every process holds some rows of a batch, and the loss is that of the whole batch.

python examples/several_processes.py                          # one process
torchrun --nproc-per-node 2 examples/several_processes.py     # two, with the same weights in the end

Several hosts: the same script with torchrun's --nnodes, --rdzv-backend c10d and --rdzv-endpoint.
"""

import argparse
import os

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch.nn.parallel import DistributedDataParallel

from equilog import LogBalancedCrossEntropyLoss


def train(steps: int = 5) -> torch.nn.Module:
    """Train on batches of 300 rows in all."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    images, digits = load_digits(return_X_y=True)
    x, y = torch.as_tensor(images / 16, dtype=torch.float32), torch.as_tensor(digits)
    torch.manual_seed(0)
    model: torch.nn.Module = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    if world > 1:
        model = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
    criterion = LogBalancedCrossEntropyLoss(num_classes=10, pool="batch", prior="auto", process_group="world")
    for batch in torch.randperm(len(y)).split(300)[:steps]:
        rows = batch[rank::world]
        optimizer.zero_grad()
        loss = criterion(model(x[rows]), y[rows])  # the same number on every rank
        loss.backward()
        optimizer.step()
        if rank == 0:
            print(f"loss {loss.item():.6f}")
    return model.module if world > 1 else model


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--save", help="file for the weights")
    save = arguments.parse_args().save
    if "RANK" in os.environ:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        model = train()
        if save and int(os.environ.get("RANK", 0)) == 0:
            torch.save(model.state_dict(), save)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == "__main__":
    main()
