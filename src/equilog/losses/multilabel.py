"""The loss of many yes/no labels: logits -> positive and negative terms -> pooled -> log -> reduced."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from equilog.calibration import Calibration
from equilog.calibration.pooled import PooledCalibration
from equilog.calibration.pools import draw_pools
from equilog.calibration.posterior import label_correction
from equilog.core.grouping import GroupSums, LogTerms
from equilog.core.label_sums import count_of_labels, label_logs, pooled_sums_of_labels, pools_of_labels
from equilog.core.pool_state import ClassMass, Layout, ProcessGroup
from equilog.core.pool_sums import PoolSums, pooled_loss
from equilog.core.pools import spans_parts
from equilog.core.units import samples_of
from equilog.inputs.labels import IndexedLabels, Labels, read_labels
from equilog.inputs.options import LabelOptions, Pool, Reduction, options_of_call
from equilog.inputs.values import known
from equilog.losses.base import PooledCriterion, options_of_module, own_buffer
from equilog.ops import as_compute_dtype, label_log_terms, log_one_plus


def multilabel_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    pool: Pool = "sample",
    index_target: bool | None = None,
    scale: float = 1.0,
    weight: Tensor | None = None,
    pos_weight: float | Tensor | None = None,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
    class_mass: ClassMass | None = None,
    process_group: ProcessGroup = None,
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
        reduction: "sum", the formula above added up over the pools; "none", one value a pool; or "mean", the sum
            divided by the summed units of the pools, where the unit of a pool is the larger of the samples that it
            spans (by `sample_weight` where that is (N,)) and the logs that it holds something in, 0 to 2. So the mean
            has the scale of torch's binary cross-entropy, which it is for pool=1: the gradients of all logits add up
            to at most scale, times pos_weight where that is above 1.
        class_mass: the mass of the whole that this call is a part of, from `equilog.class_mass` of every part with the
            same options; as in `log_balanced_cross_entropy`.
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
        infinite logits. NaN in a logit not left out gives NaN. Gradients with respect to weights hold the units of the
        mean fixed. In a plain call on the CPU nothing of the size of the
        logits is made but their gradient, and the product of the weights where some are given for each label.

    Source:
        Su Jianlin, https://kexue.fm/archives/7359 (2020) and 9064 (2022, soft labels); Su et al., arXiv 2208.02955.
        Pools beyond one sample and the weights are this project's.

    Example:
        >>> logits = torch.tensor([[3.0, -2.0, -2.0, -2.0]])
        >>> target = torch.tensor([[1, 0, 0, 0]])
        >>> multilabel_cross_entropy(logits, target)  # (log(1 + e^-3) + log(1 + 3 e^-2)) / 2
        tensor(0.1947)
        >>> multilabel_cross_entropy(logits, torch.tensor([[0, -1]]))  # label 0 alone
        tensor(0.1947)
    """
    options = options_of_call(
        LabelOptions,
        where="multilabel_cross_entropy",
        pool=pool,
        index_target=index_target,
        scale=scale,
        reduction=reduction,
        validate=validate,
    )
    labels = read_labels(options, logits, target, weight=weight, sample_weight=sample_weight, mask=mask)
    part = label_sums(options, labels, pos_weight)
    return pooled_loss(options, part, class_mass, process_group)


def label_sums(options: LabelOptions, labels: Labels | IndexedLabels, pos_weight: float | Tensor | None) -> PoolSums:
    """Return the pools of a call, from its labels and the weight of the positives' log."""
    pools = pools_of_labels(options, labels)
    factors = weight_of_logs(options.where, pos_weight, as_compute_dtype(labels.logits[:0]))
    return PoolSums(
        make_sums=lambda: GroupSums(pooled_sums_of_labels(labels, pools, options.scale)),
        samples=samples_of(labels, pools),
        class_count=lambda: count_of_labels(labels),
        shape=labels.shape,
        layout=Layout("multilabel", 2, spans=spans_parts(options.pool, labels.shape)),
        group_weight=factors,
        labels_per_set=labels.labels_per_set,
        at_once=label_logs(labels, pools, options.scale, factors),
    )


def weight_of_logs(where: str, pos_weight: float | Tensor | None, like: Tensor) -> Tensor | None:
    """Return the factors on the log of the positives and on that of the negatives (2,), of the type of `like`."""
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


class MultiLabelCrossEntropyLoss(PooledCriterion):
    r"""Multi-label loss that weighs few positives like many negatives: `equilog.multilabel_cross_entropy` as a module.

    Replaces `torch.nn.BCEWithLogitsLoss`. A label is predicted where its logit is positive.

    Args:
        pool: as in the function; or "stream", the labels of this and earlier training steps, by a moving class mass.
        weight: as in the function.
        pos_weight: as in the function.
        momentum: for pool "stream", in [0, 1): share of the moving class mass that each step keeps.
        process_group: as in the function. In evaluation mode each call is of its process alone.
        **options: index_target, scale, reduction and validate, as in the function.

    Shape:
        forward: logits and target (N, L), or label indices (N, k) as the function's; sample_weight (N,) or (N, L),
        mask broadcastable to (N, L), class_mass as the function's -> scalar, or as the function says for reduction
        "none".

    Raises:
        TypeError, ValueError: an option of the wrong type or range, or one that there is not.

    Example:
        >>> criterion = MultiLabelCrossEntropyLoss()
        >>> logits = torch.tensor([[3.0, -2.0, -2.0, -2.0]])
        >>> criterion(logits, torch.tensor([[1, 0, 0, 0]]))
        tensor(0.1947)
        >>> criterion.predict(logits)
        tensor([[1, 0, 0, 0]])
    """

    multilabel = True
    options: LabelOptions
    weight: Tensor | None
    """The factor on each label's terms, where it was given."""
    pos_weight: Tensor | None
    """0-d, the factor on the log of the positives, where it was given."""
    pool_ids: Tensor | None
    """The ids of the pools, where they were given."""

    def __init__(
        self,
        *,
        pool: Pool = "sample",
        weight: Any = None,
        pos_weight: float | Tensor | None = None,
        momentum: float = 0.9,
        process_group: ProcessGroup = None,
        **options: Any,
    ) -> None:
        name = type(self).__name__
        checked = options_of_module(LabelOptions, name, options | {"pool": None if isinstance(pool, Tensor) else pool})
        super().__init__(checked, num_classes=2, momentum=momentum, process_group=process_group)
        factors = weight_of_logs(name, pos_weight, torch.empty(0))
        self.register_buffer("weight", own_buffer(name, "weight", weight))
        self.register_buffer("pos_weight", None if factors is None else factors[0].clone())
        self.register_buffer("pool_ids", pool if isinstance(pool, Tensor) else None)
        self._register_stream(2, 2)

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        *,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        class_mass: ClassMass | None = None,
    ) -> Tensor:
        """Return the loss in nats, and remember a training step; a part that is told its whole is not a step."""
        options = self._call_options()
        labels = read_labels(options, logits, target, weight=self.weight, sample_weight=sample_weight, mask=mask)

        def sums(_: Tensor | None) -> PoolSums:
            return label_sums(options, labels, self.pos_weight)

        return self._loss_of_call(options, labels.logits, target, class_mass, sums)

    @torch.no_grad()
    def class_mass(
        self, logits: Tensor, target: Tensor, *, sample_weight: Tensor | None = None, mask: Tensor | None = None
    ) -> ClassMass:
        """Return what these labels add to a step of several parts; nothing is remembered."""
        options = self._call_options()
        labels = read_labels(options, logits, target, weight=self.weight, sample_weight=sample_weight, mask=mask)
        return label_sums(options, labels, self.pos_weight).mass()

    @torch.no_grad()
    def calibrate(
        self,
        logits: Tensor,
        target: Tensor,
        *,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        pool_size: float | None = None,
    ) -> Calibration:
        """Return what the logits of the trained model say, told by those of the training rows: each label's odds.

        Args:
            logits: as in training; a sample of the training rows is enough.
            target: their targets.
            sample_weight: as in training.
            mask: as in training: False leaves a label out.
            pool_size: number of labels that shared a log in training; as in `LogBalancedCrossEntropyLoss.calibrate`.
        """
        options = self._call_options()
        read = read_labels(options, logits, target, weight=self.weight, sample_weight=sample_weight, mask=mask)
        labels = read.by_value()
        pools = pools_of_labels(options, labels)
        x, values, weight = labels.visible()
        kept = weight != 0
        size = self._calibrated_pool_size(pool_size, int(kept.sum()), len(weight), pools)
        terms = LogTerms(torch.stack(label_log_terms(x, values, options.scale), 1), None, 1)
        log_others = draw_pools(terms, weight.log(), size - 1)
        # The share of binary cross-entropy's gradient that a label keeps, (1 + e) / (1 + O + e), e its own odds.
        x = options.scale * x
        wrong = torch.stack((-x, x), 1)
        log_mass = log_one_plus(log_others)[:, None]
        share = (F.softplus(wrong) - torch.logaddexp(log_mass, wrong)).exp().mean(0)
        mean_share = share[:, 0] * values + share[:, 1] * (1.0 - values)
        factor = 2.0 - float((mean_share * kept).sum() / kept.sum().clamp(min=1))
        return self._calibration(factor, log_others)

    def uncalibrated(self) -> Calibration:
        """Return what logits say as far as the loss alone knows: the odds in pools of one."""
        pool = self.options.pool
        alone = isinstance(pool, int) and pool == 1
        return self._calibration(1.0 if alone else 2.0, torch.full((1, 2), -torch.inf) if alone else None)

    def _calibration(self, factor: float, log_others: Tensor | None) -> Calibration:
        scale = self.options.scale
        alone = log_others is not None and bool((log_others == -torch.inf).all())
        positives = 1.0 if self.pos_weight is None else float(self.pos_weight)
        return PooledCalibration(
            factor=1.0 if alone else factor,
            scale=scale,
            correction=None if log_others is None or alone else label_correction(log_others),
            offset=torch.tensor([-math.log(positives)]) if positives not in (0.0, 1.0) else None,
            knows_posterior=log_others is not None,
            multilabel=True,
        )

    def _call_options(self) -> LabelOptions:
        """The options of one call by itself: a stream pools each call whole."""
        if self.pool_ids is not None:
            return replace(self.options, pool=self.pool_ids)
        return replace(self.options, pool="batch") if self.streams else self.options
