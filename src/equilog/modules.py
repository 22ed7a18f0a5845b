"""One module per loss: its hyperparameters, what it has seen, and what its scores mean."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from equilog.criterion import Criterion, Kind, check_kind
from equilog.functional import (
    Balance,
    Compensation,
    Reduction,
    balanced_part,
    check_reduction,
    check_scale,
    group_weight,
)
from equilog.grouping import ClassBalance, Grouping, LogThreats, as_grouping
from equilog.inference import (
    classes_last,
    classes_second,
    draw_pools,
    label_posterior_scores,
    posterior_scores,
)
from equilog.inner import INNERS, InnerName
from equilog.labels import Labels
from equilog.logspace import log_one_plus
from equilog.mass import SETS, ClassMass, precise
from equilog.multilabel import multilabel_part, side_weight
from equilog.part import Group, Part, as_group, whole_of
from equilog.pooling import Pools, as_pools
from equilog.positives import IndexedLabels, read_labels
from equilog.prior import log_prior, with_prior
from equilog.targets import Sets, as_compute_dtype, as_sets


class PooledCriterion(Criterion):
    """What the two modules share: the step a call is part of, and buffers that remember earlier steps.

    The buffers are shaped by the first data, whatever `state_dict` they are loaded from, and keep their precision
    when the module is cast to a smaller one.
    """

    pool_size: Tensor
    """Mean number of kept sets in a pool that has any, in the last training step; 0 before the first."""
    stream: Tensor
    """The moving class mass of pool "stream", as numbers in a row; (0,) before the first step."""
    log_others: Tensor
    """(K, G) draws of the log of what a pool's other sets add to each group's odds, from `observe`; (0,) before."""
    link: Tensor
    """What the scaled scores are multiplied with for balanced probabilities; nan before `observe`."""

    def __init__(
        self,
        *,
        pool: str | int | Tensor | None,
        scale: float,
        momentum: float,
        reduction: Reduction,
        process_group: Group,
        validate: bool,
    ) -> None:
        super().__init__()
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"{type(self).__name__}: momentum must lie in [0, 1); got {momentum}.")
        check_scale(type(self).__name__, scale)
        check_reduction(type(self).__name__, reduction)
        self.pool = pool
        self.scale = scale
        self.momentum = momentum
        self.reduction = reduction
        self.process_group = process_group
        self.validate = validate
        self.register_buffer("pool_size", torch.zeros(()))
        self.register_buffer("stream", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("log_others", torch.zeros(0))
        self.register_buffer("link", torch.tensor(torch.nan))

    @property
    def effective_sets(self) -> float:
        """Number of sets that share a log: the stream's, n / (1 - momentum) in the long run, or a pool's."""
        return float(self.stream[SETS]) if self.stream.numel() else float(self.pool_size)

    def class_mass(self, logits: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> ClassMass:
        """Return what these sets add to a step of several parts; nothing is remembered."""
        raise NotImplementedError

    @torch.no_grad()
    def note(self, step: ClassMass) -> None:
        """Take the class mass of a whole step into what is remembered: pool size, running prior and stream.

        A training call does so by itself, unless it was told by `class_mass` that it is one part of a step. Then this
        is to be called once, when the step is done.
        """
        self.pool_size.copy_(step.sets / step.pools.clamp(min=1))
        if self._streams:
            self.stream = self._within_stream(step).packed()

    def whole(self, part: ClassMass) -> ClassMass:
        """Return the mass of the whole step from that of all this process's sets: merged over `process_group`."""
        group = as_group(type(self).__name__, self._step_group)
        return part if group is None else part.all_reduce(group, validate=self.validate)

    @property
    def _step_group(self) -> Group:
        return self.process_group if self.training else None

    def _call_pool(self) -> str | int | Tensor | None:
        """The pool of one call by itself: a stream pools each call whole."""
        return "batch" if self._streams else self.pool

    @property
    def _streams(self) -> bool:
        return isinstance(self.pool, str) and self.pool == "stream"

    def _step_loss(
        self, part: Part, class_mass: ClassMass | None, group_weight: Tensor | None, compensation: str | None = None
    ) -> Tensor:
        """Return the loss of the part within its step, and remember the step where it is a training step of its own."""
        where = type(self).__name__
        whole, factor = whole_of(where, part, class_mass, self._step_group, validate=self.validate)
        step = whole
        if step is None and (self._streams or self.training):
            step = part.mass()
        weighted: Tensor | float = factor
        if self._streams and step is not None:
            # The stream stands for a batch of all its sets, of which this step is a sample: its gradient is scaled up.
            whole = self._within_stream(step)
            weighted = factor * (whole.sets / step.sets.clamp(min=1))
        loss = part.loss(
            whole=whole,
            factor=weighted,
            compensation=compensation,
            group_weight=group_weight,
            reduction=self.reduction,
        )
        if self.training and class_mass is None and step is not None:
            self.note(step)
        return loss

    def _within_stream(self, step: ClassMass) -> ClassMass:
        if self.stream.numel() == 0:
            return step
        if len(self.stream) != len(step.packed()):
            raise ValueError(
                f"{type(self).__name__}: the stream was started with another number of classes than this call's "
                f"{step.layout.classes}. Use one module per set of classes."
            )
        return step.unpacked(self.stream).decayed(self.momentum).merge(step)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in before.items():
            new = self._buffers[name]
            if old is not None and new is not None and new.dtype != old.dtype:
                self._buffers[name] = old.to(new.device)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, buffer in self._buffers.items():
            saved = state_dict.get(prefix + name)
            if buffer is not None and saved is not None and buffer.shape in ((0,), saved.shape):
                self._buffers[name] = buffer.new_zeros(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _observed_pool_size(self, pools: Pools, kept: Tensor) -> int:
        """Sets in a pool, with as many ignored as among the observed, of which `draw_pools` draws."""
        if isinstance(self.pool, int):
            return self.pool
        trained = self.effective_sets
        size = trained if trained > 0 else float(kept.sum()) / max(int(pools.nonempty(kept)), 1)
        return max(1, round(size * len(kept) / max(int(kept.sum()), 1)))

    def _balanced_link(self) -> float:
        if not self.link.isnan():
            return float(self.link)
        return 1.0 if isinstance(self.pool, int) and self.pool == 1 else 2.0


class LogBalancedCrossEntropyLoss(PooledCriterion):
    r"""Cross-entropy that balances the classes by itself: `equilog.log_balanced_cross_entropy` as a module.

    Replaces `torch.nn.CrossEntropyLoss`. With `prior="auto"` the loss counts the targets it sees in training mode and
    adds the log of their frequency to the logits, so that the bare logits decide as if all classes were equally
    frequent and nobody has to supply class counts.

    Args:
        balance: as the function's.
        inner: as the function's.
        pool: as the function's; or "stream", the sets of this and earlier training calls, by a moving class mass: the
            loss is that of a batch of `effective_sets` sets, of which the call is a sample.
        compensation: as the function's.
        scale: as the function's.
        prior: (C,) class frequencies or counts; "auto", those of the targets of earlier training steps (and one of
            each class), in the buffer `class_count`; or None.
        prior_strength: as the function's.
        weight: as the function's.
        ignore_index: as the function's.
        label_smoothing: as the function's.
        momentum: for pool "stream", in [0, 1): share of the moving class mass that each step keeps.
        reduction: as the function's.
        process_group: as the function's. Running prior and stream are then those of all ranks. In evaluation mode
            each call is of its process alone, since ranks need not evaluate in step.
        validate: as the function's.

    Shape:
        forward: logits (N, C, d1, ...), target (N, d1, ...) or (N, C, d1, ...), sample_weight (N, d1, ...) or (N,),
        class_mass as the function's -> scalar, or as the function says for reduction "none".

    Example:
        >>> criterion = LogBalancedCrossEntropyLoss(pool=16, prior="auto")
        >>> logits = torch.randn(32, 10, requires_grad=True, generator=torch.manual_seed(0))
        >>> criterion(logits, torch.arange(32) % 10).backward()
        >>> criterion.probabilities(logits).shape, criterion.predict(logits).shape
        (torch.Size([32, 10]), torch.Size([32]))
    """

    prior: Tensor | None
    """(C,) the given class frequencies, where they were given."""
    weight: Tensor | None
    """(C,) the factor on each class's log, where it was given."""
    class_count: Tensor | None
    """(C,) float64 count of the targets seen, each class from 1, where prior is "auto"; (0,) before the first."""

    def __init__(
        self,
        *,
        balance: Balance | Tensor = "class",
        inner: InnerName = "odds",
        pool: str | int | Tensor | None = None,
        compensation: Compensation | None = "weight",
        scale: float = 1.0,
        prior: Tensor | Literal["auto"] | None = None,
        prior_strength: float = 1.0,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        momentum: float = 0.9,
        reduction: Reduction = "mean",
        process_group: Group = None,
        validate: bool = False,
    ) -> None:
        super().__init__(
            pool=pool,
            scale=scale,
            momentum=momentum,
            reduction=reduction,
            process_group=process_group,
            validate=validate,
        )
        if isinstance(prior, str) and prior != "auto":
            raise ValueError(f'{type(self).__name__}: prior must be a (C,) tensor, "auto" or None; got {prior!r}.')
        # A tensor of blocks is read once, here, so that nothing waits for its values in training.
        self.balance: Balance | Grouping = (
            as_grouping(type(self).__name__, balance, len(balance), balance.device, inner)
            if isinstance(balance, Tensor)
            else balance
        )
        self.inner = inner
        self.compensation = compensation
        self.prior_strength = prior_strength
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.register_buffer("prior", prior if isinstance(prior, Tensor) else None)
        self.register_buffer("class_count", torch.zeros(0, dtype=torch.float64) if prior == "auto" else None)
        self.register_buffer("weight", weight)

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        *,
        sample_weight: Tensor | None = None,
        class_mass: ClassMass | None = None,
    ) -> Tensor:
        """Return the loss in nats, and in training mode remember the step; a part told its whole is not a step."""
        where = type(self).__name__
        sets = self._sets(logits, target, sample_weight)
        weight = group_weight(where, self.weight, self.balance, sets, validate=self.validate)
        return self._step_loss(self._part(sets), class_mass, weight, self.compensation)

    @torch.no_grad()
    def class_mass(self, logits: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> ClassMass:
        """Return what these sets add to a step of several parts; nothing is remembered."""
        return self._part(self._sets(logits, target, sample_weight)).mass()

    @torch.no_grad()
    def note(self, step: ClassMass) -> None:
        """Take the class mass of a whole step into what is remembered, the running prior too."""
        super().note(step)
        if self.class_count is not None:
            if self.class_count.numel() == 0:
                self.class_count = torch.ones_like(step.class_count, dtype=precise(step.class_count.device))
            self.class_count += step.class_count

    def scores(self, logits: Tensor, kind: Kind = "balanced") -> Tensor:
        """Return scores of the logits' shape, as the loss decides or with prior and class mass put back.

        Balanced scores are the bare logits, times the link. Where the classes overlap, though, prior and class mass
        balance both, which is too much; and with soft targets, whose link is 2, the prior would come off twice. So once
        `observe` has told the posterior, the balanced scores of a loss with a prior are the posterior's with just the
        prior taken off (but for index targets with another balance than "class"). So are they in pools of one, which
        balance nothing. Inner "divergence" balances nothing at its answer: without a prior its balanced scores are the
        posterior's.
        """
        check_kind(type(self).__name__, kind)
        inner = INNERS[self.inner]
        rows = self.scale * as_compute_dtype(classes_last(logits))
        prior = self._current_prior(rows.shape[-1])
        alone = isinstance(self.pool, int) and self.pool == 1
        log_others = self.log_others
        if alone and self.link.isnan():
            log_others = rows.new_full((1, rows.shape[-1]), -math.inf)  # a pool of one has no other sets to observe
        observed = log_others.numel() > 0
        # The link of hard targets in a grouping of opposites, less than the whole, is read off the pool's size alone:
        # where the network fits its training rows it is too large, and the bare logits decided better.
        known = observed or float(self.link) == inner.link
        if kind == "balanced" and not (known and (alone or prior is not None)):
            return classes_second(self._balanced_link() * rows, logits)
        log_prob = with_prior(rows, prior, self.scale * self.prior_strength).log_softmax(-1)
        scores = posterior_scores(log_prob, log_others, inner) if observed else self._balanced_link() * log_prob
        if kind == "balanced":
            scores = with_prior(scores, prior, -self.prior_strength)
        elif self.weight is not None and not inner.separate:
            # A class whose log counts twice is answered as if it were twice as frequent.
            scores = scores - self.weight.to(rows).clamp(min=torch.finfo(rows.dtype).tiny).log()
        return classes_second(scores, logits)

    @torch.no_grad()
    def observe(self, logits: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> None:
        """Take from trained logits what a pool's other sets add to each class, for the posterior.

        Limits: the posterior is exact for index targets and for compensated probability targets. With label smoothing,
        or probability targets and no compensation, the class mass is left out of it, and it is an approximation; so it
        is for inner "divergence" in pools of a few sets.
        """
        where = type(self).__name__
        sets = self._sets(logits, target, sample_weight)
        pools = as_pools(where, self._call_pool(), sets.shape, sets.logits.device)
        size = self._observed_pool_size(pools, sets.is_kept)
        grouping = as_grouping(where, self.balance, sets.classes, sets.logits.device, self.inner)
        inner = INNERS[self.inner]
        if sets.labels is None or not isinstance(grouping, ClassBalance) or inner.separate:
            # Compensated soft targets are answered by softmax(link scale z) whatever the pool, and hard ones in large
            # pools by groupings that hold every pair's opposite and by separate terms: no class mass moves the answer.
            opposites = sets.labels is not None and not isinstance(grouping, ClassBalance)
            self.link.fill_(inner.link - 1.0 / size if opposites else inner.link)
            return
        prior = self._current_prior(sets.classes)
        shift = None if prior is None else log_prior(prior, self.prior_strength, sets.logits)
        seen = replace(sets, shift=shift, scale=self.scale)
        self.log_others = draw_pools(grouping.log_threats(seen), sets.log_weight, size - 1)
        # The posterior divides p_y by the share that a set of class y keeps of cross-entropy's gradient. The mean share
        # tells how far the scores are from those of a large pool.
        log_prob = seen.scores().log_softmax(1).gather(1, sets.labels[:, None]).squeeze(1)
        share = inner.log_share(log_prob, self.log_others[:, sets.labels]).exp().mean(0)
        self.link.copy_(inner.link - (share * sets.is_kept).sum() / sets.is_kept.sum().clamp(min=1))

    def extra_repr(self) -> str:
        """Show the pool, balance and prior."""
        prior = "auto" if self.class_count is not None else self.prior if self.prior is None else "given"
        return (
            f"balance={self.balance!r}, inner={self.inner!r}, pool={self.pool!r}, prior={prior!r}, "
            f"compensation={self.compensation!r}"
        )

    def _sets(self, logits: Tensor, target: Tensor, sample_weight: Tensor | None) -> Sets:
        return as_sets(
            type(self).__name__,
            logits,
            target,
            sample_weight=sample_weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            validate=self.validate,
        )

    def _part(self, sets: Sets) -> Part:
        return balanced_part(
            type(self).__name__,
            sets,
            balance=self.balance,
            inner=self.inner,
            pool=self._call_pool(),
            compensation=self.compensation,
            scale=self.scale,
            prior=self._current_prior(sets.classes),
            prior_strength=self.prior_strength,
            validate=self.validate,
        )

    def _balanced_link(self) -> float:
        unseen = self.inner != "odds" and bool(self.link.isnan())
        return INNERS[self.inner].link if unseen else super()._balanced_link()

    def _current_prior(self, classes: int) -> Tensor | None:
        if self.class_count is None:
            return self.prior
        if self.class_count.numel() == 0:
            return None
        if len(self.class_count) != classes:
            raise ValueError(
                f"{type(self).__name__}: the running prior has counted {len(self.class_count)} classes, but logits "
                f"have {classes}. Use one module per set of classes."
            )
        return self.class_count / self.class_count.sum()


class MultiLabelCrossEntropyLoss(PooledCriterion):
    r"""Multi-label loss that weighs few positives like many negatives: `equilog.multilabel_cross_entropy` as a module.

    Replaces `torch.nn.BCEWithLogitsLoss`. A label is predicted where its logit is positive.

    Args:
        pool: as the function's; or "stream", the labels of this and earlier training calls, by a moving class mass.
        index_target: as the function's.
        scale: as the function's.
        weight: as the function's.
        pos_weight: as the function's.
        momentum: for pool "stream", in [0, 1): share of the moving class mass that each step keeps.
        reduction: as the function's.
        process_group: as the function's. In evaluation mode each call is of its process alone.
        validate: as the function's.

    Shape:
        forward: logits and target (N, L), or label indices (N, k) as the function's; sample_weight (N,) or (N, L),
        mask broadcastable to (N, L), class_mass as the function's -> scalar, or as the function says for reduction
        "none".

    Example:
        >>> criterion = MultiLabelCrossEntropyLoss()
        >>> logits = torch.tensor([[3.0, -2.0, -2.0, -2.0]])
        >>> criterion(logits, torch.tensor([[1, 0, 0, 0]]))
        tensor(0.3893)
        >>> criterion.predict(logits)
        tensor([[1, 0, 0, 0]])
    """

    multilabel = True
    weight: Tensor | None
    """The factor on each label's terms, where it was given."""

    def __init__(
        self,
        *,
        pool: str | int | Tensor = "sample",
        index_target: bool | None = None,
        scale: float = 1.0,
        weight: Tensor | None = None,
        pos_weight: float | None = None,
        momentum: float = 0.9,
        reduction: Reduction = "mean",
        process_group: Group = None,
        validate: bool = False,
    ) -> None:
        super().__init__(
            pool=pool,
            scale=scale,
            momentum=momentum,
            reduction=reduction,
            process_group=process_group,
            validate=validate,
        )
        self.index_target = index_target
        self.pos_weight = pos_weight
        self.register_buffer("weight", weight)

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        *,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        class_mass: ClassMass | None = None,
    ) -> Tensor:
        """Return the loss in nats, and in training mode remember the step; a part told its whole is not a step."""
        labels = self._labels(logits, target, sample_weight, mask)
        weight = side_weight(type(self).__name__, self.pos_weight, labels)
        return self._step_loss(self._part(labels), class_mass, weight)

    @torch.no_grad()
    def class_mass(
        self, logits: Tensor, target: Tensor, *, sample_weight: Tensor | None = None, mask: Tensor | None = None
    ) -> ClassMass:
        """Return what these labels add to a step of several parts; nothing is remembered."""
        return self._part(self._labels(logits, target, sample_weight, mask)).mass()

    def scores(self, logits: Tensor, kind: Kind = "balanced") -> Tensor:
        """Return the log odds of each label: the logits times the link, or corrected for what shared the two logs."""
        check_kind(type(self).__name__, kind)
        x = self.scale * as_compute_dtype(logits)
        if kind == "balanced" or self.log_others.numel() == 0:
            return self._balanced_link() * x
        scores = label_posterior_scores(x, self.log_others)
        return scores - math.log(self.pos_weight) if self.pos_weight else scores

    @torch.no_grad()
    def observe(self, logits: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> None:
        """Take from trained logits what a pool's other labels add to the two logs, for the posterior."""
        labels = self._labels(logits, target, sample_weight, None).dense()
        pools = labels.pools(type(self).__name__, self._call_pool())
        kept = labels.weights != 0
        size = self._observed_pool_size(pools, kept)
        threats = LogThreats(torch.stack(labels.log_threats(self.scale), 1), None, 1)
        self.log_others = draw_pools(threats, labels.weights.log(), size - 1)
        # The share of binary cross-entropy's gradient that a label keeps, (1 + e) / (1 + O + e), e its own odds.
        x = self.scale * labels.logits
        wrong = torch.stack((-x, x), 1)
        share = (F.softplus(wrong) - torch.logaddexp(log_one_plus(self.log_others)[:, None], wrong)).exp().mean(0)
        mean_share = share[:, 0] * labels.target + share[:, 1] * (1.0 - labels.target)
        self.link.copy_(2.0 - (mean_share * kept).sum() / kept.sum().clamp(min=1))

    def extra_repr(self) -> str:
        """Show the pool and scale."""
        return f"pool={self.pool!r}, scale={self.scale!r}"

    def _part(self, labels: Labels | IndexedLabels) -> Part:
        return multilabel_part(type(self).__name__, labels, pool=self._call_pool(), scale=self.scale)

    def _labels(
        self, logits: Tensor, target: Tensor, sample_weight: Tensor | None, mask: Tensor | None
    ) -> Labels | IndexedLabels:
        return read_labels(
            type(self).__name__,
            logits,
            target,
            index_target=self.index_target,
            weight=self.weight,
            sample_weight=sample_weight,
            mask=mask,
            validate=self.validate,
        )
