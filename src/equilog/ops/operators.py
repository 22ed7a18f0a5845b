"""Functions that torch's compiler takes as one operation each."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

_LIBRARY = torch.library.Library("equilog", "FRAGMENT")  # type: ignore[no-untyped-call]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def operator(
    fake: Callable[..., Result], *, key: str = "CPU"
) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Have the compiler call a function as one operator, of whose result `fake` gives shapes and types.

    The key is torch's name for where it runs: "CPU", or "CompositeExplicitAutograd" for anywhere.
    """

    def decorate(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        name = function.__name__
        # Not by torch.library.custom_op, whose checks of a call take longer than a kernel does with a few hundred sets.
        _LIBRARY.define(name + torch.library.infer_schema(function, mutates_args=()))  # type: ignore[no-untyped-call]
        _LIBRARY.impl(name, function, key)  # type: ignore[no-untyped-call]
        torch.library.register_fake(f"equilog::{name}", fake, lib=_LIBRARY)
        opaque = getattr(torch.ops.equilog, name).default

        def call(*args: Arguments.args, **keywords: Arguments.kwargs) -> Result:
            # An operator takes longer than the function.
            return (opaque if torch.compiler.is_compiling() else function)(*args, **keywords)

        return call

    return decorate
