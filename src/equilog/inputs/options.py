"""The options of a loss as one frozen object, checked once."""

import functools
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")

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
    inner: str = "odds"
    pool: Pool = None
    scale: float = 1.0
    prior_strength: float = 1.0
    reduction: str = "mean"
    validate: bool = False
    _remembered: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def remembered(self, key: Hashable, make: Callable[..., Result], *arguments: Any) -> Result:
        """Return what is made of these options and the arguments, as it was made before with this key.

        The result must depend on the key alone. It is made anew while compiling, which is done once a shape.
        """
        if torch.compiler.is_compiling():
            return make(self, *arguments)
        try:
            result: Result = self._remembered[key]
        except KeyError:
            if len(self._remembered) >= _MOST_REMEMBERED:
                self._remembered.clear()
            result = self._remembered[key] = make(self, *arguments)
        return result

    def known(self, key: Hashable) -> Any:
        """Return what is remembered with this key, or None."""
        return self._remembered.get(key)

    def forget(self, key: Hashable) -> None:
        """Forget what is remembered with this key."""
        self._remembered.pop(key, None)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_remembered": {}}  # of copies and files no part

    def __post_init__(self) -> None:
        check_scale(self.where, self.scale)
        check_choice(self.where, "reduction", self.reduction, ("mean", "sum", "none", CLASS_MASS))


_MOST_REMEMBERED = 64
"""Shapes of calls, of which a run with sequences of any length has many."""

CLASS_MASS = "class_mass"
"""The reduction by which `equilog.class_mass` asks a loss for what its sets add to a whole, in place of the value."""


@dataclass(frozen=True, kw_only=True)
class ClassOptions(Options):
    """What the losses of one choice among C classes are told."""

    balance: Any = "class"
    """"class", "pair", "none", a (C,) tensor of blocks, or a grouping made of these."""
    compensation: str | None = "weight"
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


_Kind = TypeVar("_Kind", bound=Options)


def options_of_call(kind: type[_Kind], **values: Any) -> _Kind:
    """Return the options of a call: of plain values those of an earlier call of the same, which are checked already."""
    if torch.compiler.is_compiling() or not _PLAIN.issuperset(map(type, values.values())):
        return kind(**values)
    options: _Kind = _options_of_plain(kind, **values)  # type: ignore[arg-type]
    return options


@functools.lru_cache(maxsize=256, typed=True)
def _options_of_plain(kind: type[_Kind], **values: Any) -> _Kind:
    return kind(**values)


_PLAIN = frozenset({str, int, float, bool, type(None)})


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
