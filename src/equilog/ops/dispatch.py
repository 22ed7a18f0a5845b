"""Which way of computing a call goes: the sole place that asks about hardware, compilation and transformations.

Every operation has one meaning and several ways to it, tried in the order of its table:

    dtensor     classes sharded over ranks: sums over each rank's, brought together
    triton      on a GPU, compiled or not, where triton is installed
    native      the C++ kernels, float32 on the CPU, where there is a compiler to build them; in compiled calls where
                they are not so small that what is made of the formula is faster
    chunked     an eager call on the CPU: rows a cache holds at a time
    reference   the formula: what the compiler fuses, and what torch.func, forward derivatives and batched gradients
                look into

All of them agree to rounding, and every one has second derivatives (dtensor says that it has none).
"""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar, TypeVarTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from equilog.ops.native.call import has_kernels

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")

OPERATIONS: dict[str, "Operation[*tuple[Any, ...], Any]"] = {}
"""Every operation by its name."""

_ways: frozenset[str] | None = None
"""The names that a choice is restricted to, or None."""


class Operation(Generic[*Arguments, Result]):
    """An operation as an ordered list of its ways: name, whether it takes the arguments of a call, and what it does."""

    def __init__(
        self,
        name: str,
        *ways: tuple[str, Callable[[*Arguments], bool], Callable[[*Arguments], Result]],
        reference: Callable[[*Arguments], Result],
    ) -> None:
        self.ways = ways
        self.reference = reference
        OPERATIONS[name] = self

    def __call__(self, *args: *Arguments) -> Result:
        """Return what the first way that takes the arguments makes of them."""
        return (self.way(*args) or self.reference)(*args)

    def way(self, *args: *Arguments) -> Callable[[*Arguments], Result] | None:
        """Return the first way that takes the arguments, None where that is the reference."""
        for name, takes, compute in self.ways:
            if (_ways is None or allows(name)) and takes(*args):
                return compute
        return None


@contextlib.contextmanager
def only(*ways: str) -> Iterator[None]:
    """Restrict every choice to these ways and, where none of them takes a call, the reference."""
    global _ways
    before, _ways = _ways, frozenset(ways)
    try:
        yield
    finally:
        _ways = before


def allows(way: str) -> bool:
    """Tell whether a choice may fall on this way of computing."""
    return _ways is None or way in _ways or way == "reference"


def native(*tensors: Tensor | None) -> bool:
    """Tell whether there are C++ kernels, and these are tensors on the CPU and no more than that."""
    return has_kernels() and _are_bare("cpu", tensors) and not is_transformed(*tensors)


def chunked(*tensors: Tensor | None) -> bool:
    """Tell whether this is an eager call on the CPU, where values may be read and memory reused."""
    return not torch.compiler.is_compiling() and _are_bare("cpu", tensors) and not is_transformed(*tensors)


def triton(*tensors: Tensor | None) -> bool:
    """Tell whether the tensors are on a GPU and Triton is there to compile for it."""
    return _HAS_TRITON and _are_bare("cuda", tensors) and not is_transformed(*tensors)


def is_compiled() -> bool:
    """Tell whether this call is being compiled."""
    return torch.compiler.is_compiling()


def is_few(values: Tensor) -> bool:
    """Tell whether this is a compiled call of so few numbers that to call a kernel takes longer than the formula."""
    return torch.compiler.is_compiling() and values.numel() < _FEW


def is_many(values: Tensor) -> bool:
    """Tell whether these are so many numbers that memory counts before time; any are where the ways are restricted."""
    return values.numel() >= (_MANY if _ways is None else 1)


def learns(*tensors: Tensor | None) -> bool:
    """Tell whether one of these may be asked for its gradient."""
    for tensor in tensors:  # noqa: SIM110 - any() takes as long as what it is asked for
        if tensor is not None and tensor.requires_grad:
            return True
    return False


def is_transformed(*tensors: Tensor | None) -> bool:
    """Tell whether derivatives are taken other than by plain backward: torch.func, forward mode, or in batches."""
    # No public name says whether torch.func is at work; autograd.Function asks the same before it runs.
    if torch._C._are_functorch_transforms_active():
        return True
    if torch.compiler.is_compiling():
        return False
    has_tangents = forward_ad._current_level >= 0
    for tensor in tensors:
        if tensor is not None and (
            torch._C._functorch.is_legacy_batchedtensor(tensor)  # of torch.autograd.grad(..., is_grads_batched=True)
            or (has_tangents and forward_ad.unpack_dual(tensor).tangent is not None)  # type: ignore[no-untyped-call]
        ):
            return True
    return False


_FEW = 2**15

_MANY = 2**20
"""From here on dozens of tables are more than a hundred megabytes."""
_HAS_TRITON = importlib.util.find_spec("triton") is not None


def _are_bare(device: str, tensors: tuple[Tensor | None, ...]) -> bool:
    """Tell whether the tensors are on a device and no more than tensors; what is compiled is taken apart already."""
    is_compiling = torch.compiler.is_compiling()
    for tensor in tensors:
        if tensor is None:
            continue
        if not (tensor.is_cpu if device == "cpu" else tensor.device.type == device):  # which takes less time
            return False
        if not is_compiling and type(tensor) not in (Tensor, torch.nn.Parameter):
            return False
    return True
