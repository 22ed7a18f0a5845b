"""What a table of many rows is trained with: larger batches, and less patience.

With batches of 128 the first epoch over 75,000 rows takes 590 steps, after which the network is as good as it gets, and
ten more epochs only show it.
"""

from typing import TypedDict

USUAL_BATCH, LARGEST_BATCH = 128, 1024

STEPS = 64
"""Steps an epoch from which a batch is doubled."""

USUAL_PATIENCE, SHORTER_PATIENCE = 10, 5

MANY_ROWS = USUAL_BATCH * STEPS * 4
"""Rows from which the loss on the tenth held out says by itself that it rises."""


class Pace(TypedDict):
    """The parameters of the model that go by the number of rows."""

    batch_size: int
    patience: int


def pace_for(rows: int, batch_size: int | None = None) -> Pace:
    """Return rows a batch, unless they are said, and epochs of patience.

    Example:
        >>> pace_for(5_000), pace_for(100_000)
        ({'batch_size': 128, 'patience': 10}, {'batch_size': 1024, 'patience': 5})
    """
    batch = USUAL_BATCH
    while batch < LARGEST_BATCH and 2 * batch * STEPS <= rows:
        batch *= 2
    return {"batch_size": batch_size or batch, "patience": SHORTER_PATIENCE if rows >= MANY_ROWS else USUAL_PATIENCE}


def pace_note(pace: Pace) -> str | None:
    """Return a sentence where the pace is not the usual one."""
    if pace == pace_for(0):
        return None
    return (
        f"Networks train in batches of {pace['batch_size']} rows and stop after {pace['patience']} epochs without a "
        f"lower validation loss (usually {USUAL_BATCH} and {USUAL_PATIENCE}; --batch-size says another)."
    )
