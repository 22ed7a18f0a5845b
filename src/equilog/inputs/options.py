"""The options of a loss as one frozen object, checked once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

Balance = Literal["class", "pair", "none"]
InnerName = Literal["odds", "power", "nll", "divergence"]
Compensation = Literal["weight", "offset"]
Reduction = Literal["mean", "sum", "none"]
Pool = str | int | Tensor | None
"""Which sets share a log: "sample", "batch", a number of sets, pool ids, or None for what is usual."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every loss is told, beside its tensors."""

    where: str
    """The public name of what was called, for error texts."""
    pool: Pool = None
    scale: float = 1.0
    reduction: str = "mean"
    validate: bool = False

    def __post_init__(self) -> None:
        check_scale(self.where, self.scale)
        check_choice(self.where, "reduction", self.reduction, ("mean", "sum", "none", CLASS_MASS))


CLASS_MASS = "class_mass"
"""The reduction by which `equilog.class_mass` asks a loss for what its sets add to a whole, in place of the value."""


@dataclass(frozen=True, kw_only=True)
class ClassOptions(Options):
    """What the losses of one choice among C classes are told."""

    balance: Any = "class"
    """"class", "pair", "none", a (C,) tensor of blocks, or a grouping made of these."""
    inner: str = "odds"
    compensation: str | None = "weight"
    prior_strength: float = 1.0
    ignore_index: int = -100
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.where, "compensation", self.compensation, ("weight", "offset", None))
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"{self.where}: label_smoothing must lie in [0, 1); got {self.label_smoothing}.")


@dataclass(frozen=True, kw_only=True)
class LabelOptions(Options):
    """What the losses of yes/no labels are told."""

    index_target: bool | None = None


def check_choice(where: str, name: str, value: object, choices: Sequence[object]) -> None:
    """Raise ValueError unless the value is one of the choices."""
    if value not in choices:
        offered = ", ".join(repr(choice) for choice in choices if choice != CLASS_MASS)
        raise ValueError(f"{where}: {name} must be one of {offered}; got {value!r}.")


def check_scale(where: str, scale: float) -> None:
    """Raise TypeError or ValueError unless the scale is a positive finite number."""
    if isinstance(scale, Tensor):
        raise TypeError(
            f"{where}: scale must be a number, not a tensor, since it would get no gradient. One that learns goes on "
            f"the logits: logits * scale."
        )
    if not (isinstance(scale, (int, float)) and 0.0 < scale < math.inf):
        raise ValueError(f"{where}: scale must be a positive finite number; got {scale!r}.")
