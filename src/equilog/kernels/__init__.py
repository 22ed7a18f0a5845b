"""Accelerated sums of odds, and the sole place that asks about hardware.

Each function here has one meaning and several ways to it, chosen from what kind of call it is:

    plain call, CPU        chunks of rows that stay in the cache, analytic gradient
    compiled, or a GPU     the formula as it stands; the compiler fuses it
    transformed            the formula as it stands: torch.func, forward derivatives, batched gradients

All of them agree to rounding, and every one has second derivatives.
"""

from typing import cast

from torch import Tensor

from equilog import odds, sides
from equilog.kernels.dispatch import is_plain, is_transformed
from equilog.kernels.label import ChunkedLogOdds
from equilog.kernels.sides import ChunkedLogSideSums
from equilog.pooling import Pools


def log_odds_against_label(z: Tensor, labels: Tensor) -> Tensor:
    """Return the log odds (n,) against each set's label, from scores (n, C).

    A set to which gradient 0 flows back gets gradient 0, whatever its scores, NaN included.
    """
    if is_transformed(z, labels):
        return odds.log_odds_against_label(z, labels)
    if is_plain(z, labels):
        return cast(Tensor, ChunkedLogOdds.apply(z, labels))  # type: ignore[no-untyped-call]
    return cast(Tensor, odds.LogOddsAgainstLabel.apply(z, labels)[0])  # type: ignore[no-untyped-call]


def log_side_sums(logits: Tensor, target: Tensor, weight: Tensor | None, pools: Pools, scale: float) -> Tensor:
    """Return the logs of the summed threats to each pool's positives and negatives, (P, 2), from labels (n,)."""
    given = (logits, target) if weight is None else (logits, target, weight)
    constant = not any(each.requires_grad for each in given[1:])
    if constant and pools.given is None and pools.sets and is_plain(*given) and not is_transformed(*given):
        return cast(Tensor, ChunkedLogSideSums.apply(logits, target, weight, pools, scale))  # type: ignore[no-untyped-call]
    return sides.log_side_sums(logits, target, weight, pools, scale)
