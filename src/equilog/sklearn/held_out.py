"""Which rows are held out of training."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equilog.sklearn.targets import Targets


def validation_rows(
    targets: Targets, target: Tensor, fraction: float, random_state: np.random.RandomState
) -> NDArray[np.bool_]:
    """Choose the rows to hold out, each class (or label) in proportion, and never all the rows of one.

    Every (1/fraction)-th row of the rows in the order of their classes: unlike a stratified shuffle it needs no
    minimum of rows per class, and it serves any number of columns.
    """
    mass = torch.cat(targets.masses(target), 1)
    strata = target if targets.task != "soft" else target.argmax(1, keepdim=True)
    shuffled = random_state.permutation(len(target))
    order = shuffled[np.lexsort(strata.numpy()[shuffled].T[::-1])]
    count = round(fraction * len(target))
    held_out = np.zeros(len(target), dtype=bool)
    held_out[order[((np.arange(count) + random_state.uniform()) * len(target) / max(count, 1)).astype(int)]] = True
    unseen = (mass.sum(0) > 0) & (mass[~held_out].sum(0) == 0)
    held_out[(mass[:, unseen] > 0).any(1).numpy()] = False
    return held_out
