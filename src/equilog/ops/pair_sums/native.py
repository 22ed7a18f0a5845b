"""The pairwise terms of index targets, summed over pools by the C++ kernel: scores are read once a direction."""

from typing import Any

import torch
from torch import Tensor

from equilog.ops.consecutive import pool_count, slot_ids
from equilog.ops.dtypes import as_compute_dtype
from equilog.ops.native.call import WIDTH, as_scores, run, table_of_scores
from equilog.ops.operators import operator
from equilog.ops.pair_sums import reference
from equilog.ops.scores import scores_of
from equilog.ops.second_order import Differentiable, apply, keep


def pooled_pair_log_sums(
    logits: Tensor, index: Tensor, log_weight: Tensor, pool_size: int, shift: Tensor | None, scale: float
) -> Tensor:
    """Return the log sums (P, C * C), computed in float32 on the CPU."""
    log_sums: Tensor = apply(NativePairSums, as_compute_dtype(logits), index, log_weight, shift, pool_size, scale)
    return log_sums


class NativePairSums(Differentiable):
    """The log sums (P, C * C) of float32 scores scale * (z + shift) (n, C)."""

    @staticmethod
    def formula(z: Tensor, index: Tensor, log_weight: Tensor, shift: Tensor | None, size: int, scale: float) -> Tensor:
        """Return the log sums."""
        return reference.pooled_pair_log_sums(z, index, log_weight, size, shift, scale)

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, index: Tensor, log_weight: Tensor, shift: Tensor | None, pool_size: int, scale: float
    ) -> Tensor:
        """Return the log sums; keep the sums."""
        log_sums, sums, are_logs = pair_sums_forward(z, index, log_weight, shift, pool_size, scale)
        keep(ctx, (z, index, log_weight, shift), (pool_size, scale), sums, are_logs)
        return log_sums

    @staticmethod
    def gradient(ctx: Any, upstream: Tensor) -> Tensor:
        """Return the gradient of z."""
        z, index, log_weight, shift, sums, are_logs = ctx.saved_tensors
        return pair_sums_backward(z, index, log_weight, shift, sums, are_logs, upstream, *ctx.constants)


def _as_forward(
    z: Tensor,
    index: Tensor,  # noqa: ARG001
    log_weight: Tensor,  # noqa: ARG001
    shift: Tensor | None,  # noqa: ARG001
    pool_size: int,
    scale: float,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor]:
    pools = pool_count(z.shape[0], pool_size)
    return z.new_empty(pools, z.shape[1] * z.shape[1]), _table(z, pools), z.new_empty((), dtype=torch.bool)


def _table(z: Tensor, pools: int) -> Tensor:
    """Return zeros in float64 for each pool, index and class (P * C, columns), in whole vectors."""
    return z.new_zeros(pools * z.shape[1], -(-z.shape[1] // WIDTH) * WIDTH, dtype=torch.float64)


@operator(_as_forward)
def pair_sums_forward(
    z: Tensor, index: Tensor, log_weight: Tensor, shift: Tensor | None, pool_size: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log sums, a table of the sums, and whether it is one of their logs: where they overflow or are NaN."""
    pools, classes = pool_count(len(z), pool_size), z.shape[1]
    sums, table = _table(z, pools), table_of_scores(z, shift, scale)
    if run("pair_sums_forward", *table, index.contiguous(), log_weight.exp(), pool_size, sums):
        log_sums = sums[:, :classes].float().log()  # half the time of a double's
        if log_sums.amax() == torch.inf:
            log_sums = sums[:, :classes].log().float()
        return log_sums.view(pools, -1), sums, torch.tensor(False)
    scores = scores_of(z, shift, scale).double()
    log_sums = reference.pooled_pair_log_sums(scores, index, log_weight.double(), pool_size, None, 1.0)
    sums[:, :classes] = log_sums.view(-1, classes)
    return log_sums.float(), sums, torch.tensor(True)


@operator(as_scores)
def pair_sums_backward(
    z: Tensor,
    index: Tensor,
    log_weight: Tensor,
    shift: Tensor | None,
    sums: Tensor,
    are_logs: Tensor,
    upstream: Tensor,
    pool_size: int,
    scale: float,
) -> Tensor:
    """Return the gradient of z from the sums, and what flows back to their logs."""
    if are_logs:
        scores, log_sums = scores_of(z, shift, scale), sums[:, : z.shape[1]]
        return _gradient_by_formula(scores, index, log_weight, log_sums, scale * upstream, pool_size)
    gradient, table = z.new_empty(z.shape), table_of_scores(z, shift, scale)
    flow = upstream.contiguous()
    run("pair_sums_backward", *table, index.contiguous(), log_weight.exp(), pool_size, sums, flow, gradient)
    return gradient


def _gradient_by_formula(
    scores: Tensor, index: Tensor, log_weight: Tensor, log_sums: Tensor, upstream: Tensor, pool_size: int
) -> Tensor:
    """Return each term's share of its sum, times what flows back: from every class to the index."""
    terms, classes = reference.log_terms(scores.double(), index, log_weight.double()), scores.shape[1]
    slot = slot_ids(index, pool_size, classes)
    log_sums, upstream = log_sums[slot], upstream.reshape(-1, classes)[slot]
    certain = (upstream == 0) | log_sums.isinf()
    shares = torch.where(certain, 0.0, upstream * (terms - log_sums).exp())
    return shares.scatter(1, index[:, None], -shares.sum(1, keepdim=True)).float()
