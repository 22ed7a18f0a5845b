"""What kind of call this is: plain, compiled, on a GPU, or under a transformation that must look into formulas."""

import importlib.util

import torch
from torch import Tensor
from torch.autograd import forward_ad


def is_transformed(*tensors: Tensor) -> bool:
    """Tell whether derivatives are taken other than by plain backward: torch.func, forward mode, or in batches."""
    # No public name says whether torch.func is at work; autograd.Function asks the same before it runs.
    if torch._C._are_functorch_transforms_active():
        return True
    return not torch.compiler.is_compiling() and any(
        torch._C._functorch.is_legacy_batchedtensor(tensor)  # of torch.autograd.grad(..., is_grads_batched=True)
        or forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]
        for tensor in tensors
    )


_TRITON = importlib.util.find_spec("triton") is not None


def is_for_triton(*tensors: Tensor) -> bool:
    """Tell whether the tensors are on a GPU and Triton is there to compile for it."""
    return _TRITON and all(
        tensor.is_cuda and (torch.compiler.is_compiling() or type(tensor) in (Tensor, torch.nn.Parameter))
        for tensor in tensors
    )


def is_plain(*tensors: Tensor) -> bool:
    """Tell whether this is an eager call on the CPU, where values may be read and memory reused."""
    return not torch.compiler.is_compiling() and all(
        type(tensor) in (Tensor, torch.nn.Parameter) and tensor.device.type == "cpu" for tensor in tensors
    )
