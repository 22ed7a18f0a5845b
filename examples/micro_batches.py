"""A batch too large for memory: micro-batches that make exactly the same step.

python examples/micro_batches.py
"""

import torch
from sklearn.datasets import load_digits

from equilog import LogBalancedCrossEntropyLoss, accumulate


def train(micro_batch_size: int | None, steps: int = 5) -> torch.nn.Module:
    """Train on batches of 300 rows, of which `micro_batch_size` are held in memory with their activations."""
    images, digits = load_digits(return_X_y=True)
    x, y = torch.as_tensor(images / 16, dtype=torch.float32), torch.as_tensor(digits)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
    criterion = LogBalancedCrossEntropyLoss(num_classes=10, pool="batch", prior="auto")
    for rows in torch.randperm(len(y)).split(300)[:steps]:
        optimizer.zero_grad()
        if micro_batch_size is None:
            criterion(model(x[rows]), y[rows]).backward()
        else:
            parts = rows.split(micro_batch_size)
            accumulate(lambda loss, part: loss(model(x[part]), y[part]), criterion, parts, model=model)
        optimizer.step()
    return model


def main() -> None:
    large, small = train(None), train(128)
    pairs = zip(large.parameters(), small.parameters(), strict=True)
    print(f"largest difference of a weight: {max(float((a - b).detach().abs().max()) for a, b in pairs):.1e}")


if __name__ == "__main__":
    main()
