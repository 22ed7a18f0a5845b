"""What a table of many rows is trained with: larger batches, and an end as soon as the network clearly overfits.

With batches of 128 the first epoch over 75,000 rows takes 590 steps, after which the network may be as good as it gets,
and ten more epochs only show it.
"""

from typing import TypedDict

USUAL_BATCH, LARGEST_BATCH = 128, 1024

STEPS = 64
"""Steps an epoch from which a batch is doubled."""

MAX_RISE = 0.02
"""Above its lowest by this share, and rising, the loss on the tenth held out says that it will not fall again."""

MANY_ROWS = USUAL_BATCH * STEPS * 4
"""Rows of which that tenth is enough for the loss on it not to jump as far by chance."""


class Pace(TypedDict):
    """The parameters of the model that go by the number of rows."""

    batch_size: int
    max_rise: float | None


def pace_for(rows: int, batch_size: int | None = None) -> Pace:
    """Return rows a batch, unless they are said, and how far the validation loss may rise.

    Example:
        >>> pace_for(5_000), pace_for(100_000)
        ({'batch_size': 128, 'max_rise': None}, {'batch_size': 1024, 'max_rise': 0.02})
    """
    batch = USUAL_BATCH
    while batch < LARGEST_BATCH and 2 * batch * STEPS <= rows:
        batch *= 2
    return {"batch_size": batch_size or batch, "max_rise": MAX_RISE if rows >= MANY_ROWS else None}


def pace_note(pace: Pace) -> str | None:
    """Return a sentence where the pace is not the usual one.

    Example:
        >>> pace_note(pace_for(5_000)), pace_note(pace_for(50_000, batch_size=128))
        (None, 'Networks stop as soon as the validation loss is 2% up and rising.')
        >>> pace_note(pace_for(20_000))
        'Networks train in batches of 256 rows, not 128 (--batch-size).'
    """
    said = []
    if pace["batch_size"] != USUAL_BATCH:
        said.append(f"train in batches of {pace['batch_size']} rows, not {USUAL_BATCH} (--batch-size)")
    if pace["max_rise"] is not None:
        said.append(f"stop as soon as the validation loss is {pace['max_rise']:.0%} up and rising")
    return f"Networks {' and '.join(said)}." if said else None
