"""A call of a C++ kernel from tensors, the same way in eager and in compiled calls."""

import ctypes
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from equilog.kernels.native.build import library

WIDTH = 16
"""Floats in a vector of the kernels."""
_FEW = 2**15

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def has_kernels() -> bool:
    """Tell whether there are kernels to call."""
    return library() is not None


# torch.compiler.assume_constant_result does just this, but loads the compiler with the package.
has_kernels._dynamo_marked_constant = True  # type: ignore[attr-defined]


def is_for_native(scores: Tensor, *others: Tensor) -> bool:
    """Tell whether the kernels can take these: float32 scores on the CPU, with tensors that are no more than that."""
    return (
        scores.dtype == torch.float32
        and all(
            each.device.type == "cpu" and (torch.compiler.is_compiling() or type(each) in (Tensor, torch.nn.Parameter))
            for each in (scores, *others)
        )
        and has_kernels()
    )


def is_few(scores: Tensor) -> bool:
    """Tell whether this is a compiled call of so few numbers that to call a kernel takes longer than the formula."""
    return torch.compiler.is_compiling() and scores.numel() < _FEW


def run(kernel: str, *arguments: Tensor | float | None) -> int:
    """Call a kernel with the addresses of tensors, with numbers, and last with how many threads it may use."""
    found = library()
    assert found is not None
    given = [_as_c(each) for each in arguments]
    function = found[f"equilog_{kernel}"]
    function.restype = ctypes.c_int64
    return cast(int, function(*given, ctypes.c_int64(torch.get_num_threads())))


def _as_c(value: Tensor | float | None) -> Any:
    if isinstance(value, Tensor) or value is None:
        return ctypes.c_void_p(None if value is None else value.data_ptr())
    return ctypes.c_int64(value) if isinstance(value, int) else ctypes.c_double(value)


def table_of_scores(z: Tensor, shift: Tensor | None, scale: float) -> tuple[Tensor | float | None, ...]:
    """Return what stands for a table of scores scale * (z + shift) in the arguments of a kernel."""
    z = with_rows(z)
    # A kernel reads whole vectors of it.
    shift = None if shift is None else F.pad(shift, (0, -len(shift) % WIDTH))
    return z, z.stride(0), *z.shape, shift, float(scale)


def with_rows(table: Tensor) -> Tensor:
    """Return the table (n, C) with its columns side by side, as it is where they are."""
    return table if table.stride(1) == 1 or table.shape[1] == 1 else table.contiguous()


def operator(fake: Callable[..., Result]) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Have the compiler call a function as one operator, of whose result `fake` gives shapes and types."""

    def decorate(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        opaque = torch.library.custom_op(f"equilog::{function.__name__.strip('_')}", function, mutates_args=())
        opaque.register_fake(fake)

        def call(*args: Arguments.args, **keywords: Arguments.kwargs) -> Result:
            # An operator takes several times as long as the function.
            return (opaque if torch.compiler.is_compiling() else function)(*args, **keywords)

        return call

    return decorate
