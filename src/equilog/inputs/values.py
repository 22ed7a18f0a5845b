"""Looking at values where that is free, and the small forms that several inputs come in."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from equilog.ops import compute_dtype


def reads_values(values: Tensor, validate: bool = False) -> bool:
    """Tell whether looking at values is free (an eager call on the CPU) or was asked for."""
    if torch.compiler.is_compiling():
        return False
    return validate or values.device.type == "cpu"


def known(condition: Tensor, validate: bool = False) -> bool | None:
    """Return the truth of a 0-d condition, or None where no value can be looked at or looking would cost a wait."""
    if not reads_values(condition, validate):
        return None
    try:
        return bool(condition)
    except RuntimeError:  # inside torch.func.vmap there is no one value
        return None


def least_and_most(ids: Tensor, wait: bool = False) -> tuple[int, int] | None:
    """Return the bounds of integers, or None where there are none or looking would cost a wait that is not wanted."""
    if not ids.numel() or not reads_values(ids, wait):
        return None
    try:
        least, most = torch.aminmax(ids)
        return int(least), int(most)
    except RuntimeError:  # inside torch.func.vmap there is no one value
        return None


def unless_all(condition: Tensor) -> Tensor | None:
    """Return a condition, or None where it is known to hold everywhere."""
    return None if known(condition.all()) else condition


def all_true(like: Tensor) -> Tensor:
    """Return a condition that holds everywhere, of the shape of `like`."""
    return torch.ones_like(like, dtype=torch.bool)


def check_tensors(where: str, logits: object, target: object) -> None:
    """Raise TypeError unless the logits are a floating point tensor and the target is a tensor."""
    if not isinstance(logits, Tensor) or not isinstance(target, Tensor):
        types = f"{type(logits).__name__} and {type(target).__name__}"
        raise TypeError(f"{where}: logits and target must be tensors; got {types}. Wrap them in torch.as_tensor.")
    if not logits.is_floating_point():
        raise TypeError(f"{where}: logits must be floating point, not {logits.dtype}; call logits.float().")


def check_is_tensor(where: str, name: str, values: object) -> None:
    """Raise TypeError unless the values are a tensor."""
    if not isinstance(values, Tensor):
        raise TypeError(f"{where}: {name} must be a tensor; got {type(values).__name__}. Wrap it in torch.as_tensor.")


def value_per_set(where: str, name: str, values: Tensor, shape: torch.Size) -> Tensor:
    """Return one value a set (n,) from a tensor of the sets' shape, or of one value a sample (N,)."""
    check_is_tensor(where, name, values)
    if values.shape == shape:
        return values.reshape(-1)
    if shape and values.shape == shape[:1]:
        return values.reshape(-1, *[1] * (len(shape) - 1)).expand(shape).reshape(-1)
    expected = f"{tuple(shape)}" + (f", or {tuple(shape[:1])} for one value a sample" if len(shape) > 1 else "")
    raise ValueError(f"{where}: {name} must be {expected}, one value a set; got {tuple(values.shape)}.")


def as_vector(where: str, name: str, values: Any, unit: str = "class") -> Tensor:
    """Return numbers in a row, (C,): a tensor, or made of an array, a sequence, or a mapping from class indices.

    A pandas series is a mapping: what `value_counts` returns is not in the order of the classes.
    """
    if isinstance(values, Tensor):
        return values
    if isinstance(values, Mapping) or (hasattr(values, "keys") and hasattr(values, "items")):
        values = _in_order(where, name, dict(values.items()), unit)
    if hasattr(values, "__array__") or (isinstance(values, Sequence) and not isinstance(values, (str, bytes))):
        try:
            array: Any = values.__array__() if hasattr(values, "__array__") else values
            vector: Tensor = torch.tensor(array)
            return vector
        except (TypeError, ValueError, RuntimeError):
            pass
    raise TypeError(
        f"{where}: {name} must be numbers, one a {unit}: a tensor, an array, a list, or a dict from {unit} index to "
        f"number; got {type(values).__name__}."
    )


def _in_order(where: str, name: str, values: dict[Any, Any], unit: str) -> list[Any]:
    try:
        return [values[index] for index in range(len(values))]
    except KeyError as missing:
        units = "classes" if unit == "class" else f"{unit}s"
        raise ValueError(
            f"{where}: the keys of {name} must be the {unit} indices 0 to {len(values) - 1}; {missing} is not among "
            f"{list(values)[:10]}. Give a {unit} never seen a small count, and {units} with names as a list in the "
            f"order of their indices."
        ) from None


def class_vector(
    where: str, name: str, values: Any, like: Tensor, *, positive: bool, validate: bool, unit: str = "class"
) -> Tensor:
    """Return one value a class (C,) on the device of `like` (n, C), in the type it is computed in, checked for sign.

    unit: what there is a value for, in error texts.
    """
    vector = as_vector(where, name, values, unit)
    if vector.shape != like.shape[1:]:
        raise ValueError(f"{where}: {name} must be ({like.shape[1]},), one value a {unit}; got {tuple(vector.shape)}.")
    vector = vector.to(device=like.device, dtype=compute_dtype(like))
    fits = vector > 0 if positive else vector >= 0
    if validate:
        fits = fits & vector.isfinite()
    if known(fits.all(), validate) is False:
        sign = f"positive (give a {unit} never seen a small count)" if positive else "0 or more"
        raise ValueError(f"{where}: {name} must be {sign} and finite for every {unit}; got {vector.tolist()}.")
    return vector
