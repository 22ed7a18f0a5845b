"""The loss of many yes/no labels: logits -> positive and negative terms -> pooled -> log -> reduced."""

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from equilog.calibration import Calibration
from equilog.calibration.correction import Correction
from equilog.calibration.pools import draw_pools
from equilog.calibration.posterior import label_correction, log_mean_share
from equilog.core.grouping import LogTerms
from equilog.core.inner import INNERS, inner_of
from equilog.core.label_sums import (
    count_by_label,
    count_of_labels,
    label_logs,
    log_odds_of_labels,
    pools_of_labels,
    sums_of_labels,
    targets_of_labels,
)
from equilog.core.pool_state import ClassMass, Layout, ProcessGroup
from equilog.core.pool_sums import PoolSums, pooled_loss
from equilog.core.pools import spans_parts
from equilog.core.units import samples_of
from equilog.inputs.labels import IndexedLabels, Labels, label_count, read_labels
from equilog.inputs.options import InnerName, LabelOptions, Pool, Reduction, options_of_call
from equilog.inputs.values import class_vector, known
from equilog.losses.base import PooledCriterion, options_of_module, own_buffer
from equilog.ops import as_compute_dtype, log_one_plus


def multilabel_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    inner: InnerName = "odds",
    pool: Pool = "sample",
    index_target: bool | None = None,
    scale: float = 1.0,
    prior: Any = None,
    prior_strength: float = 1.0,
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

    With targets $t \in [0, 1]$, $z = \text{scale} (x + \text{prior\_strength} \log \frac{q}{1 - q})$, q the `prior` of
    the label, and $v$ the product of `weight` and `sample_weight`, one pool of labels costs

    $$ \text{pos\_weight} \log\Bigl(1 + \sum v\, t\, e^{-z}\Bigr) + \log\Bigl(1 + \sum v\, (1 - t)\, e^{z}\Bigr). $$

    It is `log_balanced_cross_entropy` with every label a choice between two classes, yes of score z and no of score 0:
    few positives weigh like the many negatives. Its only minimum is at $t = \sigma(2 z)$, and a pool of one label
    costs exactly its binary cross-entropy when t is 0 or 1. A label is predicted where its logit is positive. The odds
    $e^{-z}$ and $e^z$ are the inner term; `inner` names gentler ones.

    Args:
        logits: (N, L) or any shape that starts with the samples, or (L,) for one sample; floating point. float16 and
            bfloat16 are computed in float32.
        target: of the shape of `logits`, floating point, integer or bool, in [0, 1]; or (N, k) integers, the numbers 0
            to L - 1 of each sample's positives, each named once, filled up with -1: the same loss for so many labels
            that a target for each takes too much memory.
        inner: what a label adds inside the logs, as in `log_balanced_cross_entropy` with two classes. "odds"; "power",
            t^t (p^-t - 1) and the same of 1 - t, with p = sigmoid(z): the odds where t is 0 or 1; "nll", t softplus(-z)
            and (1 - t) softplus(z); "divergence", t log(t / p) - t + p and the same of 1 - t and 1 - p. All but "odds"
            answer sigmoid(z) = t and are not convex for soft targets ("nll" and "divergence" for no targets). Of soft
            targets "nll" and "power" have a factor on each log, (1 + R) / mean(1 + R), R the term summed at z =
            logit(t), that of the positives and that of the negatives.
        pool: which labels share the two logs: "sample", those of one sample; "label", those of one number in all
            samples of the call, one pool for each index along dimension 1; "batch", all of the call; an int q, groups
            of q consecutive labels of the flattened target; an integer tensor of pool ids, one a label or one a
            sample. With label indices not an int, and ids (N,) alone.
        index_target: whether the target is label indices. None tells by the shape: an integer target of the shape of
            `logits` is 0 or 1 for each label, one with another number of columns is label indices. Say True where k
            may come to be L.
        scale: factor > 0 on the logits.
        prior: (L,) the frequency of each label, in (0, 1), or None: a tensor, an array, a list, or a dict or pandas
            series by label index. Its log odds are added to the label's logits (along dimension 1) in the loss, so that
            the bare logits decide as if the label were as often there as not.
        prior_strength: factor on the log odds of the prior.
        weight: factor >= 0 on a label's term inside the logs, broadcastable to `logits`, such as (L,).
        pos_weight: factor >= 0 on the log of the positives: a number, or a tensor of one.
        sample_weight: factor >= 0 on a sample's terms (N,), or on each label's, of the shape of `logits`.
        mask: bool, broadcastable to `logits`: False leaves a label out.
        reduction: "sum", the formula above added up over the pools; "none", one value a pool; or "mean", the sum
            divided by the summed units of the pools, where the unit of a pool is the larger of the samples that it
            spans (by `sample_weight` where that is (N,)) and the logs that it holds something in, 0 to 2. So the mean
            has the scale of torch's binary cross-entropy, which it is for pool=1: the gradients of all logits add up
            to at most scale, times pos_weight where that is above 1. Of inner "nll" and "divergence" the samples alone
            count, where each has one label in a pool.
        class_mass: the mass of the whole that this call is a part of, from `equilog.class_mass` of every part with the
            same options; as in `log_balanced_cross_entropy`. Pools "batch" and "label" span the parts.
        process_group: ranks that each hold a part of the whole: a torch.distributed.ProcessGroup; "world", all ranks
            where torch.distributed is initialised, else this process; None, this process alone. Costs one all-reduce
            of a few numbers (for pool "label", a few a label), in which every rank must take part. The gradient is
            multiplied by the number of ranks, since data-parallel wrappers divide by it.
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
        mean fixed; those with respect to soft targets the factors on the logs. In a plain call on the CPU nothing of
        the size of the logits is made but their gradient, and the product of the weights where some are given for each
        label. A prior makes one copy of the logits. Pool "label" makes copies of logits and targets, label by label.
        An inner term other than "odds" is made by torch's operations, in some ten tables of two numbers a label. With
        both of these label indices become a table of yes and no, a byte a label.

    Source:
        Su Jianlin, https://kexue.fm/archives/7359 (2020) and 9064 (2022, soft labels); Su et al., arXiv 2208.02955.
        Pools beyond one sample, the weights, the inner terms and the prior are this project's; the prior as the log
        odds that logit adjustment (Menon et al. 2020, arXiv 2007.07314) adds, of a choice between two classes.

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
        inner=inner,
        pool=pool,
        index_target=index_target,
        scale=scale,
        prior_strength=prior_strength,
        reduction=reduction,
        validate=validate,
    )
    labels = read_labels(options, logits, target, weight=weight, sample_weight=sample_weight, mask=mask)
    shift = None if prior is None else log_odds_of_prior(options, prior, label_count(labels.shape), labels.logits)
    part = label_sums(options, labels, shift, pos_weight)
    return pooled_loss(options, part, class_mass, process_group)


def label_sums(
    options: LabelOptions,
    read: Labels | IndexedLabels,
    shift: Tensor | None,
    pos_weight: float | Tensor | None,
    *,
    counts: bool = False,
) -> PoolSums:
    """Return the pools of a call, from its labels, what is added to their logits (L,), and the positives' weight.

    counts: whether somebody counts each label by itself.
    """
    inner = inner_of(options)
    labels = read if shift is None else read.shifted(shift)
    by_label = isinstance(options.pool, str) and options.pool == "label"
    if by_label:
        labels = labels.by_value().by_label()
    elif inner.name != "odds":
        labels = labels.by_value()
    pools = pools_of_labels(options, labels)
    factors = weight_of_logs(options.where, pos_weight, as_compute_dtype(labels.logits[:0]))
    return PoolSums(
        make_sums=lambda: sums_of_labels(labels, pools, options.scale, inner),
        compensation="weight",
        samples=samples_of(labels, pools, gentle=inner.gentle),
        class_count=lambda: count_by_label(read) if counts else count_of_labels(read),
        shape=read.shape,
        layout=Layout(
            "multilabel",
            2,
            spans=by_label or spans_parts(options.pool, read.shape),
            pools=pools.count if by_label else 1,
            labels=label_count(read.shape) if counts else 0,
            compensated=inner.name != "odds" and not inner.separate,
            inner=options.inner,
        ),
        group_weight=factors,
        labels_per_set=labels.labels_per_set,
        at_once=label_logs(labels, pools, options.scale, factors) if inner.name == "odds" else None,
    )


def log_odds_of_prior(options: LabelOptions, prior: Any, labels: int, like: Tensor) -> Tensor:
    """Return prior_strength * log(q / (1 - q)) (L,), in the type that logits like these are computed in."""
    frequencies = frequencies_of_labels(options.where, prior, labels, like, validate=options.validate)
    return options.prior_strength * torch.logit(frequencies)


def frequencies_of_labels(where: str, prior: Any, labels: int, like: Tensor, *, validate: bool) -> Tensor:
    """Return the frequency of each label (L,), on the device and in the type to compute in of logits like these."""
    of_labels = like.new_empty(0, labels)
    vector = class_vector(where, "prior", prior, of_labels, positive=True, validate=validate, unit="label")
    if known((vector < 1).all(), validate) is False:
        raise ValueError(
            f"{where}: prior must be the frequency of each label, less than 1; got {vector.tolist()}. Divide counts by "
            f"the number of samples."
        )
    return vector


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

    Replaces `torch.nn.BCEWithLogitsLoss`. A label is predicted where its logit is positive. With `prior="auto"` the
    loss counts the positives and negatives of each label in its training steps and adds the log odds of the label to
    its logit, so that the bare logit decides as if the label were as often there as not. The counts are in the
    `state_dict`.

    Args:
        num_labels: L. What is remembered from step to step has its shape from it: needed for `prior="auto"` and pool
            "label-stream", else of no effect.
        prior: (L,) frequency of each label; "auto", that of earlier training steps (with one more positive and one more
            negative), by the counts in the buffer `class_count`; or None.
        pool: as in the function; or, by a moving class mass, the pool that goes on over this and earlier training
            steps: "stream" of all labels, as "batch", "label-stream" of each label by itself, as "label".
        weight: as in the function.
        pos_weight: as in the function.
        momentum: for a stream, in [0, 1): share of the moving class mass that each step keeps.
        process_group: as in the function. Running prior and stream are then those of all ranks. In evaluation mode each
            call is of its process alone.
        **options: inner, index_target, scale, prior_strength, reduction and validate, as in the function.

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
    class_count: Tensor | None
    """(L, 2) float64 count of the positives and negatives of each label in training steps, where prior is "auto"."""
    _streams: ClassVar[dict[str, str]] = {"stream": "batch", "label-stream": "label"}
    _unit: ClassVar[tuple[str, str]] = ("label", "labels")

    def __init__(
        self,
        num_labels: int | None = None,
        *,
        prior: Any | Literal["auto"] | None = None,
        pool: Pool = "sample",
        weight: Any = None,
        pos_weight: float | Tensor | None = None,
        momentum: float = 0.9,
        process_group: ProcessGroup = None,
        **options: Any,
    ) -> None:
        name = type(self).__name__
        checked = options_of_module(LabelOptions, name, options | {"pool": None if isinstance(pool, Tensor) else pool})
        super().__init__(checked, size=num_labels, momentum=momentum, process_group=process_group)
        self.num_labels = num_labels
        by_label = checked.pool == "label-stream"
        inner_of(checked)
        self._register_prior(prior, num_labels, 2, streams=by_label)
        factors = weight_of_logs(name, pos_weight, torch.empty(0))
        self.register_buffer("weight", own_buffer(name, "weight", weight))
        self.register_buffer("pos_weight", None if factors is None else factors[0].clone())
        self.register_buffer("pool_ids", pool if isinstance(pool, Tensor) else None)
        pools, labels = (num_labels or 0) if by_label else 1, 0 if self.class_count is None else len(self.class_count)
        self._register_stream(2, Layout("multilabel", 2, spans=True, pools=pools, labels=labels))

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
        options: LabelOptions = self._call_options()
        labels = read_labels(options, logits, target, weight=self.weight, sample_weight=sample_weight, mask=mask)

        def sums(shift: Tensor | None) -> PoolSums:
            return label_sums(options, labels, shift, self.pos_weight, counts=self.class_count is not None)

        return self._loss_of_call(options, logits, target, class_mass, sums)

    @torch.no_grad()
    def class_mass(
        self, logits: Tensor, target: Tensor, *, sample_weight: Tensor | None = None, mask: Tensor | None = None
    ) -> ClassMass:
        """Return what these labels add to a step of several parts; nothing is remembered."""
        options: LabelOptions = self._call_options()
        labels = read_labels(options, logits, target, weight=self.weight, sample_weight=sample_weight, mask=mask)
        shift, counts = self._shift(logits), self.class_count is not None
        return label_sums(options, labels, shift, self.pos_weight, counts=counts).mass()

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
        options: LabelOptions = self._call_options()
        read = read_labels(options, logits, target, weight=self.weight, sample_weight=sample_weight, mask=mask)
        shift, inner = self._shift(logits), inner_of(options)
        labels = read.by_value() if shift is None else read.by_value().shifted(shift)
        # Pools of one label each have masses of their own: as many columns, of which one sample's labels are a row.
        by_label = isinstance(options.pool, str) and options.pool == "label"
        columns = label_count(read.shape) if by_label else 1
        labels = labels.by_label() if by_label else labels
        pools = pools_of_labels(options, labels)
        probs, log_weight = targets_of_labels(labels)
        kept = log_weight > -torch.inf
        size = self._calibrated_pool_size(pool_size, int(kept.sum()), len(kept), pools)
        mostly_soft = 2 * int((kept & (probs > 0).all(1)).sum()) > int(kept.sum())
        if inner.separate or mostly_soft:
            # No class mass moves the optimum, and of compensated soft targets no pool does.
            return self._calibration(inner.calibration_factor, shift, None, balanced_by_prior=True)

        def in_columns(values: Tensor) -> Tensor:
            return values.reshape(columns, -1, 2).transpose(0, 1).reshape(-1, 2 * columns)

        log_odds = log_odds_of_labels(labels, options.scale)
        terms = in_columns(inner.log_of_soft(log_odds, probs) + log_weight[:, None])
        log_others = draw_pools(LogTerms(terms, None, 1), terms.new_zeros(len(terms)), size - 1)
        # The share of binary cross-entropy's gradient that a label keeps.
        log_prob = in_columns(-log_one_plus(log_odds))
        share = log_mean_share(inner.log_share, log_prob, log_others).exp()
        factor = inner.index_factor - float((share * in_columns(probs * kept[:, None])).sum() / kept.sum().clamp(min=1))
        return self._calibration(factor, shift, label_correction(inner, log_others), balanced_by_prior=True)

    def _correction_alone(self, shift: Tensor | None) -> Correction | None:  # noqa: ARG002 - one for all labels
        return label_correction(INNERS[self.options.inner], torch.full((1, 2), -torch.inf))

    def _unweighted(self) -> Tensor | None:
        # A side whose log counts twice is answered as if it were twice as frequent.
        weight = None if self.pos_weight is None else float(self.pos_weight)
        return None if weight in (None, 0.0, 1.0) else torch.tensor([-math.log(weight)])

    def current_prior(self) -> Tensor | None:
        """Return the prior that the loss is told (L,), the frequency of each label, or None."""
        if self.class_count is None:
            return self.prior
        count = self.class_count + 1  # of each side, so that a label that has not come yet is rare and not impossible
        return count[:, 0] / count.sum(1)

    def _own_prior(self, prior: Any, size: int | None) -> Tensor | None:
        name = type(self).__name__
        buffer = own_buffer(name, "prior", prior)
        if buffer is not None:
            like = torch.empty(0, device=buffer.device)
            frequencies_of_labels(name, buffer, buffer.numel() if size is None else size, like, validate=True)
        return buffer

    def _log_prior(self, prior: Tensor, logits: Tensor) -> Tensor:
        return log_odds_of_prior(self.options, prior, label_count(logits.shape), logits)

    def _log_of_prior(self, prior: Tensor) -> Tensor:
        return torch.logit(prior)

    def _running_log_prior(self, log_counts: Tensor) -> Tensor:
        return log_counts[:, 0] - log_counts[:, 1]
