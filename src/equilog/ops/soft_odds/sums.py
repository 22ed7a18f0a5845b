"""What is asked of the summed terms besides tensors."""

from typing import NamedTuple

from torch import Tensor

from equilog.ops.consecutive import pool_count


class Sums(NamedTuple):
    """The constants of a call."""

    pool_size: int
    """Consecutive sets a pool, the last of which may be short; with ids, the number of pools."""
    with_residual: bool = False
    scale: float = 1.0
    inner: str = "odds"
    smoothing: float = 0.0

    def pools(self, sets: int, ids: Tensor | None) -> int:
        """Return how many pools P there are."""
        return pool_count(sets, self.pool_size) if ids is None else self.pool_size
