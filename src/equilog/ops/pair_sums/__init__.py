"""The pairwise terms exp(z_k - z_j) of index targets j, summed over pools for each ordered pair of classes (j, k)."""

import torch
from torch import Tensor

from equilog.ops import dispatch
from equilog.ops.dtypes import compute_dtype
from equilog.ops.pair_sums import native, reference
from equilog.ops.pair_sums.reference import pair_log_terms
from equilog.ops.sharded import is_sharded

__all__ = ["block_log_terms", "pair_log_terms", "pooled_pair_log_sums"]


def pooled_pair_log_sums(
    logits: Tensor,
    index: Tensor,
    log_weight: Tensor,
    pool_size: int,
    shift: Tensor | None = None,
    scale: float = 1.0,
    ids: Tensor | None = None,
) -> Tensor:
    """Return the log of the summed pairwise terms, log sum_{i: j_i = j} w_i exp(z_ik - z_ij), per pool.

    Args:
        logits: (n, C) of any floating type; the scores are scale * (logits + shift).
        index: (n,) int64, 0..C-1.
        log_weight: (n,); minus infinity for a set that is left out, which may hold anything.
        pool_size: consecutive sets a pool; the last may be short. With ids, the number of pools.
        shift: (C,) in the type to compute in, or None for 0.
        scale: factor > 0.
        ids: (n,) int64, the pool of each set; None where pools are consecutive.

    Returns:
        (P, C * C), the pair (j, k) at j * C + k; minus infinity where there is no term, as on the diagonal.
    """
    return _pooled_pair_log_sums(logits, index, log_weight, pool_size, shift, scale, ids)


def block_log_terms(
    logits: Tensor,
    index: Tensor,
    log_weight: Tensor,
    block: Tensor,
    blocks: int,
    shift: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    """Return the logs of the pairwise terms of each set summed over blocks of classes, log w_i sum_k exp(z_ik - z_ij).

    Args:
        logits, index, log_weight, shift, scale: as of `pooled_pair_log_sums`.
        block: (C,) int64, 0..blocks-1.
        blocks: B.

    Returns:
        (n, B), over the classes k of each block but for the set's own, j.
    """
    return _block_log_terms(logits, index, log_weight, block, blocks, shift, scale)


def _is_for_native(
    logits: Tensor,
    index: Tensor,
    log_weight: Tensor,
    pool_size: int,  # noqa: ARG001
    shift: Tensor | None,
    scale: float,  # noqa: ARG001
    ids: Tensor | None,
) -> bool:
    return (
        ids is None
        and compute_dtype(logits) == torch.float32
        and len(logits) > 0
        and not dispatch.learns(log_weight, shift)
        and dispatch.native(logits, index, log_weight, shift)
        and not dispatch.is_few(logits)
    )


def _is_for_triton(
    logits: Tensor,
    index: Tensor,
    log_weight: Tensor,
    pool_size: int,  # noqa: ARG001
    shift: Tensor | None,
    scale: float,  # noqa: ARG001
    ids: Tensor | None,
) -> bool:
    return (
        len(logits) > 0
        and not dispatch.learns(log_weight, shift)
        and dispatch.triton(logits, index, log_weight, shift, ids)
        and not is_sharded(logits)
    )


def _by_triton(
    logits: Tensor,
    index: Tensor,
    log_weight: Tensor,
    pool_size: int,
    shift: Tensor | None,
    scale: float,
    ids: Tensor | None,
) -> Tensor:
    from equilog.ops.pair_sums import triton

    return triton.pooled_pair_log_sums(logits, index, log_weight, pool_size, shift, scale, ids)


def _blocks_by_triton(
    logits: Tensor,
    index: Tensor,
    log_weight: Tensor,
    block: Tensor,
    blocks: int,
    shift: Tensor | None,
    scale: float,
) -> Tensor:
    from equilog.ops.pair_sums import triton_blocks

    return triton_blocks.block_log_terms(logits, index, log_weight, block, blocks, shift, scale)


def _by_native(
    logits: Tensor,
    index: Tensor,
    log_weight: Tensor,
    pool_size: int,
    shift: Tensor | None,
    scale: float,
    _: Tensor | None,
) -> Tensor:
    return native.pooled_pair_log_sums(logits, index, log_weight, pool_size, shift, scale)


_pooled_pair_log_sums = dispatch.Operation(
    "pooled_pair_log_sums",
    ("triton", _is_for_triton, _by_triton),
    ("native", _is_for_native, _by_native),
    reference=reference.pooled_pair_log_sums,
)
_block_log_terms = dispatch.Operation(
    "block_log_terms",
    (
        "triton",
        lambda logits, index, log_weight, block, _, shift, scale: _is_for_triton(
            logits, index, log_weight, 0, shift, scale, block
        ),
        _blocks_by_triton,
    ),
    reference=reference.block_log_terms,
)
