"""The base of every operation with a gradient of its own: fast once, and by the formula where that is not enough."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from equilog.ops.dispatch import is_transformed


class Differentiable(Function):
    """A function of a first tensor, others without gradient, and constants.

    `forward(ctx, *tensors, *constants)` calls `keep`; `gradient(ctx, upstream)` is the fast gradient of the first
    tensor. Where somebody will differentiate once more, `formula` of the same arguments is differentiated instead.
    """

    @staticmethod
    def formula(*inputs: Any) -> Tensor:
        """Return the value by operations that have derivatives of every order; what is left out may hold anything."""
        raise NotImplementedError

    @staticmethod
    def gradient(ctx: Any, upstream: Tensor) -> Tensor:
        """Return the gradient of the first tensor."""
        raise NotImplementedError

    def __init_subclass__(cls) -> None:
        # Not a class method, for whose class torch's compiler (2.13) takes that of the method.
        def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
            if is_differentiated_again(upstream):
                inputs = *ctx.saved_tensors[: ctx.tensors], *ctx.constants
                gradient = differentiated(cls.formula, inputs, upstream)
            else:
                gradient = cls.gradient(ctx, upstream)
            return gradient, *(None,) * (len(ctx.needs_input_grad) - 1)

        cls.backward = staticmethod(backward)  # type: ignore[method-assign]


def apply(function: type[Function], *inputs: Any) -> Any:
    """Return a function's value, as autograd has to know of it."""
    if torch.compiler.is_compiling():
        return function.apply(*inputs)  # type: ignore[no-untyped-call]
    # Function.apply asks before this whether torch.func is at work, which `dispatch` has done.
    return super(Function, function).apply(*inputs)  # type: ignore[misc]


def keep(ctx: Any, tensors: tuple[Tensor | None, ...], constants: tuple[Any, ...], *results: Tensor) -> None:
    """Save the arguments of the formula, and results that the fast gradient reads after them."""
    ctx.tensors, ctx.constants = len(tensors), constants
    ctx.save_for_backward(*tensors, *results)


def wants_gradient(values: Tensor) -> bool:
    """Tell whether a gradient may be asked for, as a Function, which is run without, is not told."""
    return values.requires_grad and torch.is_grad_enabled()


def is_differentiated_again(upstream: Tensor) -> bool:
    """Tell whether a gradient must itself have derivatives, or be one of a batch."""
    return not torch.compiler.is_compiling() and (torch.is_grad_enabled() or is_transformed(upstream))


def differentiated(formula: Callable[..., Tensor], inputs: tuple[Any, ...], upstream: Tensor) -> Tensor:
    """Return the gradient of the first of the inputs, with derivatives of every order."""
    with torch.enable_grad():
        gradient: Tensor = torch.autograd.grad(formula(*inputs), inputs[0], upstream, create_graph=True)[0]
    return gradient
