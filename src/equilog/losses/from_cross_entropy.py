"""The loss from each set's cross-entropy, whatever engine has computed it: a fused kernel, or ranks with a part each.

With index targets sum_j log(1 + sum_i (1/p_i - 1)), over the sets i of class j, needs of each set only 1/p_i - 1 =
expm1 of its cross-entropy. What the engine gives back for a set's gradient is cross-entropy's own, times a number.
"""

from typing import Any

import torch
from torch import Tensor

from equilog.core.grouping import index_log_terms
from equilog.core.pool_state import ClassMass, ProcessGroup
from equilog.core.pool_sums import pooled_loss
from equilog.core.pools import as_pools
from equilog.inputs.classes import index_targets
from equilog.inputs.options import ClassOptions, Pool, Reduction
from equilog.inputs.values import class_vector, known
from equilog.losses.multiclass import index_sums
from equilog.ops import as_compute_dtype, gather_shards, least_with_log

_MOST_ROUNDING = 0.1
"""A loss this far below 0 is none: rounding of logits up to 1e5 in float32 stays above."""


def log_balanced_from_cross_entropy(
    losses: Tensor,
    target: Tensor,
    num_classes: int,
    *,
    pool: Pool = None,
    weight: Any = None,
    sample_weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    class_mass: ClassMass | None = None,
    process_group: ProcessGroup = None,
    validate: bool = False,
) -> Tensor:
    r"""`log_balanced_cross_entropy` from the cross-entropy of each set, computed by whatever does that best.

    For fused kernels, which never hold the logits, and for layers that are spread over devices in their own way: all
    that give one cross-entropy a set, $\ell_i = -\log p_{i y_i}$, and take a gradient for each. With index targets
    $y_i$ and balance "class" the loss is

    $$ \sum_j \text{weight}_j \log\Bigl(1 + \sum_{i: y_i = j} v_i \bigl(e^{\ell_i} - 1\bigr)\Bigr), $$

    so that C numbers couple the sets, and the engine's work is that of plain cross-entropy.

    Args:
        losses: (N, d1, ...) or (), floating point: natural-log cross-entropies >= 0, of reduction "none", without
            class weights, label smoothing or further terms. Less than 0, by rounding, counts as 0. What stands for an
            ignored set may be anything. float16 and bfloat16 are computed in float32.
        target: class indices of the same shape, of any integer type: those that the engine was given.
        num_classes: C >= 1.
        pool: as in `log_balanced_cross_entropy`.
        weight: as in `log_balanced_cross_entropy`. Not for the engine.
        sample_weight: as in `log_balanced_cross_entropy`. Not for the engine.
        ignore_index: index target of the sets to leave out, the engine's too.
        reduction: as in `log_balanced_cross_entropy`.
        class_mass: the mass of the whole that this call is a part of, from `equilog.class_mass` of every
            part; as in `log_balanced_cross_entropy`.
        process_group: as in `log_balanced_cross_entropy`.
        validate: look at the values of the arguments too and raise on bad ones. Makes a GPU wait. On the CPU, indices
            out of range and losses far below 0 raise anyway.

    Returns:
        Nats, float32 (float64 for float64 losses): a scalar, or for reduction "none" (P,), one value a pool, 0 for an
        empty one; with pool=1 of the shape of the sets, (N, d1, ...), and then the losses themselves.

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape or range, named with what was expected.

    Limits:
        A prior or a scale belong into the engine's logits: log prior is a bias of the layer. The loss is as exact as
        the losses given: near 0 an engine's are known to the last digit of the logits only, where
        `log_balanced_cross_entropy` knows them to their own. A loss of 0 keeps the gradient of its set, in that it
        counts as 1e-15 (float32; 1e-123 in float64), and second derivatives lose the digits by which a loss is less
        than 1. Infinity gives infinity, NaN gives NaN.

    Source:
        The identity is this project's; the loss is Su Jianlin's, https://kexue.fm/archives/9158 (2022).

    Example:
        >>> from equilog import log_balanced_cross_entropy
        >>> generator = torch.manual_seed(0)
        >>> logits, target = torch.randn(64, 10, generator=generator), torch.arange(64) % 10
        >>> losses = torch.nn.functional.cross_entropy(logits, target, reduction="none")
        >>> loss = log_balanced_from_cross_entropy(losses, target, 10)
        >>> torch.allclose(loss, log_balanced_cross_entropy(logits, target))
        True
    """
    where = "log_balanced_from_cross_entropy"
    options = ClassOptions(where=where, pool=pool, ignore_index=ignore_index, reduction=reduction, validate=validate)
    _check_shapes(where, losses, target, num_classes)
    nll = as_compute_dtype(gather_shards(losses)).reshape(-1)
    targets = index_targets(options, target, num_classes, nll.dtype, sample_weight)
    if targets.kept is not None:
        nll = torch.where(targets.kept, nll, 1.0)  # whose log odds have a gradient, which weight 0 makes 0
    _check_losses(where, nll, validate=validate)
    if weight is not None:
        of_no_sets = losses.new_empty(0, num_classes)
        weight = class_vector(where, "weight", weight, of_no_sets, positive=False, validate=validate)
    pools = as_pools(options, targets.shape, nll.device)
    terms = index_log_terms(targets.blanked(_log_odds(nll), -torch.inf), targets)
    part = index_sums(options, targets, pools, lambda: terms.sums(pools, targets.log_weight), weight)
    return pooled_loss(options, part, class_mass, process_group)


def _log_odds(nll: Tensor) -> Tensor:
    """Return the log odds log(e^nll - 1) against the truth from its negative log-likelihood.

    What is below a least number above 0, as rounding may leave it, is taken for that number: its log is finite, so that
    the gradient of the odds, e^nll, is not lost with them.
    """
    least = least_with_log(nll.dtype)
    nll = torch.where(nll < least, least + (nll - nll.detach()), nll)
    log_odds = nll + (-torch.expm1(-nll)).log()
    return torch.where(nll == torch.inf, torch.inf, log_odds)


def _check_shapes(where: str, losses: Tensor, target: Tensor, classes: int) -> None:
    if not isinstance(losses, Tensor) or not isinstance(target, Tensor):
        types = f"{type(losses).__name__} and {type(target).__name__}"
        raise TypeError(f"{where}: losses and target must be tensors; got {types}. Wrap them in torch.as_tensor.")
    if not losses.is_floating_point():
        raise TypeError(f"{where}: losses must be floating point, not {losses.dtype}; call losses.float().")
    if target.is_floating_point():
        raise TypeError(
            f"{where}: target must be class indices, integers; got {target.dtype}. Indices: call target.long(). "
            f"Probabilities need the logits: use log_balanced_cross_entropy."
        )
    if isinstance(classes, bool) or not classes >= 1:
        raise ValueError(f"{where}: num_classes must be at least 1; got {classes!r}.")
    if losses.shape != target.shape:
        remedy = ""
        if losses.dim() == 0:
            remedy = ' Ask the engine for one cross-entropy a set, reduction="none".'
        elif losses.numel() == target.numel():
            remedy = " Call losses.view_as(target)."
        raise ValueError(
            f"{where}: losses must be {tuple(target.shape)}, one cross-entropy a set, to match target; got "
            f"{tuple(losses.shape)}.{remedy}"
        )


def _check_losses(where: str, nll: Tensor, *, validate: bool) -> None:
    if known((nll < -_MOST_ROUNDING).any(), validate):
        raise ValueError(
            f"{where}: losses must be cross-entropies, -log p, which are 0 or more; got {float(nll.min()):.4g}. Log "
            f"probabilities need a minus sign."
        )
    if validate and known(nll.isfinite().all(), True) is False:
        raise ValueError(f"{where}: losses hold NaN or infinity.")
