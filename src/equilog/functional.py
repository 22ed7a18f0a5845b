"""The loss of one choice among C classes: logits -> log odds -> pooled with its neighbours -> log -> reduced."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from equilog.grouping import BlockBalance, ClassBalance, Grouping, as_grouping
from equilog.inner import InnerName
from equilog.mass import ClassMass, Layout
from equilog.part import Group, Part, whole_of
from equilog.pooling import as_pools
from equilog.prior import log_prior
from equilog.targets import Sets, as_sets, class_vector

Balance = Literal["class", "pair", "none"]
Compensation = Literal["weight", "offset"]
Reduction = Literal["mean", "sum", "none"]


def log_balanced_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    balance: Balance | Tensor | Grouping = "class",
    inner: InnerName = "odds",
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
    class_mass: ClassMass | None = None,
    process_group: Group = None,
    validate: bool = False,
) -> Tensor:
    r"""Cross-entropy whose sum over the sets of a pool stands inside one log per class, which balances the classes.

    With $z = \text{logits} + \text{prior\_strength} \cdot \log \text{prior}$, $p_i = \mathrm{softmax}(\text{scale}
    \cdot z_i)$, target $t_i$ and sample weight $v_i$, one pool of sets costs

    $$ \sum_j \text{weight}_j \, w_j \log\Bigl(1 + \sum_i v_i t_{ij} \bigl(1/p_{ij} - 1\bigr)\Bigr). $$

    A class with ten times the sets counts like $\log(10\,x)$, not like $10\,x$. A pool of one set with an index
    target costs exactly its cross-entropy, so the size of the pool is a dial from cross-entropy to full balance.
    The odds $1/p_{ij} - 1$ are the inner term; `inner` names two gentler ones. The $w_j$ are 1 for index targets; for
    probability targets they compensate what one log per class would do to them, so that the only minimum is at $t_i =
    \mathrm{softmax}(2 \cdot \text{scale} \cdot z_i)$.

    Args:
        logits: (N, C), (N, C, d1, ...) or (C,), floating point. Minus infinity leaves a class out of a set. float16
            and bfloat16 are computed in float32. A DTensor may be sharded over the classes.
        target: class indices (N, d1, ...) of any integer type, or probabilities of the shape of `logits`.
        balance: "class", one log per class; "pair", one per ordered pair of classes, sum over j != k of weight_j
            log(1 + X_jk) with X_jk = sum_i v_i t_ij exp(scale (z_ik - z_ij)), exact for soft targets without any
            compensation; "none", one log for all pairs together; a (C,) integer tensor, one log per ordered pair of
            blocks of classes and one per block for the pairs inside it. "pair" with probability targets takes
            memory n C^2.
        inner: what a set adds inside the log, for balance "class" only. "odds", t_ij (1/p_ij - 1), exponential in the
            scores. "nll", -t_ij log p_ij: index targets cost the log of 1 + their class's summed cross-entropy, so a
            pool of one costs log(1 + cross-entropy), not cross-entropy; not convex. "divergence", t_ij log(t_ij /
            p_ij) - t_ij + p_ij, which is p_ij where t_ij is 0: never negative, and zero exactly at p = t, so that the
            loss is its own regret; not convex. "nll" and "divergence" answer softmax(scale z) = t.
        pool: which sets share a log. "sample", the positions of one sample; "batch", all sets of the call; an int q,
            groups of q consecutive sets; an integer tensor of pool ids >= 0, one a set (N, d1, ...) or one a sample
            (N,). None is "sample" where there are positions, else "batch". Sets are numbered in the order of the
            flattened target; ignored sets keep their number. Ids make a GPU wait once for the largest; under
            torch.compile and vmap they must be less than the number of sets.
        compensation: for probability targets and balance "class" only. With rho_ij = sqrt(t_ij) (sum_k sqrt(t_ik) -
            sqrt(t_ij)) and R_j = sum_i v_i rho_ij in the pool: "weight", w_j = (1 + R_j) / mean_k (1 + R_k);
            "offset", w_j = 1 and D_j = max_k R_k - R_j is added inside the log; None, neither: the only minimum is
            then at targets reweighted by 1 / class mass. For inner "nll" rho_ij = -t_ij log t_ij; "divergence" needs
            no compensation and takes none.
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
        class_mass: the mass of the whole that this call is a part of, from `class_mass` of every part.
            The value is then the whole's and the gradient this part's share (for pools that do not span the parts, both
            are this part's share of the mean).
        process_group: ranks that each hold a part of the whole: a torch.distributed.ProcessGroup; "world", all ranks
            where torch.distributed is initialised, else this process; None, this process alone. Costs one all-reduce
            of a few numbers a class, in which every rank must take part. The gradient is multiplied by the number
            of ranks, since data-parallel wrappers divide by it.
        validate: look at the values of the arguments too and raise on bad ones. Makes a GPU wait. On the CPU,
            indices out of range raise anyway; on a GPU they give NaN.

    Returns:
        Nats, float32 (float64 for float64 logits): a scalar, or for reduction "none" (P,), one value a pool, 0 for
        an empty one; with pool=1 of the shape of the sets, (N, d1, ...), as torch's cross-entropy.

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
    check_reduction(where, reduction)
    part = balanced_part(
        where,
        sets,
        balance=balance,
        inner=inner,
        pool=pool,
        compensation=compensation,
        scale=scale,
        prior=prior,
        prior_strength=prior_strength,
        validate=validate,
    )
    whole, factor = whole_of(where, part, class_mass, process_group, validate=validate)
    return part.loss(
        whole=whole,
        factor=factor,
        compensation=compensation,
        group_weight=group_weight(where, weight, balance, sets, validate=validate),
        reduction=reduction,
    )


def class_mass(
    logits: Tensor,
    target: Tensor,
    *,
    balance: Balance | Tensor | Grouping = "class",
    inner: InnerName = "odds",
    pool: str | int | Tensor = "batch",
    compensation: Compensation | None = "weight",
    scale: float = 1.0,
    prior: Tensor | None = None,
    prior_strength: float = 1.0,
    sample_weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    validate: bool = False,
) -> ClassMass:
    r"""What a call of `log_balanced_cross_entropy` adds to a loss over several micro-batches, ranks or steps.

    Sum over the sets of each class's odds against it, $\sum_i v_i t_{ij} (1/p_{ij} - 1)$, as logarithms, with
    whatever else the parts must know of each other. Merge the masses of all parts, then give the whole to the loss of
    each part: its value is then that of the whole, its gradient the part's share, and the shares add up to the
    gradient of one large batch exactly.

    Args:
        logits: as the loss's.
        target: as the loss's.
        balance: as the loss's.
        inner: as the loss's.
        pool: as the loss's. "batch" makes one pool of all the parts. With any other, the pools are the parts' own and
            only their number is shared, for the mean.
        compensation: as the loss's.
        scale: as the loss's.
        prior: as the loss's.
        prior_strength: as the loss's.
        sample_weight: as the loss's.
        ignore_index: as the loss's.
        label_smoothing: as the loss's.
        validate: as the loss's.

    Returns:
        A `ClassMass`, without gradient.

    Example:
        >>> logits, target = torch.randn(8, 3, generator=torch.manual_seed(0)), torch.arange(8) % 3
        >>> whole = class_mass(logits[:5], target[:5]).merge(class_mass(logits[5:], target[5:]))
        >>> torch.allclose(whole.log_mass, class_mass(logits, target).log_mass)
        True
        >>> part = log_balanced_cross_entropy(logits[:5], target[:5], class_mass=whole)
        >>> torch.allclose(part, log_balanced_cross_entropy(logits, target))
        True
    """
    where = "class_mass"
    with torch.no_grad():
        sets = as_sets(
            where,
            logits,
            target,
            sample_weight=sample_weight,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            validate=validate,
        )
        return balanced_part(
            where,
            sets,
            balance=balance,
            inner=inner,
            pool=pool,
            compensation=compensation,
            scale=scale,
            prior=prior,
            prior_strength=prior_strength,
            validate=validate,
        ).mass()


def balanced_part(
    where: str,
    sets: Sets,
    *,
    balance: Balance | Tensor | Grouping,
    inner: InnerName,
    pool: str | int | Tensor | None,
    compensation: Compensation | None,
    scale: float,
    prior: Tensor | None,
    prior_strength: float,
    validate: bool,
) -> Part:
    """Return the pools of `log_balanced_cross_entropy`, of sets already checked."""
    _check_choice(where, "compensation", compensation, ("weight", "offset", None))
    check_scale(where, scale)
    pools = as_pools(where, pool, sets.shape, sets.logits.device)
    grouping = as_grouping(where, balance, sets.classes, sets.logits.device, inner)
    sets = sets if grouping.by_label else sets.in_one_piece()
    if prior is not None:
        prior = class_vector(where, "prior", prior, sets.logits, positive=True, validate=validate)
    shift = None if prior is None else log_prior(prior, prior_strength, sets.logits)
    sets = replace(sets, shift=shift, scale=scale)
    compensated = isinstance(grouping, ClassBalance) and compensation is not None
    sums = grouping.sums(sets, pools, compensated)
    return Part(
        log_sums=sums.log_sums,
        groups=sums.groups,
        at_optimum=sums.at_optimum,
        class_count=sets.class_count,
        pools=pools,
        kept=sets.kept,
        shape=sets.shape,
        layout=Layout(
            grouping.name,
            sets.classes,
            spans=spans(pool, sets.shape),
            compensated=compensated,
            inner=inner,
        ),
    )


def group_weight(
    where: str, weight: Tensor | None, balance: Balance | Tensor | Grouping, sets: Sets, *, validate: bool
) -> Tensor | None:
    """Return the factor on each group's log from that of each class, or None."""
    if weight is None:
        return None
    grouping = as_grouping(where, balance, sets.classes, sets.logits.device)
    if isinstance(grouping, BlockBalance) and grouping.count < sets.classes:
        raise ValueError(f'{where}: weight needs a log per class; use balance "class" or "pair", or sample_weight.')
    return grouping.group_weight(class_vector(where, "weight", weight, sets.logits, positive=False, validate=validate))


def spans(pool: object, shape: torch.Size) -> bool:
    """Tell whether one pool holds all sets of the call, and so of all calls of a step."""
    return (isinstance(pool, str) and pool == "batch") or (pool is None and len(shape) < 2)


def check_reduction(where: str, reduction: str) -> None:
    """Raise ValueError unless the reduction is one of `Reduction`."""
    _check_choice(where, "reduction", reduction, ("mean", "sum", "none"))


def _check_choice(where: str, name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{where}: {name} must be one of {', '.join(map(repr, choices))}; got {value!r}.")


def check_scale(where: str, scale: float) -> None:
    """Raise ValueError unless the scale is positive and finite."""
    if not 0.0 < scale < float("inf"):
        raise ValueError(f"{where}: scale must be a positive finite number; got {scale!r}.")
