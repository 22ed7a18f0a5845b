"""Activation checkpointing: a call that is computed once more within a backward pass is computed as it was before.

By then the state has moved on. So what a training call was computed with is kept as long as the graph of its loss is,
which no list of the last few calls could do.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn


class Remembered(NamedTuple):
    """What the loss of a call depends on beside its arguments."""

    shift: Tensor | None
    """(C,) what is added to the logits, of a running prior or the one that the module was made with."""
    stream: Tensor | None
    """The moving class mass."""


@dataclass(slots=True, weakref_slot=True, eq=False)
class Computation:
    """A call of a training step, as it was first computed."""

    remembered: Remembered
    """What it was computed with."""
    outcome: Tensor
    """The loss, or where others take part in that the sums of the pools; without graph."""
    logits_shape: torch.Size
    target_place: int
    """Where in memory the target lay."""


_computations: WeakKeyDictionary[nn.Module, WeakSet[Computation]] = WeakKeyDictionary()
"""Of each module, the calls whose graph still is; not in the module, which can be copied and saved."""


def within_backward() -> bool:
    """Tell whether a backward pass is running, so that a call of a loss is one computed once more."""
    return torch._C._current_graph_task_id() != -1  # no public name says so; torch's checkpointing asks the same


def keep(module: nn.Module, loss: Tensor, computation: Computation) -> None:
    """Keep what a loss was computed with for as long as its graph is."""
    if loss.grad_fn is None:
        return
    metadata: Any = loss.grad_fn.metadata  # which torch's own types call a method
    metadata["equilog"] = computation
    if (computations := _computations.get(module)) is None:
        computations = _computations[module] = WeakSet()
    computations.add(computation)


def first_computation(
    module: nn.Module, logits: Tensor, target: Tensor, outcome_of: Callable[[Remembered], Tensor]
) -> Computation | None:
    """Return the call that one within a backward pass repeats, or None where it had no gradient the first time.

    Of several with logits of this shape it is the one whose outcome comes out again, as `outcome_of` gives it. Where
    the target lies only says where to look first, since one made within a region is made anew.
    """
    like = [one for one in _computations.get(module, ()) if one.logits_shape == logits.shape]
    if len(like) < 2:
        return like[0] if like else None
    like.sort(key=lambda one: one.target_place != target.data_ptr())
    unlike = []
    with torch.no_grad():
        for one in like:
            unlike.append(_unlike(outcome_of(one.remembered), one.outcome))
            if unlike[-1] == 0:
                break
    return like[unlike.index(min(unlike))]


def _unlike(outcome: Tensor, first: Tensor) -> float:
    """Return how far an outcome is from that of the first computation."""
    if outcome.shape != first.shape:
        return math.inf
    return float(torch.where(outcome == first, 0.0, outcome - first).nan_to_num().abs().sum())
