"""Tasks so small that a training takes milliseconds."""

from functools import partial

import torch
from benchmarks.quality.task import IGNORED, Rows, Split, Task
from torch import Tensor, nn


def clouds(seed: int, *, positions: int = 0, soft: bool = False) -> Split:
    """Three overlapping clouds of 40, 20 and 10 training rows; with positions, the same cloud at each of them."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.tensor([[0.0, 0.0], [1.5, 0.0], [0.0, 1.5]])

    def rows(counts: list[int]) -> Rows:
        codes = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
        features = centres[codes] + torch.randn(len(codes), 2, generator=generator)
        if soft:
            return Rows(features, (torch.cdist(features, centres).neg().softmax(1),))
        if positions:
            features = features[:, None].repeat(1, positions, 1)
            codes = codes[:, None].repeat(1, positions)
            codes[:, -1] = IGNORED
        return Rows(features, (codes,))

    even = torch.arange(60)
    return Split(rows([40, 20, 10]), rows([30, 30, 30]), rows([30, 30, 30]), (3,), even, even)


class PerPosition(nn.Module):
    """One linear layer at every position."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, features: Tensor) -> Tensor:
        """(N, T, 2) -> (N, 3, T)."""
        return self.layer(features).movedim(-1, 1)


def linear(_: Split) -> nn.Module:
    """One linear layer."""
    return nn.Linear(2, 3)


def per_position(_: Split) -> nn.Module:
    """One linear layer at every position."""
    return PerPosition()


_toy = partial(Task, question="?", epochs=2, batch_size=32, learning_rates=(1e-2, 1e-1), weight_decays=(0.0, 0.1))
TOY = _toy(
    "toy",
    kind="multiclass",
    load=clouds,
    model=linear,
    settings=("cross-entropy", "balanced-softmax", "class-16-auto"),
    metric="balanced_accuracy",
    imbalance=50,
)
SOFT = _toy(
    "soft toy",
    kind="soft",
    load=partial(clouds, soft=True),
    model=linear,
    settings=("cross-entropy", "class-batch-none"),
    metric="kl",
)
SENTENCES = _toy(
    "sentences",
    kind="multiclass",
    load=partial(clouds, positions=4),
    model=per_position,
    settings=("cross-entropy", "class-sample-none"),
    metric="macro_f1",
)
