"""Rules that weigh every pair of classes: for a matrix of costs, and for any function of the confusion matrix.

argmax of p G takes the class with the largest expected gain, $G_{jk}$ being what it is worth to say k where j is true.
For costs G is minus them, and nothing has to be searched. For a function of the confusion matrix the best rule has for
G the function's gradient at the confusion matrix that this very rule gives (Narasimhan et al., "Consistent multiclass
algorithms for complex performance measures", ICML 2015, theorem 11), so G is moved towards the gradient until it stays.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from equilog.decisions.inputs import Array
from equilog.decisions.judge import OfConfusion

STEPS = 20
DIFFERENCE = 1e-4
"""Share of the rows by which an entry is moved to see what the function makes of it."""


def best_gains(probability: Array, truth: Array, weight: Array, function: Callable[[Array], Any]) -> Array:
    """Return the gains (C, C) whose rule has the best value of all that were passed through, argmax among them.

    Args:
        probability: (n, C), by which is decided.
        truth: (n, C) the classes as probabilities, one-hot where they are known.
        weight: (n,).
        function: of a confusion matrix (C, C) of row counts; it is called C^2 + 1 times a step.
    """
    rows, classes = probability.shape
    judge, group = OfConfusion(function), np.zeros(rows, np.int64)
    gains = best_seen = np.eye(classes)
    best = -np.inf
    for step in range(STEPS):
        confusion = judge.sums((probability @ gains).argmax(1), truth, weight, group, 1)[0]
        value = judge.value(confusion)
        if value > best:
            best, best_seen = value, gains
        slope = _gradient(judge, confusion, value, DIFFERENCE * weight.sum())
        size = abs(slope - slope.mean(1, keepdims=True)).max()
        if not np.isfinite(size) or size == 0:
            break
        pace = 1.0 if step < 3 else 2.0 / step
        gains = (1 - pace) * gains + pace * slope / size
    return best_seen


def _gradient(judge: OfConfusion, confusion: Array, value: float, difference: float) -> Array:
    slope = np.empty_like(confusion)
    for entry in np.ndindex(confusion.shape):
        moved = confusion.copy()
        moved[entry] += difference
        slope[entry] = (judge.value(moved) - value) / difference
    return slope
