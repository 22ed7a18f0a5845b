"""The mean that all baselines take."""

from torch import Tensor


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Return sum(weight * values) / N of two (n,) tensors, N counting the weights that are not 0; 0 where N is 0.

    So a row of weight 2 is that row twice, but for N, and a row of weight 0 is no row.
    """
    return (weight * values).sum() / (weight != 0).sum().clamp(min=1)
