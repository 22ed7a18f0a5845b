"""The pairwise terms of index targets, summed over blocks of classes on a GPU: logits are read once a direction.

The classes are put in the order of their blocks. A program takes some sets and one block's classes, of which it makes
one number a set.
"""

# mypy: allow-untyped-calls, allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from equilog.ops.dtypes import compute_dtype
from equilog.ops.pair_sums import reference
from equilog.ops.pair_sums.triton import gradient_kernel, layout_of, terms_at
from equilog.ops.second_order import Differentiable, apply, keep
from equilog.ops.triton_rows import kernel_operator, launch, like_logits, subtractable


def block_log_terms(
    logits: Tensor,
    index: Tensor,
    log_weight: Tensor,
    block: Tensor,
    blocks: int,
    shift: Tensor | None,
    scale: float,
) -> Tensor:
    """Return the logs of what each set adds for each block (n, B), on a GPU or by the interpreter."""
    terms: Tensor = apply(TritonBlockTerms, logits, index, log_weight, block, shift, blocks, float(scale))
    return terms


class TritonBlockTerms(Differentiable):
    """The log terms (n, B) of scores scale * (z + shift) (n, C), which are all that it keeps."""

    @staticmethod
    def formula(
        z: Tensor, index: Tensor, log_weight: Tensor, block: Tensor, shift: Tensor | None, blocks: int, scale: float
    ) -> Tensor:
        """Return the log terms."""
        return reference.block_log_terms(z, index, log_weight, block, blocks, shift, scale)

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        index: Tensor,
        log_weight: Tensor,
        block: Tensor,
        shift: Tensor | None,
        blocks: int,
        scale: float,
    ) -> Tensor:
        """Return the log terms."""
        terms = log_terms_of_blocks(z, index, log_weight, block, shift, blocks, scale)
        keep(ctx, (z, index, log_weight, block, shift), (blocks, scale), terms)
        return terms

    @staticmethod
    def gradient(ctx: Any, upstream: Tensor) -> Tensor:
        """Return the gradient of z."""
        # saved_tensors complains if the logits have been changed since.
        z, index, log_weight, block, shift, terms = ctx.saved_tensors
        return log_terms_of_blocks_gradient(z, index, log_weight, block, shift, terms, upstream, ctx.constants[1])


def _as_terms(
    z: Tensor,
    index: Tensor,  # noqa: ARG001
    log_weight: Tensor,  # noqa: ARG001
    block: Tensor,  # noqa: ARG001
    shift: Tensor | None,  # noqa: ARG001
    blocks: int,
    scale: float,  # noqa: ARG001
) -> Tensor:
    return z.new_empty(len(z), blocks, dtype=compute_dtype(z))


@kernel_operator(_as_terms)
def log_terms_of_blocks(
    z: Tensor, index: Tensor, log_weight: Tensor, block: Tensor, shift: Tensor | None, blocks: int, scale: float
) -> Tensor:
    """Return the log terms (n, B)."""
    terms, (n, classes) = _as_terms(z, index, log_weight, block, shift, blocks, scale), z.shape
    sorted_blocks, order = block.sort(stable=True)
    starts = torch.searchsorted(sorted_blocks, torch.arange(blocks + 1, device=z.device))
    layout = layout_of(triton.cdiv(classes, max(blocks, 1)))
    launch(
        _blocks_kernel, (triton.cdiv(n, layout["ROWS"]), blocks), z, z, index.contiguous(), log_weight.contiguous(),
        shift, order, starts, terms, n, *z.stride(), scale, **layout,
    )  # fmt: skip
    return terms


@kernel_operator(like_logits)
def log_terms_of_blocks_gradient(
    z: Tensor,
    index: Tensor,
    log_weight: Tensor,
    block: Tensor,
    shift: Tensor | None,
    terms: Tensor,
    upstream: Tensor,
    scale: float,
) -> Tensor:
    """Return the gradient of z from the log terms and what flows back to them."""
    gradient, layout = like_logits(z), layout_of(z.shape[1])
    launch(
        gradient_kernel, (triton.cdiv(z.shape[0], layout["ROWS"]),), z, z, index, block.contiguous(),
        log_weight.contiguous(), shift, terms, upstream.contiguous(), gradient, *z.shape, terms.shape[1], *z.stride(),
        index.stride(0), scale, **layout,
    )  # fmt: skip
    return gradient


@triton.jit(do_not_specialize=["n"])
def _blocks_kernel(
    z, index, log_weight, shift, order, starts, terms, n, row_stride, column_stride, scale: tl.float64,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    wide = terms.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    is_row = row < n
    place = tl.load(index + row, mask=is_row, other=0)
    peak, total = tl.full((ROWS, 1), -float("inf"), wide), tl.zeros((ROWS, 1), wide)
    end = tl.load(starts + tl.program_id(1) + 1)
    for start in range(tl.load(starts + tl.program_id(1)), end, BLOCK):
        at = start + tl.arange(0, BLOCK)[None, :]
        is_class = at < end
        column = tl.load(order + at, mask=is_class, other=0)
        term = terms_at(
            z, log_weight, shift, scale, row, is_row, place, column, is_class, row_stride, column_stride, wide
        )
        before = peak
        peak = tl.maximum(peak, tl.max(term, 1)[:, None])
        base = subtractable(peak)
        total = total * tl.exp(before - base) + tl.sum(tl.exp(term - base), 1)[:, None]
    address = terms + row * tl.num_programs(1) + tl.program_id(1)
    tl.store(address, tl.log(total) + subtractable(peak), mask=is_row)
