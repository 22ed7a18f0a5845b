"""The positives of each sample in order, by the C++ kernel."""

import torch
from torch import Tensor

from equilog.kernels.native.call import operator, run


def _as_sorted(target: Tensor, labels: int) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    return target.new_empty(target.shape), target.new_empty(target.shape[:1], dtype=torch.bool)


@operator(_as_sorted)
def sorted_positives(target: Tensor, labels: int) -> tuple[Tensor, Tensor]:
    """Return what `sides.sorted_positives` does, from int64 (N, k)."""
    index, wrong = _as_sorted(target, labels)
    run("sorted_positives", target.contiguous(), *target.shape, labels, index, wrong)
    return index, wrong
