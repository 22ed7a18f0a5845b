"""The bias that a constant model would learn."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from equilog import init_bias_


def test_a_constant_model_starts_at_the_least_cross_entropy() -> None:
    counts = torch.tensor([700, 250, 50])
    layer = init_bias_(nn.Linear(4, 3), counts)
    target = torch.arange(3).repeat_interleave(counts)
    logits = layer.bias.expand(1000, 3)
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, target), layer.bias)
    assert float(gradient.abs().max()) < 1e-6  # float32 sums of a thousand terms


@pytest.mark.parametrize("layer", [nn.Linear(4, 5), nn.Conv2d(4, 5, 1)], ids=["linear", "conv"])
def test_labels_start_at_their_rate(layer: nn.Module) -> None:
    rates = np.array([0.5, 0.1, 0.01, 0.001, 0.9])
    assert init_bias_(layer, rates, task="multilabel") is layer
    torch.testing.assert_close(layer.bias.sigmoid().double(), torch.tensor(rates), rtol=1e-5, atol=0)
    init_bias_(layer, 0.02, task="multilabel")
    torch.testing.assert_close(layer.bias.sigmoid(), torch.full((5,), 0.02))


@pytest.mark.parametrize(
    ("layer", "prior", "task", "error", "words"),
    [
        (nn.Linear(2, 3, bias=False), [1, 1, 1], "multiclass", TypeError, "layer must have a bias"),
        (nn.Linear(2, 3), [1, 1], "multiclass", ValueError, r"prior must be \(3,\)"),
        (nn.Linear(2, 3), [1, 0, 1], "multiclass", ValueError, "prior must be positive"),
        (nn.Linear(2, 3), [0.1, 1.0, 0.2], "multilabel", ValueError, "between 0 and 1"),
        (nn.Linear(2, 3), [30, 10, 5], "multilabel", ValueError, "counts divided by the number of samples"),
        (nn.Linear(2, 3), "rare", "multilabel", TypeError, "prior must be numbers"),
        (nn.Linear(2, 3), [1, 1, 1], "binary", ValueError, "task must be one of"),
    ],
)
def test_what_cannot_be_is_told(layer, prior, task, error, words) -> None:
    before = None if layer.bias is None else layer.bias.clone()
    with pytest.raises(error, match=f"init_bias_: {words}|init_bias_.*{words}"):
        init_bias_(layer, prior, task=task)
    assert before is None or torch.equal(layer.bias, before)
