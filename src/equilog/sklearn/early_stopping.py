"""When training is over, by the loss on the validation rows after each epoch."""

import math
from dataclasses import dataclass

RISES = 2
"""Epochs in a row of a rising loss from which it may be a clear one."""


@dataclass
class EarlyStopping:
    """The lowest loss so far, and whether to wait for a lower one.

    Two of the criteria of Prechelt, Early Stopping - But When?, 1998: so many epochs without a lower loss, and a loss
    that is above the lowest by more than some share of it. The second is asked of a loss that rises, for one that falls
    on the whole goes up and down by as much.

    Args:
        patience: epochs without a lower loss after which it is over.
        max_rise: share of the lowest loss by which one that rises twice in a row may be above it; None is any.
    """

    patience: int
    max_rise: float | None = None
    lowest: float = math.inf
    _last: float = math.inf
    _rises: int = 0
    _misses: int = 0

    def is_lowest(self, loss: float) -> bool:
        """Take note of an epoch's loss, and return whether there was none as low."""
        self._rises = self._rises + 1 if loss > self._last else 0
        self._last = loss
        self._misses += 1
        if not loss < self.lowest:  # It may be NaN.
            return False
        self.lowest, self._misses = loss, 0
        return True

    @property
    def is_over(self) -> bool:
        """Whether to stop."""
        if self._misses >= self.patience:
            return True
        if self.max_rise is None or self._rises < RISES:
            return False
        return self._last - self.lowest > self.max_rise * abs(self.lowest)
