"""The loss of one choice among C classes: logits -> log odds -> pooled with its neighbours -> log -> reduced."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from equilog.calibration import Calibration
from equilog.calibration.correction import Correction
from equilog.calibration.pools import draw_pools
from equilog.calibration.posterior import class_correction
from equilog.core.grouping import BlockBalance, ClassBalance, Grouping, GroupSums, as_grouping
from equilog.core.inner import INNERS
from equilog.core.pool_state import ClassMass, Layout, ProcessGroup
from equilog.core.pool_sums import PoolSums, pooled_loss
from equilog.core.pools import Pools, as_pools, spans_parts
from equilog.core.units import samples_of
from equilog.inputs.classes import Sets, Targets, read_sets
from equilog.inputs.options import (
    Balance,
    ClassOptions,
    Compensation,
    InnerName,
    Pool,
    Reduction,
    options_of_call,
)
from equilog.inputs.values import class_vector
from equilog.losses.base import PooledCriterion, options_of_module, own_class_buffer
from equilog.losses.plain import keep_plan, plain_sums
from equilog.ops import as_compute_dtype


def log_balanced_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    balance: Balance | Tensor | Grouping = "class",
    inner: InnerName = "odds",
    pool: Pool = None,
    compensation: Compensation | None = "weight",
    scale: float = 1.0,
    prior: Any = None,
    prior_strength: float = 1.0,
    weight: Any = None,
    sample_weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    class_mass: ClassMass | None = None,
    process_group: ProcessGroup = None,
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
            scores. "power", t_ij^t_ij (p_ij^-t_ij - 1): the odds for index targets, gentle on little soft mass, and not
            convex there; it answers softmax(scale z) = t, so that soft and hard sets mix. "nll", -t_ij log p_ij:
            index targets cost the log of 1 + their class's summed cross-entropy, so a pool of one costs log(1 +
            cross-entropy), not cross-entropy; not convex. "divergence", t_ij log(t_ij / p_ij) - t_ij + p_ij, which is
            p_ij where t_ij is 0: never negative, and zero exactly at p = t, so that the loss is its own regret; not
            convex. "nll" and "divergence" answer softmax(scale z) = t.
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
        scale: factor > 0 on the scores, a number.
        prior: (C,) class frequencies or counts, all > 0, or None: a tensor, an array, a list, or a dict or pandas
            series by class index. Their log is added to the logits in the loss, so that the bare logits decide as if
            all classes were equally frequent.
        prior_strength: factor on log prior.
        weight: (C,) factor >= 0 on each class's log; for balance "class" and "pair".
        sample_weight: (N, d1, ...) or (N,), factor >= 0 on a set's odds: weight 2 is the set twice, weight 0 is an
            ignored set. The way to ignore sets with probability targets.
        ignore_index: index target of the sets to leave out.
        label_smoothing: in [0, 1), share of the target spread evenly over the classes that take part in the set.
        reduction: "sum", the formula above added up over the pools; "none", one value a pool; or "mean", the sum
            divided by the summed units of the pools, where the unit of a pool is the larger of the samples that it
            spans and the logs that it holds something in. So the mean has the scale of torch's cross-entropy, which
            it is for pool=1: the gradients of all logits add up to at most 2 scale, and where a sample is one set
            with an index target none is larger than by cross-entropy's mean. A sample counts by its weight where one
            weight is given for each sample, a sample and a log by the weight of their class; a sample counts as often
            as a set is in several logs (C - 1 times for "pair"). Of inner "nll" and "divergence" the samples alone
            count, where they are one set each.
        class_mass: the mass of the whole that this call is a part of, from `equilog.class_mass` of every part with the
            same options. The value is then the whole's and the gradient this part's share (for pools that do not span
            the parts, both are this part's share of the mean).
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
        its compensation fixed, and are 0 where the target is 0. Those with respect to targets and weights hold the
        units of the mean fixed.

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
        >>> log_balanced_cross_entropy(logits, target)  # one pool: one log per class, over two samples
        tensor(0.3955)
    """
    options = options_of_call(
        ClassOptions,
        where="log_balanced_cross_entropy",
        balance=balance,
        inner=inner,
        pool=pool,
        compensation=compensation,
        scale=scale,
        prior_strength=prior_strength,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
        validate=validate,
    )
    if sample_weight is None and weight is None and prior is None:
        general = partial(_general_sums, options, logits, target)
        plain = plain_sums(options, logits, target, general, counts=False)
        if plain is not None:
            return pooled_loss(options, plain(None), class_mass, process_group)
    sets = read_sets(options, logits, target, sample_weight)
    shift = None if prior is None else log_prior(options, prior, sets.logits)
    part = class_sums(options, sets, shift, weight)
    keep_plan(options, logits, target, sets, part)
    return pooled_loss(options, part, class_mass, process_group)


def _general_sums(options: ClassOptions, logits: Tensor, target: Tensor, shift: Tensor | None) -> PoolSums:
    return class_sums(options, read_sets(options, logits, target, None), shift, None)


class Form(NamedTuple):
    """What a call is made of, but for the numbers: all that follows from options and shapes."""

    pools: Pools
    grouping: Grouping
    layout: Layout
    gentle: bool
    """Whether no set has more gradient than by cross-entropy."""


def form_of(options: ClassOptions, sets: Sets) -> Form:
    """Return the form of a call, of plain options the one of an earlier call of these shapes."""
    arguments = sets.shape, sets.classes, sets.logits.device
    by_class = isinstance(options.balance, str) and options.balance == "class"
    if isinstance(options.pool, Tensor) or not by_class:  # which holds tensors, those of one call
        return _form_of(options, *arguments)
    return options.remembered(arguments, _form_of, *arguments)


def _form_of(options: ClassOptions, shape: torch.Size, classes: int, device: torch.device) -> Form:
    pools = as_pools(options, shape, device)
    grouping = as_grouping(options, classes, device)
    by_class = isinstance(grouping, ClassBalance)
    return Form(
        pools,
        grouping,
        Layout(
            grouping.name,
            classes,
            spans=spans_parts(options.pool, shape),
            compensated=by_class and options.compensation is not None,
            inner=options.inner,
        ),
        gentle=isinstance(grouping, ClassBalance) and grouping.inner.gentle,
    )


def class_sums(options: ClassOptions, sets: Sets, shift: Tensor | None, weight: Any) -> PoolSums:
    """Return the pools of a call, from its sets, what is added to their logits and the class weight, (C,) or None."""
    pools, grouping, layout, gentle = form_of(options, sets)
    sets = sets if grouping.by_index else sets.gathered()
    sets = sets if shift is None else replace(sets, shift=shift)
    class_weight = group_weight = None
    if weight is not None:
        class_weight = class_vector(
            options.where, "weight", weight, sets.logits, positive=False, validate=options.validate
        )
        group_weight = _weight_of_groups(options, grouping, class_weight)
        layout = replace(layout, weighted=not layout.spans)
    return PoolSums(
        make_sums=lambda: grouping.sums(sets, pools, layout.compensated),
        compensation=options.compensation,
        samples=samples_of(sets, pools, grouping.logs_per_set, gentle),
        class_count=sets.class_count,
        shape=sets.shape,
        layout=layout,
        group_weight=group_weight,
        class_weight=class_weight,
        at_once=grouping.index_logs(sets, pools, class_weight),
    )


def index_sums(
    options: ClassOptions,
    targets: Targets,
    pools: Pools,
    make_sums: Callable[[], GroupSums],
    class_weight: Tensor | None,
) -> PoolSums:
    """Return the pools of sets with index targets and class balance of the odds, however their sums were come by."""
    spans = spans_parts(options.pool, targets.shape)
    weighted = class_weight is not None and not spans
    return PoolSums(
        make_sums=make_sums,
        compensation=options.compensation,
        samples=samples_of(targets, pools),
        class_count=targets.class_count,
        shape=targets.shape,
        layout=Layout(ClassBalance.name, targets.classes, spans=spans, compensated=True, weighted=weighted),
        group_weight=class_weight,
        class_weight=class_weight,
    )


def log_prior(options: ClassOptions, prior: Any, logits: Tensor) -> Tensor:
    """Return prior_strength * log prior (C,), in the type that logits (n, C) are computed in."""
    vector = class_vector(options.where, "prior", prior, logits, positive=True, validate=options.validate)
    return options.prior_strength * vector.log()


def _weight_of_groups(options: ClassOptions, grouping: Grouping, class_weight: Tensor) -> Tensor:
    if isinstance(grouping, BlockBalance) and grouping.members != ():
        raise ValueError(
            f'{options.where}: weight needs a log per class; use balance "class" or "pair", or sample_weight.'
        )
    return grouping.group_weight(class_weight)


class LogBalancedCrossEntropyLoss(PooledCriterion):
    r"""Cross-entropy that balances the classes by itself: `equilog.log_balanced_cross_entropy` as a module.

    Replaces `torch.nn.CrossEntropyLoss`. With `prior="auto"` the loss counts the targets of its training steps and adds
    the log of their frequency to the logits, so that the bare logits decide as if all classes were equally frequent and
    nobody has to supply class counts. The counts are in the `state_dict`.

    Args:
        num_classes: C. What is remembered from step to step has its shape from it: needed for `prior="auto"` and pool
            "stream", else of no effect.
        prior: (C,) class frequencies or counts; "auto", the counts of the targets of earlier training steps (and one
            more of each class), in the buffer `class_count`; or None.
        pool: as in the function; or "stream", the sets of this and earlier training steps, by a moving class mass: the
            loss is that of a batch of `effective_sets` sets, of which the call is a sample.
        momentum: for pool "stream", in [0, 1): share of the moving class mass that each step keeps.
        process_group: as in the function. Running prior and stream are then those of all ranks. In evaluation mode each
            call is of its process alone, since ranks need not evaluate in step.
        **options: balance, inner, compensation, scale, prior_strength, weight, ignore_index, label_smoothing, reduction
            and validate, as in the function.

    Shape:
        forward: logits (N, C, d1, ...), target (N, d1, ...) or (N, C, d1, ...), sample_weight (N, d1, ...) or (N,),
        class_mass as the function's -> scalar, or as the function says for reduction "none".

    Raises:
        TypeError, ValueError: an option of the wrong type or range, or one that there is not.

    Example:
        >>> criterion = LogBalancedCrossEntropyLoss(num_classes=10, pool=4, prior="auto")
        >>> logits = torch.randn(32, 10, requires_grad=True, generator=torch.manual_seed(0))
        >>> criterion(logits, torch.arange(32) % 10).backward()
        >>> criterion.predict(logits).shape, criterion.class_count.sum()
        (torch.Size([32]), tensor(32., dtype=torch.float64))
    """

    options: ClassOptions
    prior: Tensor | None
    """(C,) the class frequencies, where they were given."""
    weight: Tensor | None
    """(C,) the factor on each class's log, where it was given."""
    class_count: Tensor | None
    """(C,) float64 count of the targets of training steps, where prior is "auto"."""

    def __init__(
        self,
        num_classes: int | None = None,
        *,
        prior: Any | Literal["auto"] | None = None,
        pool: Pool = None,
        weight: Any = None,
        momentum: float = 0.9,
        process_group: ProcessGroup = None,
        **options: Any,
    ) -> None:
        name = type(self).__name__
        checked = options_of_module(ClassOptions, name, options | {"pool": None if isinstance(pool, Tensor) else pool})
        super().__init__(checked, size=num_classes, momentum=momentum, process_group=process_group)
        self.num_classes = num_classes
        balance = checked.balance
        if isinstance(balance, Tensor):
            # A tensor of blocks is read once, here, so that nothing waits for its values in training.
            grouping = as_grouping(checked, len(balance), balance.device)
            self.options = replace(checked, balance=grouping)
        self._register_prior(prior, num_classes, streams=self.streams)
        self.register_buffer("weight", own_class_buffer(name, "weight", weight, num_classes, positive=False))
        self.register_buffer("pool_ids", pool if isinstance(pool, Tensor) else None)
        grouping = as_grouping(self.options, num_classes or 1, torch.device("cpu"))
        self._register_stream(grouping.group_count, Layout(grouping.name, num_classes or 0, spans=True))

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        *,
        sample_weight: Tensor | None = None,
        class_mass: ClassMass | None = None,
    ) -> Tensor:
        """Return the loss in nats, and remember a training step; a part that is told its whole is not a step."""
        options: ClassOptions = self._call_options()
        weight = self.weight
        if sample_weight is None and weight is None:
            general = partial(_general_sums, options, logits, target)
            plain = plain_sums(options, logits, target, general, counts=self.class_count is not None)
            if plain is not None:
                return self._loss_of_call(options, logits, target, class_mass, plain)
        sets = read_sets(options, logits, target, sample_weight)

        def sums(shift: Tensor | None) -> PoolSums:
            part = class_sums(options, sets, shift, weight)
            keep_plan(options, logits, target, sets, part)
            return part

        return self._loss_of_call(options, sets.logits, target, class_mass, sums)

    @torch.no_grad()
    def class_mass(self, logits: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> ClassMass:
        """Return what these sets add to a step of several parts; nothing is remembered."""
        options: ClassOptions = self._call_options()
        sets = read_sets(options, logits, target, sample_weight)
        return class_sums(options, sets, self._shift(sets.logits), self.weight).mass()

    @torch.no_grad()
    def calibrate(
        self,
        logits: Tensor,
        target: Tensor,
        *,
        sample_weight: Tensor | None = None,
        pool_size: float | None = None,
    ) -> Calibration:
        """Return what the logits of the trained model say, told by those of the training rows.

        Bare logits decide as if the classes were equally frequent already; this adds the probabilities of the data as
        drawn, and takes back what prior and class mass together balance too much where the classes overlap.

        Args:
            logits: as in training; a sample of the training rows is enough.
            target: their targets.
            sample_weight: as in training.
            pool_size: number of sets that shared a log in training. None is that of the last training step of this
                process, or of the stream; it must be said for pool "batch" where there was none.

        Limits: the posterior is exact for index targets and for compensated probability targets. With label smoothing,
        or probability targets and no compensation, the class mass is left out of it, and it is an approximation; so it
        is for inner "divergence" in pools of a few sets.
        """
        options: ClassOptions = self._call_options()
        sets = read_sets(options, logits, target, sample_weight)
        shift = self._shift(sets.logits)
        grouping = as_grouping(options, sets.classes, sets.logits.device)
        pools = as_pools(options, sets.shape, sets.logits.device)
        size = self._calibrated_pool_size(pool_size, int(sets.is_kept.sum()), len(sets.log_weight), pools)
        inner = grouping.inner if isinstance(grouping, ClassBalance) else INNERS["odds"]
        hard = sets.index is not None
        if sets.index is not None and isinstance(grouping, ClassBalance) and not inner.separate:
            seen = replace(sets, shift=shift)
            log_others = draw_pools(grouping.log_terms(seen), sets.log_weight, size - 1)
            # The posterior divides p_y by the share that a set of class y keeps of cross-entropy's gradient. The mean
            # share tells how far the scores are from those of a large pool.
            log_prob = seen.scores().log_softmax(1).gather(1, sets.index[:, None]).squeeze(1)
            share = inner.log_share(log_prob, log_others[:, sets.index]).exp().mean(0)
            kept = sets.is_kept
            factor = inner.index_factor - float((share * kept).sum() / kept.sum().clamp(min=1))
            return self._calibration(factor, shift, class_correction(inner, log_others), balanced_by_prior=True)
        # Compensated soft targets are answered by softmax(factor scale z) whatever the pool, and hard ones in large
        # pools by groupings that hold every pair's opposite and by separate terms: no class mass moves the optimum.
        opposites = hard and not isinstance(grouping, ClassBalance)
        factor = inner.index_factor - 1.0 / size if opposites else inner.calibration_factor
        # What is read off the pool's size alone is too large where the network fits its training rows, and the bare
        # logits decide better.
        return self._calibration(factor, shift, None, balanced_by_prior=not opposites)

    def _correction_alone(self, shift: Tensor | None) -> Correction | None:
        like = torch.zeros(1, 1 if shift is None else len(shift)) - torch.inf
        return class_correction(INNERS[self.options.inner], like)

    @property
    def _has_log_a_class(self) -> bool:
        return isinstance(self.options.balance, str) and self.options.balance == "class"

    def extra_repr(self) -> str:
        """Show the pool, balance and prior."""
        prior = "auto" if self.class_count is not None else None if self.prior is None else "given"
        options = self.options
        balance = options.balance if isinstance(options.balance, str) else options.balance.name
        return (
            f"num_classes={self.num_classes!r}, prior={prior!r}, balance={balance!r}, inner={options.inner!r}, "
            f"{super().extra_repr()}"
        )

    def current_prior(self) -> Tensor | None:
        """Return the prior that the loss adds to the logits (C,), in counts or frequencies, or None."""
        # One of each class, so that one that has not come yet is rare and not impossible.
        return self.prior if self.class_count is None else self.class_count + 1

    def _log_prior(self, prior: Tensor, logits: Tensor) -> Tensor:
        return log_prior(self.options, prior, logits)

    def _log_of_prior(self, prior: Tensor) -> Tensor:
        return prior.log()

    def _unweighted(self) -> Tensor | None:
        # A class whose log counts twice is answered as if it were twice as frequent.
        if self.weight is None:
            return None
        wide = as_compute_dtype(self.weight)
        return -wide.clamp(min=torch.finfo(wide.dtype).tiny).log()
