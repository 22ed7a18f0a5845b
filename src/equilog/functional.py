"""One function per loss: logits -> log odds -> pooled with its neighbours -> log -> reduced."""

from typing import Literal

import torch
from torch import Tensor

from equilog.compensation import odds_at_optimum
from equilog.grouping import BlockBalance, ClassBalance, Grouping, as_grouping
from equilog.labels import Labels, as_labels
from equilog.pooling import Pools, as_pools
from equilog.targets import Sets, as_sets, class_vector

Balance = Literal["class", "pair", "none"]
Compensation = Literal["weight", "offset"]
Reduction = Literal["mean", "sum", "none"]


def log_balanced_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    balance: Balance | Tensor | Grouping = "class",
    pool: str | int | Tensor | None = None,
    compensation: Compensation | None = "weight",
    scale: float = 1.0,
    prior: Tensor | None = None,
    prior_strength: float = 1.0,
    weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    validate: bool = False,
) -> Tensor:
    r"""Cross-entropy whose sum over the sets of a pool stands inside one log per class, which balances the classes.

    With $z = \text{logits} + \text{prior\_strength} \cdot \log \text{prior}$, $p_i = \mathrm{softmax}(\text{scale}
    \cdot z_i)$, target $t_i$ and sample weight $v_i$, one pool of sets costs

    $$ \sum_j \text{weight}_j \, w_j \log\Bigl(1 + \sum_i v_i t_{ij} \bigl(1/p_{ij} - 1\bigr)\Bigr). $$

    A class with ten times the sets counts like $\log(10\,x)$, not like $10\,x$. A pool of one set with an index
    target costs exactly its cross-entropy, so the size of the pool is a dial from cross-entropy to full balance.
    The $w_j$ are 1 for index targets; for probability targets they compensate what one log per class would do to
    them, so that the only minimum is at $t_i = \mathrm{softmax}(2 \cdot \text{scale} \cdot z_i)$.

    Args:
        logits: (N, C), (N, C, d1, ...) or (C,), floating point. Minus infinity leaves a class out of a set. float16
            and bfloat16 are computed in float32.
        target: class indices (N, d1, ...) of any integer type, or probabilities of the shape of `logits`.
        balance: "class", one log per class; "pair", one per ordered pair of classes, sum over j != k of weight_j
            log(1 + X_jk) with X_jk = sum_i v_i t_ij exp(scale (z_ik - z_ij)), exact for soft targets without any
            compensation; "none", one log for all pairs together; a (C,) integer tensor, one log per ordered pair of
            blocks of classes and one per block for the pairs inside it. "pair" with probability targets takes
            memory n C^2.
        pool: which sets share a log. "sample", the positions of one sample; "batch", all sets of the call; an int q,
            groups of q consecutive sets; an integer tensor of pool ids >= 0, one a set (N, d1, ...) or one a sample
            (N,). None is "sample" where there are positions, else "batch". Sets are numbered in the order of the
            flattened target; ignored sets keep their number. Under torch.compile ids must be less than the number
            of sets.
        compensation: for probability targets and balance "class" only. With rho_ij = sqrt(t_ij) (sum_k sqrt(t_ik) -
            sqrt(t_ij)) and R_j = sum_i v_i rho_ij in the pool: "weight", w_j = (1 + R_j) / mean_k (1 + R_k);
            "offset", w_j = 1 and D_j = max_k R_k - R_j is added inside the log; None, neither: the only minimum is
            then at targets reweighted by 1 / class mass.
        scale: factor > 0 on the scores.
        prior: (C,) class frequencies or counts, all > 0, or None. Added to the logits in the loss, so that the bare
            logits decide as if all classes were equally frequent.
        prior_strength: factor on log prior.
        weight: (C,) factor on each class's log; for balance "class" and "pair".
        sample_weight: (N, d1, ...) or (N,), factor >= 0 on a set's odds: weight 2 is the set twice, weight 0 is an
            ignored set. The way to ignore sets with probability targets.
        ignore_index: index target of the sets to leave out.
        label_smoothing: in [0, 1), share of the target spread evenly over the classes that take part in the set.
        reduction: "mean" over the pools that hold at least one set not ignored, "sum" over the pools, or "none", one
            value a pool. Unlike torch, "mean" does not divide by the class weights.
        validate: look at the values of the arguments too and raise on bad ones. Makes a GPU wait. On the CPU,
            indices out of range raise anyway; on a GPU they give NaN.

    Returns:
        Nats, float32 (float64 for float64 logits): a scalar, or for reduction "none" (P,), one value a pool, 0 for
        an empty one; with pool=1 of the target's shape, as torch's cross-entropy.

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape or range, named with what was expected.

    Limits:
        Everything ignored, or no sets at all: 0, with gradient 0. NaN in a logit of a set not ignored gives NaN. A
        target in a class at minus infinity gives infinity. Gradients with respect to a probability target hold
        its compensation fixed, and are 0 where the target is 0.

    Source:
        Su Jianlin, https://kexue.fm/archives/9158 (2022), the loss with one log per class; the compensation for soft
        targets, pools, priors and the other balances are this project's. Prior: Ren et al. 2020, arXiv 2007.10740.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        >>> target = torch.tensor([0, 1])
        >>> log_balanced_cross_entropy(logits, target, pool=1)  # torch's cross-entropy
        tensor(0.3955)
        >>> torch.nn.functional.cross_entropy(logits, target)
        tensor(0.3955)
        >>> log_balanced_cross_entropy(logits, target)  # one pool: one log per class, summed
        tensor(0.7910)
    """
    where = "log_balanced_cross_entropy"
    sets = as_sets(
        where,
        logits,
        target,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        validate=validate,
    )
    return balanced_loss(
        where,
        sets,
        balance=balance,
        pool=pool,
        compensation=compensation,
        scale=scale,
        prior=prior,
        prior_strength=prior_strength,
        weight=weight,
        reduction=reduction,
        validate=validate,
    )


def balanced_loss(
    where: str,
    sets: Sets,
    *,
    balance: Balance | Tensor | Grouping,
    pool: str | int | Tensor | None,
    compensation: Compensation | None,
    scale: float,
    prior: Tensor | None,
    prior_strength: float,
    weight: Tensor | None,
    reduction: Reduction,
    validate: bool,
) -> Tensor:
    """Return `log_balanced_cross_entropy` of sets already checked."""
    _check_choice(where, "compensation", compensation, ("weight", "offset", None))
    _check_choice(where, "reduction", reduction, ("mean", "sum", "none"))
    check_scale(where, scale)
    pools = as_pools(where, pool, sets.shape, sets.logits.device)
    grouping = as_grouping(where, balance, sets.classes, sets.logits.device)

    z = sets.logits
    if prior is not None:
        prior = class_vector(where, "prior", prior, z, positive=True, validate=validate)
        z = z + prior_strength * prior.log()
    log_mass = grouping.log_threats(scale * z, sets).pooled(pools, sets.log_weight)

    if sets.probs is not None and isinstance(grouping, ClassBalance) and compensation is not None:
        at_optimum = odds_at_optimum(sets, pools)
        if compensation == "weight":
            log_mass = log_mass * ((1 + at_optimum) / (1 + at_optimum).mean(1, keepdim=True))
        else:
            log_mass = torch.logaddexp(log_mass, (at_optimum.amax(1, keepdim=True) - at_optimum).log())
    if weight is not None:
        if isinstance(grouping, BlockBalance) and grouping.count < sets.classes:
            raise ValueError(f'{where}: weight needs a log per class; use balance "class" or "pair", or sample_weight.')
        weight = class_vector(where, "weight", weight, z, positive=False, validate=validate)
        log_mass = log_mass * grouping.group_weight(weight)
    loss = _reduce(log_mass.sum(1), pools, sets.kept, reduction)
    return loss.reshape(sets.shape) if reduction == "none" and pool == 1 else loss


def multilabel_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    pool: str | int | Tensor = "sample",
    scale: float = 1.0,
    weight: Tensor | None = None,
    pos_weight: float | Tensor | None = None,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
    validate: bool = False,
) -> Tensor:
    r"""Multi-label loss with the positives of a pool inside one log and its negatives inside another.

    With targets $t \in [0, 1]$ and $v$ the product of `weight` and `sample_weight`, one pool of labels costs

    $$ \text{pos\_weight} \log\Bigl(1 + \sum v\, t\, e^{-\text{scale}\,x}\Bigr)
       + \log\Bigl(1 + \sum v\, (1 - t)\, e^{\text{scale}\,x}\Bigr). $$

    It is `log_balanced_cross_entropy` with every label a choice between two classes: few positives weigh like the
    many negatives. Its only minimum is at $t = \sigma(2 \cdot \text{scale} \cdot x)$ in a large pool, and a pool of
    one label costs exactly its binary cross-entropy when t is 0 or 1. A label is predicted where its logit is
    positive.

    Args:
        logits: (N, L) or any shape that starts with the samples, or (L,) for one sample; floating point. float16 and
            bfloat16 are computed in float32.
        target: of the shape of `logits`, floating point, integer or bool, in [0, 1].
        pool: which labels share the two logs: "sample", those of one sample; "batch", all of the call; an int q,
            groups of q consecutive labels of the flattened target; an integer tensor of pool ids, one a label or one
            a sample.
        scale: factor > 0 on the logits.
        weight: factor >= 0 on a label's term inside the logs, broadcastable to `logits`, such as (L,).
        pos_weight: factor >= 0 on the log of the positives: a number, or a tensor of one.
        sample_weight: factor >= 0 on a sample's terms (N,), or on each label's, of the shape of `logits`.
        mask: bool, broadcastable to `logits`: False leaves a label out.
        reduction: "mean" over the pools that hold at least one label not left out, "sum", or "none", one value a pool.
        validate: look at the values of the arguments too and raise on bad ones. Makes a GPU wait.

    Returns:
        Nats, float32 (float64 for float64 logits): a scalar, or (P,) for reduction "none".

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape or range, named with what was expected.

    Limits:
        No labels, or all left out: 0, with gradient 0. Where t is exactly 0 or 1 the other side costs nothing, even at
        infinite logits. NaN in a logit not left out gives NaN.

    Source:
        Su Jianlin, https://kexue.fm/archives/7359 (2020) and 9064 (2022, soft labels); Su et al., arXiv 2208.02955.
        Pools beyond one sample and the weights are this project's.

    Example:
        >>> logits = torch.tensor([[3.0, -2.0, -2.0, -2.0]])
        >>> target = torch.tensor([[1, 0, 0, 0]])
        >>> multilabel_cross_entropy(logits, target)  # log(1 + e^-3) + log(1 + 3 e^-2)
        tensor(0.3893)
    """
    where = "multilabel_cross_entropy"
    labels = as_labels(where, logits, target, weight=weight, sample_weight=sample_weight, mask=mask, validate=validate)
    return multilabel_loss(where, labels, pool=pool, scale=scale, pos_weight=pos_weight, reduction=reduction)


def multilabel_loss(
    where: str,
    labels: Labels,
    *,
    pool: str | int | Tensor,
    scale: float,
    pos_weight: float | Tensor | None,
    reduction: Reduction,
) -> Tensor:
    """Return `multilabel_cross_entropy` of labels already checked."""
    _check_choice(where, "reduction", reduction, ("mean", "sum", "none"))
    check_scale(where, scale)
    pools = as_pools(where, pool, labels.shape, labels.logits.device)
    positives, negatives = pools.log_one_plus_sum(labels.log_threats(scale)).flatten(1).unbind(1)
    if pos_weight is not None:
        if isinstance(pos_weight, Tensor) and pos_weight.numel() != 1:
            raise ValueError(
                f"{where}: pos_weight must be one number, since the positives of a pool share one log; got "
                f"{tuple(pos_weight.shape)}. Use weight for a factor on each label."
            )
        positives = positives * pos_weight
    loss = _reduce(positives + negatives, pools, labels.kept, reduction)
    return loss.reshape(labels.shape) if reduction == "none" and pool == 1 else loss


def _reduce(per_pool: Tensor, pools: Pools, kept: Tensor, reduction: Reduction) -> Tensor:
    if reduction == "none":
        return per_pool
    total = per_pool.sum()
    return total if reduction == "sum" else total / pools.nonempty(kept)


def _check_choice(where: str, name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{where}: {name} must be one of {', '.join(map(repr, choices))}; got {value!r}.")


def check_scale(where: str, scale: float) -> None:
    """Raise ValueError unless the scale is positive and finite."""
    if not 0.0 < scale < float("inf"):
        raise ValueError(f"{where}: scale must be a positive finite number; got {scale!r}.")
