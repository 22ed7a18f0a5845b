"""Equal classes made unequal, the usual way to measure what unequal classes cost."""

import numpy as np
from numpy.typing import NDArray


def thin_to_long_tail(codes: NDArray[np.int64], imbalance: float, random_state: int) -> NDArray[np.int64]:
    """Return the rows to keep so that class counts fall exponentially from the first class to the last.

    Of C classes, class c keeps n imbalance^(-c / (C - 1)) rows drawn at random (at least one, at most all it
    has), n being the rows of class 0: the construction of long-tailed CIFAR in Cui et al., "Class-Balanced Loss
    Based on Effective Number of Samples", CVPR 2019, section 5.1. The order of the codes decides which class
    is rare, so it is the same class in every split.

    Args:
        codes: (n,) class codes 0..C-1.
        imbalance: rows of the first class over rows of the last, at least 1.
        random_state: seed of the draw.

    Returns:
        Indices into `codes`, ascending.

    Example:
        >>> codes = np.repeat(np.arange(3), 100)
        >>> np.bincount(codes[thin_to_long_tail(codes, 25, random_state=0)]).tolist()
        [100, 20, 4]
    """
    if not imbalance >= 1:
        raise ValueError(f"thin_to_long_tail: imbalance must be at least 1; got {imbalance}.")
    counts = np.bincount(codes)
    falling = counts[0] * imbalance ** -np.linspace(0, 1, len(counts))
    keep = np.minimum(counts, np.maximum(1, np.rint(falling).astype(np.int64)))
    rng = np.random.default_rng(random_state)
    kept = [rng.choice(np.flatnonzero(codes == c), keep[c], replace=False) for c in range(len(counts))]
    return np.sort(np.concatenate(kept))
