import math

import pytest

from equilog.sklearn.early_stopping import EarlyStopping


def stopped_after(losses: list[float], patience: int, max_rise: float | None) -> int | None:
    """Return the epoch after which it is over, if it ever is."""
    stopping = EarlyStopping(patience, max_rise)
    for epoch, loss in enumerate(losses, 1):
        stopping.is_lowest(loss)
        if stopping.is_over:
            return epoch
    return None


@pytest.mark.parametrize(
    ("losses", "patience", "max_rise", "epoch"),
    [
        ([3, 2, 2, 2.5, 2.1], 3, None, 5),
        ([3, 2, 2.5, 1.9, 2, 2], 3, None, None),
        ([3, 2, 2.1, 2.3, 1], 9, None, None),
        # Twice in a row, and then above the lowest by more than the share.
        ([3, 2, 2.01, 2.03, 2.05, 2.1], 9, 0.02, 5),
        ([3, 2, 2.1, 2.3], 9, 0.02, 4),
        ([3, 2, 2.1, 2.3], 9, 0.2, None),
        ([3, 2, 2.1, 2.3], 9, 0, 4),
        # Up and down is no rise, however far it is.
        ([3, 2, 4, 3, 4, 3, 4], 9, 0.02, None),
        # Patience ends it all the same.
        ([3, 2, 4, 3, 4], 3, 0.02, 5),
        # A share of what is below zero is as large.
        ([-3, -2, -1], 9, 0.5, 3),
        ([-3, -2, -1], 9, 0.7, None),
        # What overflows is neither lower nor a rise.
        ([3, math.nan, math.nan, 2, math.nan], 3, 0.02, None),
        ([math.nan, math.nan, math.nan], 3, 0.02, 3),
        ([math.inf, math.inf, 3], 3, 0.02, None),
    ],
)
def test_when_it_is_over(losses: list[float], patience: int, max_rise: float | None, epoch: int | None) -> None:
    assert stopped_after(losses, patience, max_rise) == epoch


def test_which_epoch_is_the_lowest() -> None:
    stopping = EarlyStopping(9)
    losses = (3, math.nan, 2, 2, 2.5, 1.5)
    assert [loss for loss in losses if stopping.is_lowest(loss)] == [3, 2, 1.5]
    assert stopping.lowest == 1.5
