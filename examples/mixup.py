"""Mixup and label smoothing: soft targets, in micro-batches that make exactly the step of the large batch.

python examples/mixup.py
"""

import torch
from sklearn.datasets import load_digits

from equilog import LogBalancedCrossEntropyLoss, accumulate


def train(micro_batch_size: int, steps: int = 5) -> torch.nn.Module:
    """Train on mixed batches of 300 rows."""
    images, digits = load_digits(return_X_y=True)
    x, y = torch.as_tensor(images / 16, dtype=torch.float32), torch.as_tensor(digits)
    one_hot = torch.nn.functional.one_hot(y).float()
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
    criterion = LogBalancedCrossEntropyLoss(num_classes=10, pool="batch", label_smoothing=0.1)
    for rows in torch.randperm(len(y)).split(300)[:steps]:
        share, others = torch.distributions.Beta(0.4, 0.4).sample(), rows.roll(1)
        mixed = share * x[rows] + (1 - share) * x[others]
        target = share * one_hot[rows] + (1 - share) * one_hot[others]
        optimizer.zero_grad()
        parts = zip(mixed.split(micro_batch_size), target.split(micro_batch_size), strict=True)
        loss = accumulate(lambda loss, part: loss(model(part[0]), part[1]), criterion, parts, model=model)
        optimizer.step()
        print(f"loss {loss.item():.5f}")
    return model


def main() -> None:
    train(micro_batch_size=128)


if __name__ == "__main__":
    main()
