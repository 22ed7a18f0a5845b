"""A call of a C++ kernel from tensors, the same way in eager and in compiled calls."""

import ctypes
import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from equilog.kernels.native.build import library

WIDTH = 16
"""Floats in a vector of the kernels."""
_FEW = 2**15

_LIBRARY = torch.library.Library("equilog", "FRAGMENT")  # type: ignore[no-untyped-call]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def has_kernels() -> bool:
    """Tell whether there are kernels to call."""
    return library() is not None


# torch.compiler.assume_constant_result does just this, but loads the compiler with the package.
has_kernels._dynamo_marked_constant = True  # type: ignore[attr-defined]


def is_for_native(scores: Tensor, *others: Tensor) -> bool:
    """Tell whether the kernels can take these: float32 scores on the CPU, with tensors that are no more than that."""
    return scores.dtype == torch.float32 and is_on_cpu(scores, *others)


def is_on_cpu(*tensors: Tensor) -> bool:
    """Tell whether there are kernels, and these are tensors on the CPU and no more than that."""
    return has_kernels() and all(
        each.device.type == "cpu" and (torch.compiler.is_compiling() or type(each) in (Tensor, torch.nn.Parameter))
        for each in tensors
    )


def is_few(scores: Tensor) -> bool:
    """Tell whether this is a compiled call of so few numbers that to call a kernel takes longer than the formula."""
    return torch.compiler.is_compiling() and scores.numel() < _FEW


def run(kernel: str, *arguments: Tensor | float | None) -> int:
    """Call a kernel with the addresses of tensors, with numbers, and last with how many threads it may use."""
    given = [_as_c(each) for each in arguments]
    return cast(int, _function(kernel, tuple(map(type, given)))(*given, torch.get_num_threads()))


@functools.cache
def _function(kernel: str, types: tuple[type, ...]) -> "ctypes._NamedFuncPointer":
    found = library()
    assert found is not None
    function = found[f"equilog_{kernel}"]  # an object of its own
    function.argtypes = [*(ctypes.c_double if each is float else ctypes.c_int64 for each in types), ctypes.c_int64]
    function.restype = ctypes.c_int64
    return function


def _as_c(value: Tensor | float | None) -> float:
    if isinstance(value, Tensor):
        return value.data_ptr()
    return 0 if value is None else value


def table_of_scores(z: Tensor, shift: Tensor | None, scale: float) -> tuple[Tensor | float | None, ...]:
    """Return what stands for a table of scores scale * (z + shift) in the arguments of a kernel."""
    z = with_rows(z)
    # A kernel reads whole vectors of it.
    shift = None if shift is None else F.pad(shift, (0, -len(shift) % WIDTH))
    return z, z.stride(0), *z.shape, shift, float(scale)


def with_rows(table: Tensor) -> Tensor:
    """Return the table (n, C) with its columns side by side, as it is where they are."""
    return table if table.stride(1) == 1 or table.shape[1] == 1 else table.contiguous()


def as_scores(z: Tensor, *_: Any) -> Tensor:
    """Return a tensor of the shape of the scores, for an operator that gives their gradient."""
    return z.new_empty(z.shape)


def operator(fake: Callable[..., Result]) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Have the compiler call a function as one operator, of whose result `fake` gives shapes and types."""

    def decorate(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        name = function.__name__
        # Not by torch.library.custom_op, whose checks of a call take longer than a kernel does with a few hundred sets.
        _LIBRARY.define(name + torch.library.infer_schema(function, mutates_args=()))  # type: ignore[no-untyped-call]
        _LIBRARY.impl(name, function, "CPU")  # type: ignore[no-untyped-call]
        torch.library.register_fake(f"equilog::{name}", fake, lib=_LIBRARY)
        opaque = getattr(torch.ops.equilog, name).default

        def call(*args: Arguments.args, **keywords: Arguments.kwargs) -> Result:
            # An operator takes longer than the function.
            return (opaque if torch.compiler.is_compiling() else function)(*args, **keywords)

        return call

    return decorate
