"""Accelerated sums of odds, and the sole place that asks about hardware.

Each function here has one meaning and several ways to it, chosen from what kind of call it is:

    float32 on the CPU      C++ kernels where there is a compiler to build them; in compiled calls, where they are not
                            so small that what is made of the formula is faster
    plain call, CPU         else, chunks of rows that stay in the cache, analytic gradient
    a GPU, compiled or not  Triton kernels where triton is installed, analytic gradient
    other compiled calls    the formula as it stands, analytic gradient; the compiler fuses it
    spread over ranks       sums over each rank's classes, brought together
    transformed             the formula as it stands: torch.func, forward derivatives, batched gradients

All of them agree to rounding, and every one has second derivatives.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from equilog import logspace, occupied, odds, sides, vocabulary
from equilog.kernels import each
from equilog.kernels.dispatch import is_for_triton, is_plain, is_transformed
from equilog.kernels.each import ChunkedLogOddsSums
from equilog.kernels.label import ChunkedLogOdds
from equilog.kernels.native import positives
from equilog.kernels.native.call import is_few, is_for_native, is_on_cpu
from equilog.kernels.native.each import NativeLogOddsSums
from equilog.kernels.native.label import NativeLogOdds
from equilog.kernels.native.pairs import NativePairSums
from equilog.kernels.native.sides import NativeLogSums
from equilog.kernels.native.sums import NativeLogSumExpBy, first_of_slot
from equilog.kernels.side_sums import ChunkedLogSums
from equilog.pooling import Pools
from equilog.targets import Sets, as_compute_dtype, scores_of
from equilog.vocabulary import is_spread

_FEW_SUMS = 64
"""Beyond these, terms are spread over enough addresses for torch's atomic operations not to queue."""

_LEAST_LABELS = 8
"""In smaller pools most of a vector of sixteen is idle, and loops over the labels of a block are as fast."""


def log_odds_against_label(z: Tensor, labels: Tensor, shift: Tensor | None = None, scale: float = 1.0) -> Tensor:
    """Return the log odds (n,) against each set's label, from scores scale * (z + shift) (n, C) of any floating type.

    A set to which gradient 0 flows back gets gradient 0, whatever its scores, NaN included.
    """
    on_gpu = is_for_triton(z, labels) and not is_transformed(z, labels)
    z = z if on_gpu else as_compute_dtype(z)
    if _has_kernel(z, labels) and not on_gpu and not _learns(shift):
        return cast(Tensor, NativeLogOdds.apply(z, labels, shift, scale))  # type: ignore[no-untyped-call]
    if shift is not None or scale != 1.0:
        z = scores_of(z, shift, scale)
    if is_spread(z):
        return vocabulary.log_odds_against_label(as_compute_dtype(z), labels)
    if on_gpu:
        from equilog.kernels import triton_odds

        return triton_odds.log_odds_against_label(z, labels)
    if is_transformed(z, labels):
        return odds.log_odds_against_label(z, labels)
    if is_plain(z, labels):
        learns = z.requires_grad and torch.is_grad_enabled()  # a Function is run with neither told
        return cast(Tensor, ChunkedLogOdds.apply(z, labels, learns))  # type: ignore[no-untyped-call]
    log_odds: Tensor = odds.LogOddsAgainstLabel.apply(z, labels)[0]  # type: ignore[no-untyped-call]
    return torch.where(log_odds.abs() == torch.inf, log_odds.detach(), log_odds)  # certain either way: a constant


def log_odds_sums(
    z: Tensor, target: Tensor, log_weight: Tensor, pools: Pools, compensated: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the log of the summed odds against each class (P, C), from scores and probability targets (n, C).

    And where it is `compensated`, what is left of the odds at the best scores, summed (P, C), without gradient.
    """
    alone = not _learns(target, log_weight) and not is_transformed(z, target, log_weight)
    consecutive = alone and pools.given is None and pools.sets
    if consecutive and is_for_native(z, target, log_weight):
        given = (z, target, log_weight, pools.size, compensated)
        log_sums, left = NativeLogOddsSums.apply(*given)  # type: ignore[no-untyped-call]
        return log_sums, left if compensated else None
    left = weighted_sums(odds.left_at_optimum, target, log_weight, pools) if compensated else None
    if consecutive and is_plain(z, target, log_weight):
        learns = z.requires_grad and torch.is_grad_enabled()
        return ChunkedLogOddsSums.apply(z, target, log_weight, pools, learns), left  # type: ignore[no-untyped-call]
    return each.log_odds_sums(z, target, log_weight, pools), left


def weighted_sums(of: Callable[[Tensor], Tensor], values: Tensor, log_weight: Tensor, pools: Pools) -> Tensor:
    """Return the weighted sums (P, C) over each pool of what `of` makes of values (n, C) row by row; no gradient."""
    values, log_weight = values.detach(), log_weight.detach()
    if pools.given is None and pools.sets and is_plain(values) and not is_transformed(values):
        return each.weighted_sums(of, values, log_weight, pools)
    return pools.sums(of(values) * log_weight.exp()[:, None])


def log_sums(log_terms: Tensor, pools: Pools, slot: Tensor | None, slots: int) -> Tensor:
    """Return the log of the sum of exp(log_terms) per pool, slot and column, (P, slots * K), from (n, K).

    `slot` (n,) in 0..slots-1 splits each pool's sets; None puts them all in one slot.
    """
    if slot is None:
        return pools.log_sums(log_terms)
    ids, count, columns = pools.slots(slot, slots), pools.count * slots, log_terms.shape[1]
    terms = log_terms.squeeze(1) if columns == 1 else log_terms  # several times as fast as a table of one column
    if is_transformed(terms, ids):
        table = logspace.log_sum_exp_by(terms, ids, count)
    elif columns == 1 and is_plain(terms, ids) and is_for_native(terms, ids):
        table = NativeLogSumExpBy.apply(terms, ids, count)  # type: ignore[no-untyped-call]
    elif columns == 1 and count <= _FEW_SUMS and is_for_triton(terms):
        from equilog.kernels import triton_sums

        table = triton_sums.log_sum_exp_by(terms, ids, count)
    else:
        table = logspace.LogSumExpBy.apply(terms, ids, count)  # type: ignore[no-untyped-call]
    return table.reshape(pools.count, slots * columns)


def log_sums_at_first(log_terms: Tensor, pools: Pools, slot: Tensor, slots: int) -> Tensor:
    """Return the same for consecutive pools, with a place for each set: that of the first of its slot has the sum.

    (P, size * K), minus infinity in the places of the others.
    """
    if pools.size > 1 and _finds_first(log_terms):
        ids, places = first_of_slot(slot, pools.size, slots), pools.count * pools.size
        table = NativeLogSumExpBy.apply(log_terms.squeeze(1), ids, places)  # type: ignore[no-untyped-call]
        return cast(Tensor, table).view(pools.count, pools.size)
    return occupied.log_sums_at_first(log_terms, pools, slot)


def are_small(pools: Pools, slots: int, log_terms: Tensor) -> bool:
    """Tell whether a sum for each set of a pool costs less than one for each of its slots."""
    if pools.given is None and pools.count > 1 and _finds_first(log_terms):
        return pools.size < slots
    return occupied.are_small(pools, slots)


def log_pair_sums(sets: Sets, pools: Pools) -> Tensor:
    """Return the log of the summed threats of each class to each label (P, C * C), of sets with index targets."""
    z, labels, log_weight, shift = as_compute_dtype(sets.logits), cast(Tensor, sets.labels), sets.log_weight, sets.shift
    consecutive = pools.given is None and pools.sets and not _learns(log_weight, shift)
    if consecutive and _has_kernel(z, labels, log_weight):
        weight = sets.blanked(log_weight, -torch.inf)  # a set of weight 0 is not looked at
        given = (z, labels, weight, pools.size, shift, sets.scale)
        return cast(Tensor, NativePairSums.apply(*given))  # type: ignore[no-untyped-call]
    threats = odds.log_threats_to_label(sets.scores(), labels)
    return log_sums(threats + log_weight[:, None], pools, labels, sets.classes)


def log_side_sums(logits: Tensor, target: Tensor, weight: Tensor | None, pools: Pools, scale: float) -> Tensor:
    """Return the logs of the summed threats to each pool's positives and negatives, (P, 2), from labels (n,)."""
    given = _given(logits, target, weight)
    if pools.given is None and pools.sets and not _learns(target, weight):
        if pools.size >= _LEAST_LABELS and _has_kernel(*given):
            return cast(Tensor, NativeLogSums.apply(logits, target, weight, pools.size, scale))  # type: ignore[no-untyped-call]
        if is_plain(*given) and not is_transformed(*given):
            return cast(Tensor, ChunkedLogSums.apply(logits, target, weight, pools, scale))  # type: ignore[no-untyped-call]
    return sides.log_side_sums(logits, target, weight, pools, scale)


def log_index_sums(logits: Tensor, index: Tensor, weight: Tensor | None, scale: float) -> Tensor:
    """Return the same logs of each sample (N, 2), from logits (N, L) and sorted positives (N, k), filled up with L."""
    given, size = _given(logits, index, weight), logits.shape[1]
    if logits.numel() and not _learns(weight):
        flat = logits.reshape(-1)
        if _has_kernel(*given):
            return cast(Tensor, NativeLogSums.apply(flat, index, weight, size, scale))  # type: ignore[no-untyped-call]
        if is_plain(*given) and not is_transformed(*given):
            samples = Pools(len(logits), logits.numel(), logits.device, size=size)
            return cast(Tensor, ChunkedLogSums.apply(flat, index, weight, samples, scale))  # type: ignore[no-untyped-call]
    return sides.log_index_sums(logits, index, weight, scale)


def sorted_positives(target: Tensor, labels: int) -> tuple[Tensor, Tensor]:
    """Return positives (N, k) in order, `labels` in place of the padding, and which samples are wrong (N,)."""
    if is_on_cpu(target) and not is_few(target) and not is_transformed(target):
        return positives.sorted_positives(target, labels)
    return sides.sorted_positives(target, labels)


def _has_kernel(z: Tensor, *others: Tensor) -> bool:
    """Tell whether a C++ kernel takes these, and is worth a call."""
    return is_for_native(z, *others) and not is_few(z) and not is_transformed(z, *others)


def _finds_first(log_terms: Tensor) -> bool:
    """Tell whether to find the first set of a slot takes no comparison of the sets of a pool with each other."""
    one_by_one = log_terms.shape[1] == 1 and is_plain(log_terms) and not is_transformed(log_terms)
    return one_by_one and is_for_native(log_terms)


def _given(*tensors: Tensor | None) -> list[Tensor]:
    return [each for each in tensors if each is not None]


def _learns(*tensors: Tensor | None) -> bool:
    """Tell whether one of these may be asked for its gradient."""
    return any(each.requires_grad for each in _given(*tensors))
