"""What is asked of the sums of labels besides tensors."""

from typing import NamedTuple

from torch import Tensor

from equilog.ops.consecutive import pool_count


class LabelSums(NamedTuple):
    """The constants of a call."""

    pool_size: int
    """Consecutive labels a pool, the last of which may be short; with ids, the number of pools."""
    scale: float = 1.0
    inner: str = "odds"
    span: int = 1
    """How many labels in a row, pool by pool, have the same number."""
    columns: int = 0
    """How many pools lie side by side: pool p has the labels p, p + columns, ...; 0 where they follow each other."""
    with_residual: bool = False

    def pools(self, labels: int, ids: Tensor | None) -> int:
        """Return how many pools P there are."""
        return pool_count(labels, self.pool_size) if ids is None else self.pool_size
