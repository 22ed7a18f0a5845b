"""Sets that each name one class, without their logits: those of a layer, or of which only the losses are known."""

from dataclasses import dataclass

import torch
from torch import Tensor

from equilog.grouping import ClassBalance
from equilog.mass import Layout
from equilog.occupied import Groups
from equilog.part import Part
from equilog.pooling import Pools
from equilog.targets import class_indices, count_by_class, log_set_weight


@dataclass(frozen=True)
class IndexSets:
    """n sets with index targets and their weights, checked."""

    labels: Tensor
    """(n,) int64, the class of each set; 0 where it is out of range."""
    log_weight: Tensor
    """(n,) log of the sample weight: minus infinity where the set is ignored, NaN where its label is out of range."""
    kept: Tensor | None
    """(n,) bool: the set is not ignored; None where none is known to be."""
    shape: torch.Size
    """The shape of the caller's sets: (N, d1, ...), or () for a single set."""
    classes: int
    """C."""

    def part(self, log_sums: Tensor, pools: Pools, *, spans: bool, groups: Groups | None = None) -> Part:
        """Return the part that the log of the summed odds make, the class balance of index targets."""
        return Part(
            log_sums=log_sums,
            at_optimum=None,
            class_count=lambda: count_by_class(self.labels, self.log_weight, self.classes),
            pools=pools,
            kept=self.kept,
            shape=self.shape,
            layout=Layout(ClassBalance.name, self.classes, spans=spans, compensated=True),
            groups=groups,
        )


def as_index_sets(
    where: str,
    target: Tensor,
    classes: int,
    dtype: torch.dtype,
    *,
    sample_weight: Tensor | None,
    ignore_index: int,
    validate: bool,
) -> IndexSets:
    """Return the sets of index targets (N, d1, ...), with weights in the type to compute in."""
    labels, kept, in_range = class_indices(where, target, classes, ignore_index=ignore_index, validate=validate)
    log_weight, kept = log_set_weight(where, sample_weight, kept, target.shape, target.device, dtype, validate=validate)
    if in_range is not None:
        log_weight = torch.where(in_range | (log_weight == -torch.inf), log_weight, torch.nan)
    return IndexSets(labels, log_weight, kept, target.shape, classes)
