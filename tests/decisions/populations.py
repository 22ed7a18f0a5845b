"""Probabilities that are right, and the classes drawn from them."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Codes = NDArray[np.int64]


def drawn(rows: int, prior: Array, seed: int, distance: float = 1.5) -> tuple[Array, Codes]:
    """Return posteriors (n, C) and classes (n,) of unit normals around the corners of a simplex."""
    rng = np.random.default_rng(seed)
    y = rng.choice(len(prior), size=rows, p=prior)
    x = rng.normal(size=(rows, len(prior))) + distance * np.eye(len(prior))[y]
    joint = np.exp(distance * x) * prior
    return joint / joint.sum(1, keepdims=True), y.astype(np.int64)


def drawn_labels(rows: int, frequency: Array, seed: int, distance: float = 1.5) -> tuple[Array, Codes]:
    """Return posteriors (n, L) of yes and labels (n, L), each label a normal of its own."""
    rng = np.random.default_rng(seed)
    y = (rng.random((rows, len(frequency))) < frequency).astype(np.int64)
    x = rng.normal(size=y.shape) + distance * y
    odds = np.exp(distance * x - distance**2 / 2) * frequency / (1 - frequency)
    return odds / (1 + odds), y
