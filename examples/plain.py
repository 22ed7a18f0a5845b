"""The loss in a plain PyTorch training loop: one line is replaced.

python examples/plain.py
"""

import torch
from sklearn.datasets import load_digits
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import train_test_split

from equilog import LogBalancedCrossEntropyLoss


def long_tailed_digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Digits of which each is seen half as often as the one before; the test set is even."""
    images, digits = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(images / 16, digits, test_size=0.3, stratify=digits, random_state=0)
    kept = torch.rand(len(y), generator=torch.manual_seed(0)) < 0.5 ** torch.as_tensor(y)
    x, x_test = (torch.as_tensor(v, dtype=torch.float32) for v in (x, x_test))
    return x[kept], torch.as_tensor(y)[kept], x_test, torch.as_tensor(y_test)


def train(criterion: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int = 20) -> torch.nn.Module:
    """Return the trained model."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(epochs):
        for rows in torch.randperm(len(y)).split(64):
            optimizer.zero_grad()
            loss = criterion(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
    return model


@torch.no_grad()
def balanced_accuracies() -> tuple[float, float, float]:
    """Return that of cross-entropy, of equilog by its bare logits, and of equilog calibrated."""
    x, y, x_test, y_test = long_tailed_digits()
    criterion = LogBalancedCrossEntropyLoss(num_classes=10, pool=4, prior="auto")
    with torch.enable_grad():
        plain, balanced = train(torch.nn.CrossEntropyLoss(), x, y), train(criterion, x, y)
    calibration = criterion.calibrate(balanced(x), y)  # with the rows that it was trained on
    logits = balanced(x_test)
    decided = plain(x_test).argmax(1), logits.argmax(1), calibration.predict(logits)
    return tuple(float(balanced_accuracy_score(y_test, labels)) for labels in decided)


def main() -> None:
    plain, bare, calibrated = balanced_accuracies()
    print(f"cross-entropy  {plain:.3f}")
    print(f"equilog        {bare:.3f}   balanced accuracy, by the largest logit")
    print(f"               {calibrated:.3f}   and calibrated")


if __name__ == "__main__":
    main()
