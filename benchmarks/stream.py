"""How near do small batches with a stream come to one large batch? python benchmarks/stream.py.

Long-tailed digits, one hidden layer, float64. With the weights held still, the loss and the gradient of small batches
are compared with those of one large pool of as many sets as the stream stands for; then each way is trained with.
"""

from functools import cache

import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from equilog import LogBalancedCrossEntropyLoss

SMALL, LARGE, SEEDS = 32, 512, 3
MOMENTA = {f"stream, momentum {m:.4g}": m for m in (0.5, 1 - 4 * SMALL / LARGE, 1 - SMALL / LARGE)}


@cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return features and classes to train on, each class 0.7 times the one before, and an even test set."""
    images, labels = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(images / 16, labels, test_size=0.3, stratify=labels, random_state=0)
    kept = torch.rand(len(y), generator=torch.manual_seed(0)) < 0.7 ** torch.as_tensor(y)
    x, x_test, y, y_test = (torch.as_tensor(v) for v in (x, x_test, y, y_test))
    return x[kept], y[kept], x_test, y_test


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).double()


def batches(count: int, size: int, seed: int) -> Tensor:
    """Draw rows evenly, (batches, size)."""
    rows = len(digits()[1])
    return torch.randint(rows, (count, size), generator=torch.Generator().manual_seed(seed))


def value_and_gradient(model: nn.Module, criterion: nn.Module, rows: Tensor) -> tuple[float, Tensor]:
    x, y, *_ = digits()
    loss = criterion(model(x[rows]), y[rows])
    return loss.item(), torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def trained(criterion: nn.Module, size: int, sets: int, seed: int, lr: float) -> nn.Module:
    torch.manual_seed(seed)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    x, y, *_ = digits()
    for rows in batches(sets // size, size, seed):
        optimizer.zero_grad()
        criterion(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return model


def ways() -> dict[str, tuple[LogBalancedCrossEntropyLoss, int]]:
    """Return each way to train, with the size of its batches."""
    small = {f"batches of {SMALL} alone": (LogBalancedCrossEntropyLoss(pool="batch"), SMALL)}
    for name, momentum in MOMENTA.items():
        small[name] = (LogBalancedCrossEntropyLoss(10, pool="stream", momentum=momentum), SMALL)
    return small | {f"batches of {LARGE}": (LogBalancedCrossEntropyLoss(pool="batch"), LARGE)}


def gradient_table(model: nn.Module, title: str) -> Table:
    """Compare single steps, and their mean, with the mean over large batches."""
    large = LogBalancedCrossEntropyLoss(pool="batch")
    pairs = [value_and_gradient(model, large, rows) for rows in batches(200, LARGE, seed=1)]
    gradient = torch.stack([g for _, g in pairs]).mean(0)
    columns = (
        "",
        "effective sets",
        "loss",
        "sd of loss",
        "cosine of a step",
        "cosine of the mean",
        "length of the mean",
    )
    caption = f"Cosines and length against the mean gradient of batches of {LARGE}; 400 steps."
    table = Table(*columns, title=title, caption=caption)
    for name, (criterion, size) in ways().items():
        values, gradients = [], []
        for step, rows in enumerate(batches(500, size, seed=2)):
            value, single = value_and_gradient(model, criterion, rows)
            if step >= 100:  # a stream has then forgotten its start
                values.append(value)
                gradients.append(single)
        steps, mean = torch.stack(gradients), torch.stack(gradients).mean(0)
        cosines = nn.functional.cosine_similarity(steps, gradient[None])
        of_mean = nn.functional.cosine_similarity(mean, gradient, dim=0)
        spread = torch.tensor(values).std().item()
        table.add_row(name, f"{criterion.effective_sets:.0f}", f"{sum(values) / len(values):.2f}", f"{spread:.2f}",
                      f"{cosines.mean().item():.3f}", f"{of_mean.item():.4f}",
                      f"{(mean.norm() / gradient.norm()).item():.3f}")  # fmt: skip
    return table


def training_table(sets: int = 20 * LARGE) -> Table:
    """Train with each way on as many sets, each at the learning rate that suits it best."""
    x, y, x_test, y_test = digits()
    table = Table("", "steps", "learning rate", "loss of all rows in one pool", "balanced accuracy",
                  title="Trained on the same sets", caption=f"Mean of {SEEDS} seeds.")  # fmt: skip
    for name, (_, size) in ways().items():
        found = []
        for lr in (0.003, 0.01, 0.03, 0.1):
            models = [trained(ways()[name][0], size, sets, seed, lr) for seed in range(SEEDS)]
            with torch.no_grad():
                losses = [LogBalancedCrossEntropyLoss(pool="batch")(model(x), y).item() for model in models]
                accuracies = [balanced_accuracy_score(y_test, model(x_test).argmax(1)) for model in models]
            found.append((sum(losses) / SEEDS, lr, sum(accuracies) / SEEDS))
        loss, lr, accuracy = min(found)
        table.add_row(name, f"{sets // size}", f"{lr:g}", f"{loss:.2f}", f"{accuracy:.3f}")
    return table


def main() -> None:
    torch.set_num_threads(1)
    console = Console()
    torch.manual_seed(0)
    console.print(gradient_table(network(), "Weights as drawn"))
    early = trained(LogBalancedCrossEntropyLoss(pool="batch"), LARGE, 40 * LARGE, seed=0, lr=0.05)
    console.print(gradient_table(early, "After 40 steps of the large batch"))
    console.print(training_table())


if __name__ == "__main__":
    main()
