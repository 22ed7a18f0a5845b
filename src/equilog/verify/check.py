"""A claim about the losses that a computer can check: a number, what it must be, and whether it is."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """A computed number against what it must be. NaN passes nothing."""

    value: float
    """What was computed."""
    expected: str
    """What it must be, as text: a number with its tolerance, or a bound."""
    passed: bool
    """Whether it is."""


def equal_to(value: float, expected: float, tolerance: float) -> Measured:
    """Return a number that must equal a closed form, up to a tolerance."""
    text = f"{expected:.6g}" + (f" ± {tolerance:.0e}" if tolerance else "")
    return Measured(value, text, abs(value - expected) <= tolerance)


def at_most(value: float, bound: float) -> Measured:
    """Return a number that must not exceed a bound."""
    return Measured(value, f"≤ {bound:.6g}", value <= bound)


def at_least(value: float, bound: float) -> Measured:
    """Return a number that must reach a bound."""
    return Measured(value, f"≥ {bound:.6g}", value >= bound)


@dataclass(frozen=True)
class Check:
    """One claim and the function that measures it."""

    name: str
    """Unique, words joined by hyphens."""
    statement: str
    """What is claimed and which number shows it, in a sentence."""
    measure: Callable[[], Measured]
    """Computes the number anew, from a fixed seed."""


@dataclass(frozen=True)
class CheckResult:
    """What one check found."""

    name: str
    """The check's name."""
    statement: str
    """What is claimed."""
    value: float
    """What was computed."""
    expected: str
    """What it must be."""
    passed: bool
    """Whether it is."""


def claim(measure: Callable[[], Measured]) -> Check:
    """Make a check of a function that measures it: named like the function, claiming what its docstring says."""
    return Check(measure.__name__.replace("_", "-"), " ".join((measure.__doc__ or "").split()), measure)
