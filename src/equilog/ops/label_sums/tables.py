"""Tables of labels (rows, width) and the sums of their rows from e = exp(x): 1 / e of a positive, e of a negative.

The terms are what they are, with no peak taken off: where one overflows, the sums are not finite, and `log_sums` must
take over. Two forms of target: a value a label, and the indices of the positives.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from equilog.ops.label_sums import reference


@dataclass(frozen=True)
class ValueTable:
    """Labels with a target each."""

    share: Tensor
    """(rows, width) targets, in the dtype of e."""
    weight: Tensor | None
    """(rows, width), or None where all are 1."""

    def sums(self, e: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002 - the other form reads the logits
        """Return the positive and the negative sum of each row, (rows,) each."""
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
        return reference.label_log_sums(x.reshape(-1), self.share.reshape(-1), weight, x.shape[1], 1.0)


@dataclass(frozen=True)
class IndexTable:
    """Labels of which the positives are named."""

    index: Tensor
    """(rows, k) the labels that are positive; the width where there is none."""
    weight: Tensor | None
    """(rows, width), or None where all are 1."""

    def sums(self, e: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the positive and the negative sum of each row, (rows,) each; empties e at the positives."""
        row, label, share = self._positives(x)
        e[row, label] = 0.0
        positives = e.new_zeros(len(e)).index_add(0, row, share / x[row, label].exp())
        return positives, (e if self.weight is None else e * self.weight).sum(1)

    def gradient(self, e: Tensor, x: Tensor, to_yes: Tensor, to_no: Tensor) -> Tensor:
        """Turn e into the gradient of x, from those of the sums (rows, 1) over the sums."""
        row, label, share = self._positives(x)
        e.mul_(to_no)
        if self.weight is not None:
            e.mul_(self.weight)
        e[row, label] = -share * to_yes[row, 0] / x[row, label].exp()
        return e

    def log_sums(self, x: Tensor) -> Tensor:
        """Return the logs of both sums (rows, 2), by the formula."""
        return reference.indexed_label_log_sums(x, self.index, self.weight, 1.0)

    def _positives(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        row, place = (self.index < x.shape[1]).nonzero(as_tuple=True)
        label = self.index[row, place]
        return row, label, x.new_ones(len(row)) if self.weight is None else self.weight[row, label]


Table = ValueTable | IndexTable
