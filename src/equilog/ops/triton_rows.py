"""What the Triton kernels share: how they are launched, how they read scores, and sums kept beside their peaks.

With TRITON_INTERPRET=1 in the environment before triton is imported, the same kernels run on the CPU, slowly.

A kernel takes sizes that vary from batch to batch by `do_not_specialize`, so that none of them compiles it anew.
"""

# mypy: allow-untyped-calls, allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
import triton
import triton.language as tl
from torch import Tensor

from equilog.ops.consecutive import pool_count
from equilog.ops.operators import operator

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

ANYWHERE = "CompositeExplicitAutograd"
"""The key of an operator that runs on a GPU, and by the interpreter on the CPU."""
_PROGRAMS = 1024
"""So many keep the processors of a large GPU busy."""
_FEWEST_SETS = 32


def kernel_operator(
    fake: Callable[..., Result],
) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Have the compiler call a function that launches kernels as one operator."""
    return operator(fake, key=ANYWHERE)


def launch(kernel: Any, grid: tuple[int, ...], like: Tensor, *args: Any, **layout: Any) -> None:
    """Run a kernel's programs on the device of a tensor, in the current stream; none where the grid is empty."""
    if min(grid) > 0:
        with torch.cuda.device_of(like):
            kernel[grid](*args, **layout)


def like_logits(z: Tensor, *_: Any) -> Tensor:
    """Return memory for the gradient of logits, in their type."""
    return torch.empty(z.shape, dtype=z.dtype, device=z.device)


def chunks_of_pools(n: int, size: int, rows: int, blocks: int) -> tuple[int, int]:
    """Return into how many chunks the pools of n sets are cut, and the sets of each, a multiple of `rows`.

    So many that with so many blocks of columns there are programs enough for a GPU, but each with sets enough that what
    the chunks add up to is little beside the logits.
    """
    longest = min(n, size)
    programs = max(pool_count(n, size) * blocks, 1)
    sets = max(triton.cdiv(longest, max(_PROGRAMS // programs, 1)), _FEWEST_SETS)
    sets = triton.cdiv(sets, rows) * rows
    return triton.cdiv(longest, sets), sets


def warps_of(rows: int, block: int) -> int:
    """Return the warps for a tile, with few enough numbers a thread for its registers, those of its rows among them.

    Few columns stand beside each other in a warp, whose threads then hold what there is of a row for each of theirs.
    """
    return min(max(rows * block // (128 if block < 256 else 256), 1), 16)


def offset_type(reach: int) -> Any:
    """Return the type for offsets within one program that reach so far."""
    return tl.int32 if reach < 2**31 else tl.int64


@triton.jit
def scores_at(z, shift, scale, address, column, mask, is_class, wide: tl.constexpr):
    """Read scores scale * (z + shift), minus infinity where the mask is not set; the shift may be None."""
    score = tl.load(z + address, mask=mask, other=-float("inf")).to(wide)
    if shift is not None:
        score += tl.load(shift + column, mask=is_class, other=0.0).to(wide)
    return score * tl.full((1,), scale, wide)


@triton.jit
def subtractable(peak):
    """Keep what can be subtracted; infinities and NaN then go their chosen way through exp."""
    return tl.where(tl.abs(peak) < float("inf"), peak, 0.0)


@triton.jit
def log1p(x):
    """Return log(1 + x) of x 0 or more, with all its digits: what rounding 1 + x leaves out comes back as a factor."""
    above = 1.0 + x
    rounded = above - 1.0
    return tl.where((rounded == 0.0) | (above == float("inf")), x, tl.log(above) * (x / rounded))


@triton.jit
def log_one_plus(log_sum):
    """Return log(1 + exp(log_sum)), with all its digits at both ends."""
    return tl.where(log_sum > 40.0, log_sum, log1p(tl.exp(tl.minimum(log_sum, 40.0))))
