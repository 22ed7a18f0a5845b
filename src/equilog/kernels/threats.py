"""The threats of a table of labels (rows, width) from e = exp(x): 1 / e to a positive, e to a negative.

They are what they are, with no peak taken off: where one overflows, the sums are not finite, and `log_sums` must take
over. Two forms of target: a value a label, and the indices of the positives.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from equilog.pooling import Pools
from equilog.sides import log_index_sums, log_side_sums


@dataclass(frozen=True)
class DenseTable:
    """Labels with a target each."""

    share: Tensor
    """(rows, width) targets, in the dtype of e."""
    weight: Tensor | None
    """(rows, width), or None where all are 1."""

    def sums(self, e: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002 - the other form reads the logits
        """Return the sums of each row's threats to positives and to negatives, (rows,) each."""
        negatives = torch.rsub(self.share, 1.0).mul_(e)
        positives = self.share / e
        if self.weight is not None:
            negatives, positives = negatives.mul_(self.weight), positives.mul_(self.weight)
        return positives.sum(1), negatives.sum(1)

    def gradient(self, e: Tensor, x: Tensor, to_yes: Tensor, to_no: Tensor) -> Tensor:  # noqa: ARG002
        """Turn e into the gradient of x, from those of the sums (rows, 1) over the sums."""
        positives = self.share / e
        negatives = torch.rsub(self.share, 1.0).mul_(to_no)
        if self.weight is not None:
            negatives, positives = negatives.mul_(self.weight), positives.mul_(self.weight)
        return e.mul_(negatives).addcmul_(positives, to_yes, value=-1.0)

    def log_sums(self, x: Tensor) -> Tensor:
        """Return the logs of both sums (rows, 2), by the formula."""
        weight = None if self.weight is None else self.weight.reshape(-1)
        rows = Pools(len(x), x.numel(), x.device, size=x.shape[1])
        return log_side_sums(x.reshape(-1), self.share.reshape(-1), weight, rows, 1.0)


@dataclass(frozen=True)
class IndexedTable:
    """Labels of which the positives are named."""

    index: Tensor
    """(rows, k) the labels that are positive; the width where there is none."""
    weight: Tensor | None
    """(rows, width), or None where all are 1."""

    def sums(self, e: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums of each row's threats to positives and to negatives, (rows,) each; empties e there."""
        row, own, share = self._positives(x)
        e[row, own] = 0.0
        positives = e.new_zeros(len(e)).index_add(0, row, share / x[row, own].exp())
        return positives, (e if self.weight is None else e * self.weight).sum(1)

    def gradient(self, e: Tensor, x: Tensor, to_yes: Tensor, to_no: Tensor) -> Tensor:
        """Turn e into the gradient of x, from those of the sums (rows, 1) over the sums."""
        row, own, share = self._positives(x)
        e.mul_(to_no)
        if self.weight is not None:
            e.mul_(self.weight)
        e[row, own] = -share * to_yes[row, 0] / x[row, own].exp()
        return e

    def log_sums(self, x: Tensor) -> Tensor:
        """Return the logs of both sums (rows, 2), by the formula."""
        return log_index_sums(x, self.index, self.weight, 1.0)

    def _positives(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        row, place = (self.index < x.shape[1]).nonzero(as_tuple=True)
        own = self.index[row, place]
        return row, own, x.new_ones(len(row)) if self.weight is None else self.weight[row, own]


Table = DenseTable | IndexedTable
