"""Accelerated sums of odds, and the sole place that asks about hardware.

Each function here has one meaning and several ways to it, chosen from what kind of call it is:

    plain call, CPU        chunks of rows that stay in the cache, analytic gradient
    compiled, or a GPU     the formula as it stands, analytic gradient; the compiler fuses it
    transformed            the formula as it stands: torch.func, forward derivatives, batched gradients

All of them agree to rounding, and every one has second derivatives.
"""

from typing import cast

from torch import Tensor

from equilog import odds
from equilog.kernels.dispatch import is_plain, is_transformed
from equilog.kernels.label import ChunkedLogOdds


def log_odds_against_label(z: Tensor, labels: Tensor) -> Tensor:
    """Return the log odds (n,) against each set's label, from scores (n, C).

    A set to which gradient 0 flows back gets gradient 0, whatever its scores, NaN included.
    """
    if is_transformed(z, labels):
        return odds.log_odds_against_label(z, labels)
    if is_plain(z, labels):
        return cast(Tensor, ChunkedLogOdds.apply(z, labels))  # type: ignore[no-untyped-call]
    return cast(Tensor, odds.LogOddsAgainstLabel.apply(z, labels)[0])  # type: ignore[no-untyped-call]
