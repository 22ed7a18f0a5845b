"""A call of a C++ kernel from tensors."""

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

from equilog.ops.native.build import library

WIDTH = 16
"""The most floats in a vector of the kernels, of any processor: what they read may be filled up to that."""
_OUT_OF_MEMORY = -2
"""What a kernel returns where there was no memory; another exception is -1."""

_NUMBERS = frozenset({int, float, bool})


def has_kernels() -> bool:
    """Tell whether there are kernels to call."""
    return library() is not None


# torch.compiler.assume_constant_result does just this, but loads the compiler with the package.
has_kernels._dynamo_marked_constant = True  # type: ignore[attr-defined]


def run(kernel: str, *arguments: Tensor | float | None) -> int:
    """Call a kernel with the addresses of tensors, with numbers, and last with how many threads it may use.

    Raises:
        MemoryError, RuntimeError: what the kernel threw.
    """
    # Not by isinstance: asked of every argument, it takes as long as a small kernel.
    numbers: list[float] = [
        0 if argument is None else argument if type(argument) in _NUMBERS else argument.data_ptr()  # type: ignore[union-attr, misc]
        for argument in arguments
    ]
    code: int = _function(kernel, tuple(map(type, numbers)))(*numbers, torch.get_num_threads())
    if code < 0:
        raise _error(kernel, code)
    return code


def _error(kernel: str, code: int) -> Exception:
    if code == _OUT_OF_MEMORY:
        return MemoryError(f"equilog: the C++ kernel {kernel} found no memory for its sums. Make the batch smaller.")
    return RuntimeError(
        f"equilog: the C++ kernel {kernel} failed with an exception. EQUILOG_NATIVE=0 in the environment does without."
    )


@functools.cache
def _function(kernel: str, types: tuple[type, ...]) -> "ctypes._NamedFuncPointer":
    kernels = library()
    assert kernels is not None
    function = kernels[f"equilog_{kernel}"]  # an object of its own
    function.argtypes = [*(ctypes.c_double if kind is float else ctypes.c_int64 for kind in types), ctypes.c_int64]
    function.restype = ctypes.c_int64
    return function


def table_of_scores(z: Tensor, shift: Tensor | None, scale: float) -> tuple[Tensor | float | None, ...]:
    """Return what stands for a table of scores scale * (z + shift) in the arguments of a kernel."""
    z = with_rows(z)
    return z, z.stride(0), *z.shape, shift, float(scale)


def with_rows(table: Tensor) -> Tensor:
    """Return the table (n, C) with its columns side by side, as it is where they are."""
    return table if table.stride(1) == 1 or table.shape[1] == 1 else table.contiguous()


def as_scores(z: Tensor, *_: Any) -> Tensor:
    """Return a tensor of the shape of the scores, for an operator that gives their gradient."""
    return z.new_empty(z.shape)
