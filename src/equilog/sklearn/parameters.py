"""What the parameters of the estimator may be; checked in fit, as scikit-learn wants it."""

from collections.abc import Callable
from numbers import Integral, Real
from types import UnionType
from typing import Any, get_args

from equilog.baselines.registry import Task

RANGES: dict[str, tuple[type | UnionType, Callable[[Any], bool], str]] = {
    "dropout": (Real, lambda value: 0 <= value < 1, "a number in [0, 1)"),
    "learning_rate": (Real, lambda value: value > 0, "a number above 0"),
    "weight_decay": (Real, lambda value: value >= 0, "a number of at least 0"),
    "batch_size": (Integral, lambda value: value >= 1, "an integer of at least 1"),
    "max_epochs": (Integral, lambda value: value >= 1, "an integer of at least 1"),
    "validation_fraction": (Real, lambda value: 0 < value < 1, "a number in (0, 1)"),
    "patience": (Integral, lambda value: value >= 1, "an integer of at least 1"),
    "max_rise": (Real | None, lambda value: value is None or value >= 0, "a number of at least 0, or None"),
    "verbose": (Integral, lambda value: value >= 0, "0, or 1 for a line an epoch"),
}


def check_parameters(parameters: dict[str, Any]) -> None:
    """Raise a ValueError that names the parameter, what it may be and what it is."""
    for name, (kind, within, meant) in RANGES.items():
        value = parameters[name]
        if not isinstance(value, kind) or not within(value):
            raise ValueError(f"LogBalancedClassifier: {name} must be {meant}; got {value!r}.")
    units = parameters["hidden_units"]
    if not isinstance(units, (tuple, list)) or not all(isinstance(u, Integral) and int(u) >= 1 for u in units):
        raise ValueError(
            "LogBalancedClassifier: hidden_units must be a tuple of integers of at least 1, such as (128,), or () for "
            f"a linear model; got {units!r}."
        )
    tasks = ("auto", *get_args(Task))
    if parameters["task"] not in tasks:
        raise ValueError(f"LogBalancedClassifier: task must be one of {', '.join(tasks)}; got {parameters['task']!r}.")
