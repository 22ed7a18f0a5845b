"""What share of a whole training step the loss is: a multi-layer perceptron and a small transformer on random data."""

from collections.abc import Callable
from functools import partial

import torch
from benchmarks.speed.measure import Step, ratios
from torch import Tensor, nn
from torch.nn import functional as F

from equilog import log_balanced_cross_entropy

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "torch cross_entropy": F.cross_entropy,
    "class balance, batch": log_balanced_cross_entropy,
    "class balance, pools of 16": lambda z, t: log_balanced_cross_entropy(z, t, pool=16),
}


def perceptron() -> tuple[nn.Module, Tensor, Tensor]:
    """Return a model of 28 x 28 pictures, and a batch of 256 in 10 classes."""
    model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    return model, torch.randn(256, 784), torch.randint(10, (256,))


def transformer() -> tuple[nn.Module, Tensor, Tensor]:
    """Return a model of 4 layers of width 128, and 16 sequences of 64 tokens out of 5,000 to predict."""
    layer = nn.TransformerEncoderLayer(128, 4, 512, batch_first=True)
    body = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
    model = nn.Sequential(nn.Embedding(5000, 128), body, nn.Linear(128, 5000), nn.Flatten(0, 1))
    tokens = torch.randint(5000, (16, 64))
    return model, tokens, tokens.roll(-1, 1).flatten()


MODELS = {"MLP, 256 x 10": perceptron, "transformer, 1024 x 5000": transformer}


def shares(rounds: int, seconds: float) -> list[dict[str, object]]:
    """Return for each model and loss the milliseconds of a step, and the share of it that the loss takes.

    The step without a loss is one that is handed a gradient for the logits.
    """
    rows: list[dict[str, object]] = []
    for name, build in MODELS.items():
        torch.manual_seed(0)
        bare, over = ratios(*_steps(*build()), rounds, seconds)
        rows += [
            {"model": name, "loss": label, "step_ms": bare * ratio, "share_of_loss": 1 - 1 / ratio}
            for label, ratio in over.items()
        ]
    return rows


def _steps(model: nn.Module, batch: Tensor, target: Tensor) -> tuple[dict[str, Step], Step]:
    """Return the training step with each loss, and the one without."""
    optimizer = torch.optim.AdamW(model.parameters())
    given = torch.randn_like(model(batch))

    def step(loss: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        optimizer.zero_grad()
        logits = model(batch)
        if loss is None:
            logits.backward(given)
        else:
            loss(logits, target).backward()
        optimizer.step()

    step()
    return {label: partial(step, loss) for label, loss in LOSSES.items()}, step
