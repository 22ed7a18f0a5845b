"""The network: a multilayer perceptron, or a linear model."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn


def perceptron(
    n_features: int, hidden_units: Sequence[int], n_outputs: int, dropout: float, generator: torch.Generator
) -> nn.Sequential:
    """Return linear layers with ReLU and dropout between them; a linear model where there are no hidden units.

    Weights and biases are uniform within ±1/√inputs, as torch has them, but drawn from a generator of their own: that
    of the process is shared by the threads that joblib may fit in.
    """
    widths = [n_features, *hidden_units, n_outputs]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        if layers:
            layers += [nn.ReLU(), nn.Dropout(dropout)]
        # Without values: to_empty would import sympy.
        linear = nn.Linear(inputs, outputs, device="meta")
        for name, parameter in list(linear.named_parameters()):
            drawn = torch.empty(parameter.shape).uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator)
            setattr(linear, name, nn.Parameter(drawn))
        layers.append(linear)
    return nn.Sequential(*layers)
