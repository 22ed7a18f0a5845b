"""The criteria that stand where cross-entropy stood, cross-entropy among them: what it does the others must do too."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equilog import LogBalancedCrossEntropyLoss, MultiLabelCrossEntropyLoss

FEATURES, CLASSES = 3, 4
Make = Callable[[], nn.Module]


class LabelsOfClasses(nn.Module):
    """A criterion of yes/no labels, called with class indices."""

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.criterion = criterion

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.criterion(logits, (target[:, None] == torch.arange(logits.shape[1])).to(logits.dtype))


def recommended(**options: Any) -> LogBalancedCrossEntropyLoss:
    return LogBalancedCrossEntropyLoss(**{"num_classes": CLASSES, "pool": 4, "prior": "auto"} | options)


CRITERIA: dict[str, Make] = {
    "cross-entropy": nn.CrossEntropyLoss,
    "recommended": recommended,
    "stateless": lambda: LogBalancedCrossEntropyLoss(pool=4),
    "weighted": lambda: recommended(prior=[8, 4, 2, 1], weight=[1.0, 2.0, 3.0, 4.0]),
    "stream": lambda: recommended(pool="stream"),
    "labels": lambda: LabelsOfClasses(MultiLabelCrossEntropyLoss(pos_weight=2.0)),
    "labels of a stream": lambda: LabelsOfClasses(MultiLabelCrossEntropyLoss(pool="stream")),
}


def _criteria(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("make", [CRITERIA[name] for name in names], ids=names)


every_criterion = _criteria(*CRITERIA)
stateful_criteria = _criteria("recommended", "stream", "labels of a stream")
main_criteria = _criteria("cross-entropy", "recommended", "labels of a stream")
two_criteria = _criteria("recommended", "labels of a stream")
"""For tools that take their time."""


class Model(nn.Module):
    """A network with its criterion inside: model(x) -> logits, model(x, target) -> loss."""

    def __init__(self, make: Make) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(FEATURES, 5), nn.Tanh(), nn.Linear(5, CLASSES))
        self.criterion = make()

    def forward(self, x: Tensor, target: Tensor | None = None) -> Tensor:
        logits = self.network(x)
        return logits if target is None else self.criterion(logits, target)


def made(make: Make, seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return Model(make)


def rows(seed: int = 0, count: int = 12) -> tuple[Tensor, Tensor]:
    """Features and classes, a few of one and many of another."""
    generator = torch.Generator().manual_seed(seed)
    chance = torch.tensor([8.0, 4.0, 2.0, 1.0])
    return (
        torch.randn(count, FEATURES, generator=generator),
        torch.multinomial(chance, count, replacement=True, generator=generator),
    )


def train(model: nn.Module, steps: int = 3, first: int = 0) -> list[float]:
    """Take steps of SGD on batches of their own, and return their losses."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for step in range(first, first + steps):
        optimizer.zero_grad()
        loss = model(*rows(step))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def trained(make: Make) -> Model:
    model = made(make)
    train(model)
    return model


def assert_same_state(one: nn.Module, other: nn.Module) -> None:
    """Same names, types and values, to the last digit."""
    ones, others = one.state_dict(), other.state_dict()
    assert ones.keys() == others.keys()
    for name, value in ones.items():
        assert value.dtype == others[name].dtype, name
        assert torch.equal(value, others[name]), name


def assert_goes_on_alike(one: nn.Module, other: nn.Module) -> None:
    """The same state, and after two more steps too."""
    assert_same_state(one, other)
    assert train(one, 2, first=7) == train(other, 2, first=7)
    assert_same_state(one, other)


def without_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint as cross-entropy would have made it."""
    return {name: value for name, value in state.items() if not name.startswith("criterion.")}
