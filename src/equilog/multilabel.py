"""The loss of many yes/no labels: logits -> log threats to each side -> pooled -> log -> reduced."""

import torch
from torch import Tensor

from equilog.functional import Reduction, check_reduction, check_scale, spans
from equilog.labels import Labels
from equilog.mass import ClassMass, Layout
from equilog.part import Group, Part, whole_of
from equilog.positives import IndexedLabels, read_labels
from equilog.targets import as_compute_dtype, known


def multilabel_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    pool: str | int | Tensor = "sample",
    index_target: bool | None = None,
    scale: float = 1.0,
    weight: Tensor | None = None,
    pos_weight: float | Tensor | None = None,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
    class_mass: ClassMass | None = None,
    process_group: Group = None,
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
        target: of the shape of `logits`, floating point, integer or bool, in [0, 1]; or (N, k) integers, the numbers 0
            to L - 1 of each sample's positives, each named once, filled up with -1: the same loss for so many labels
            that a target for each takes too much memory.
        pool: which labels share the two logs: "sample", those of one sample; "batch", all of the call; an int q,
            groups of q consecutive labels of the flattened target; an integer tensor of pool ids, one a label or one
            a sample. With label indices: "sample", "batch" or (N,) pool ids.
        index_target: whether the target is label indices. None tells by the shape: an integer target of the shape of
            `logits` is 0 or 1 for each label, one with another number of columns is label indices. Say True where k
            may come to be L.
        scale: factor > 0 on the logits.
        weight: factor >= 0 on a label's term inside the logs, broadcastable to `logits`, such as (L,).
        pos_weight: factor >= 0 on the log of the positives: a number, or a tensor of one.
        sample_weight: factor >= 0 on a sample's terms (N,), or on each label's, of the shape of `logits`.
        mask: bool, broadcastable to `logits`: False leaves a label out.
        reduction: "mean" over the pools that hold at least one label not left out, "sum", or "none", one value a pool.
        class_mass: the mass of the whole that this call is a part of, from `multilabel_class_mass` of every
            part. The value is then the whole's and the gradient this part's share (for pools that do not span the
            parts, both are this part's share of the mean).
        process_group: ranks that each hold a part of the whole: a torch.distributed.ProcessGroup; "world", all ranks
            where torch.distributed is initialised, else this process; None, this process alone. Costs one all-reduce
            of a few numbers a class, in which every rank must take part. The gradient is multiplied by the number
            of ranks, since data-parallel wrappers divide by it.
        validate: look at the values of the arguments too and raise on bad ones. Makes a GPU wait. On the CPU, label
            indices out of range or named twice raise anyway; on a GPU they make their sample NaN.

    Returns:
        Nats, float32 (float64 for float64 logits): a scalar, or for reduction "none" (P,), one value a pool; with
        pool=1 of the target's shape.

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape or range, named with what was expected.

    Limits:
        No labels, or all left out: 0, with gradient 0. Where t is exactly 0 or 1 the other side costs nothing, even at
        infinite logits. NaN in a logit not left out gives NaN. In a plain call on the CPU nothing of the size of the
        logits is made but their gradient, and the product of the weights where some are given for each label.

    Source:
        Su Jianlin, https://kexue.fm/archives/7359 (2020) and 9064 (2022, soft labels); Su et al., arXiv 2208.02955.
        Pools beyond one sample and the weights are this project's.

    Example:
        >>> logits = torch.tensor([[3.0, -2.0, -2.0, -2.0]])
        >>> target = torch.tensor([[1, 0, 0, 0]])
        >>> multilabel_cross_entropy(logits, target)  # log(1 + e^-3) + log(1 + 3 e^-2)
        tensor(0.3893)
        >>> multilabel_cross_entropy(logits, torch.tensor([[0, -1]]))  # label 0 alone
        tensor(0.3893)
    """
    where = "multilabel_cross_entropy"
    labels = read_labels(
        where,
        logits,
        target,
        index_target=index_target,
        weight=weight,
        sample_weight=sample_weight,
        mask=mask,
        validate=validate,
    )
    check_reduction(where, reduction)
    part = multilabel_part(where, labels, pool=pool, scale=scale)
    whole, factor = whole_of(where, part, class_mass, process_group, validate=validate)
    return part.loss(
        whole=whole, factor=factor, group_weight=side_weight(where, pos_weight, labels), reduction=reduction
    )


def multilabel_class_mass(
    logits: Tensor,
    target: Tensor,
    *,
    pool: str | int | Tensor = "batch",
    index_target: bool | None = None,
    scale: float = 1.0,
    weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    validate: bool = False,
) -> ClassMass:
    """What a call of `multilabel_cross_entropy` adds to a loss over several micro-batches, ranks or steps.

    As `class_mass`, of two groups: the threats to the positives and those to the negatives.

    Args:
        logits: as the loss's.
        target: as the loss's.
        pool: as the loss's; "batch" makes one pool of all the parts.
        index_target: as the loss's.
        scale: as the loss's.
        weight: as the loss's.
        sample_weight: as the loss's.
        mask: as the loss's.
        validate: as the loss's.

    Returns:
        A `ClassMass`, without gradient.

    Example:
        >>> multilabel_class_mass(torch.zeros(2, 3), torch.tensor([[1, 0, 0], [0, 0, 0]])).log_mass.exp()
        tensor([2., 6.])
    """
    where = "multilabel_class_mass"
    with torch.no_grad():
        labels = read_labels(
            where,
            logits,
            target,
            index_target=index_target,
            weight=weight,
            sample_weight=sample_weight,
            mask=mask,
            validate=validate,
        )
        return multilabel_part(where, labels, pool=pool, scale=scale).mass()


def multilabel_part(
    where: str, labels: Labels | IndexedLabels, *, pool: str | int | Tensor | None, scale: float
) -> Part:
    """Return the pools of `multilabel_cross_entropy`, of labels already checked."""
    check_scale(where, scale)
    pools = labels.pools(where, pool)
    return Part(
        log_sums=labels.log_sums(pools, scale),
        at_optimum=None,
        class_count=labels.side_count,
        pools=pools,
        kept=labels.kept,
        shape=labels.shape,
        layout=Layout("multilabel", 2, spans=spans(pool, labels.shape)),
        each=labels.each,
    )


def side_weight(where: str, pos_weight: float | Tensor | None, labels: Labels | IndexedLabels) -> Tensor | None:
    """Return the factors on the log of the positives and on that of the negatives (2,), or None."""
    if pos_weight is None:
        return None
    return as_side_weight(where, pos_weight, as_compute_dtype(labels.given_logits[:0]))


def as_side_weight(where: str, pos_weight: float | Tensor | None, like: Tensor) -> Tensor | None:
    """Return the same on the device and in the dtype of `like`."""
    if pos_weight is None:
        return None
    positives = torch.as_tensor(pos_weight, dtype=like.dtype, device=like.device)
    if positives.numel() != 1:
        raise ValueError(
            f"{where}: pos_weight must be one number, since the positives of a pool share one log; got "
            f"{tuple(positives.shape)}. Use weight for a factor on each label."
        )
    if known((positives >= 0).all()) is False:
        raise ValueError(f"{where}: pos_weight must be 0 or more; got {positives.item()}.")
    return torch.stack((positives.reshape(()), torch.ones_like(positives.reshape(()))))
