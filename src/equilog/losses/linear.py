"""The losses of a linear layer's output from its input, for so many classes that the logits are too much to hold."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from equilog.core.chunks import Chunks, as_chunks
from equilog.core.grouping import GroupSums
from equilog.core.linear_layer import Layer, as_head, check_layer, rows_of_a_chunk
from equilog.core.pool_state import ClassMass, Layout, ProcessGroup
from equilog.core.pool_sums import PoolSums
from equilog.core.pools import Pools, as_pools, spans_parts
from equilog.core.sparse_groups import Groups
from equilog.core.units import Samples
from equilog.inputs.classes import index_targets, log_set_weight
from equilog.inputs.labels import label_index, looks_indexed
from equilog.inputs.options import ClassOptions, LabelOptions, Pool, Reduction
from equilog.inputs.values import all_true, class_vector, known
from equilog.losses.multiclass import index_sums, log_prior
from equilog.losses.multilabel import weight_of_logs
from equilog.ops import as_compute_dtype, index_log_odds, indexed_label_log_sums, pooled_label_log_sums

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def uncompiled(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Have torch.compile leave the function as it is: its loop is over chunks that depend on the targets.

    As torch.compiler.disable, which would load the compiler with the package.
    """

    @functools.wraps(function)
    def call(*args: Arguments.args, **keywords: Arguments.kwargs) -> Result:
        if torch.compiler.is_compiling():
            return cast(Result, torch.compiler.disable(function)(*args, **keywords))  # type: ignore[no-untyped-call]
        return function(*args, **keywords)

    return call


@uncompiled
def linear_log_balanced_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    *,
    pool: Pool = None,
    scale: float = 1.0,
    prior: Any = None,
    prior_strength: float = 1.0,
    class_weight: Any = None,
    sample_weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    class_mass: ClassMass | None = None,
    process_group: ProcessGroup = None,
    chunk_rows: int | None = None,
    validate: bool = False,
) -> Tensor:
    r"""`log_balanced_cross_entropy` of a linear layer's logits, which are never there all at once.

    For the last layer of a model with very many classes, such as the tokens of a language model, where the logits and
    their gradient are the largest tensors of a training step. Value and gradients are those of

    $$ \text{log\_balanced\_cross\_entropy}(\text{hidden}\,\text{weight}^\top + \text{bias},\ \text{target}), $$

    computed a chunk of sets at a time, in the order of their targets: where all sets of a class (in their pool) lie in
    one chunk, their class mass is known, and with it their gradients, while the chunk's logits are there. Index
    targets and balance "class" only.

    Args:
        hidden: (N, D), (N, d1, ..., D) or (D,), floating point: the linear layer's input, features last.
        weight: (C, D) of the same dtype, the layer's matrix. The weight of the classes is `class_weight`.
        target: class indices (N, d1, ...) of any integer type.
        bias: (C,), the layer's, or None.
        pool: as in `log_balanced_cross_entropy`.
        scale: as in `log_balanced_cross_entropy`.
        prior: as in `log_balanced_cross_entropy`.
        prior_strength: as in `log_balanced_cross_entropy`.
        class_weight: (C,) factor >= 0 on each class's log, `weight` in `log_balanced_cross_entropy`.
        sample_weight: as in `log_balanced_cross_entropy`.
        ignore_index: index target of the sets to leave out; they take no time either.
        reduction: as in `log_balanced_cross_entropy`.
        class_mass: the mass of the whole that this call is a part of, from `equilog.class_mass` of every part; as in
            `log_balanced_cross_entropy`.
        process_group: as in `log_balanced_cross_entropy`.
        chunk_rows: number of sets >= 1 whose logits are there together. None is D / 2, but at most 1024: the logits of
            a chunk and their gradient then take no more memory than `weight`. On a GPU it is 256 to 4096.
        validate: look at the values of the arguments too and raise on bad ones. Makes a GPU wait.

    Returns:
        Nats, float32 (float64 for float64 `hidden`): a scalar, or for reduction "none" (P,), one value a pool, 0 for
        an empty one; with pool=1 of the shape of the sets, (N, d1, ...).

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape or range, named with what was expected.

    Limits:
        The gradients are formed with the value, in three products of matrices, as many as logits and their gradients
        take. Sets of which the class mass is not known within a chunk need a fourth: those of classes with more sets
        than a chunk, and all of them for a pool over several ranks without `class_mass` and for reduction "none".
        A GPU waits once, for the order of the sets. Under autocast the products are made in its dtype and added up in
        float32. `class_weight` gets no gradient. Second derivatives, forward mode and torch.func are not supported
        and raise; torch.compile leaves this call as it is, between two graphs.

    Source:
        Gradients formed with the value, a chunk at a time: Hsu et al. 2024, arXiv 2410.10989 (Liger Kernel), and
        torch.nn.functional.linear_cross_entropy. Chunks that close classes are this project's.

    Example:
        >>> from equilog import log_balanced_cross_entropy
        >>> generator = torch.manual_seed(0)
        >>> hidden, weight = torch.randn(64, 8, generator=generator), torch.randn(1000, 8, generator=generator)
        >>> target = torch.randint(1000, (64,), generator=generator)
        >>> loss = linear_log_balanced_cross_entropy(hidden, weight, target, chunk_rows=16)
        >>> torch.allclose(loss, log_balanced_cross_entropy(hidden @ weight.T, target))
        True
    """
    options = ClassOptions(
        where="linear_log_balanced_cross_entropy",
        pool=pool,
        scale=scale,
        prior_strength=prior_strength,
        ignore_index=ignore_index,
        reduction=reduction,
        validate=validate,
    )
    layer = _class_layer(options, hidden, weight, target, bias, prior, class_weight, sample_weight, chunk_rows)
    return layer.loss(options, class_mass, process_group)


@uncompiled
def linear_multilabel_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    *,
    pool: str | Tensor = "sample",
    index_target: bool | None = None,
    scale: float = 1.0,
    label_weight: Any = None,
    pos_weight: float | Tensor | None = None,
    sample_weight: Tensor | None = None,
    reduction: Reduction = "mean",
    class_mass: ClassMass | None = None,
    process_group: ProcessGroup = None,
    chunk_rows: int | None = None,
    validate: bool = False,
) -> Tensor:
    r"""`multilabel_cross_entropy` of a linear layer's logits, which are never there all at once.

    For tagging with up to millions of labels. Value and gradients are those of

    $$ \text{multilabel\_cross\_entropy}(\text{hidden}\,\text{weight}^\top + \text{bias},\ \text{target}), $$

    computed a chunk of samples at a time. A pool of one sample is known within its chunk; those of several take all
    logits twice.

    Args:
        hidden: (N, D), floating point: the linear layer's input.
        weight: (L, D) of the same dtype, the layer's matrix. The weight of the labels is `label_weight`.
        target: (N, k) integers, the numbers 0 to L - 1 of each sample's positives, each named once, filled up with -1;
            or (N, L) values in [0, 1], floating point, integer or bool.
        bias: (L,), the layer's, or None.
        pool: which samples share the two logs: "sample", each by itself; "batch", all of the call; or (N,) integer
            pool ids.
        index_target: as in `multilabel_cross_entropy`.
        scale: factor > 0 on the logits.
        label_weight: (L,) factor >= 0 on each label's terms, `weight` in `multilabel_cross_entropy`.
        pos_weight: as in `multilabel_cross_entropy`.
        sample_weight: (N,) factor >= 0 on a sample's terms; samples of weight 0 take no time.
        reduction: as in `multilabel_cross_entropy`.
        class_mass: as in `multilabel_cross_entropy`.
        process_group: as in `multilabel_cross_entropy`.
        chunk_rows: number of samples >= 1 whose logits are there together. None is D / 2, but at most 1024: a chunk's
            logits and their gradient then take no more memory than `weight`. On a GPU it is 256 to 4096.
        validate: look at the values of the arguments too and raise on bad ones. Makes a GPU wait. On the CPU, label
            indices out of range or named twice raise anyway; on a GPU they make their sample NaN.

    Returns:
        Nats, float32 (float64 for float64 `hidden`): a scalar, or for reduction "none" (P,), one value a pool.

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape or range, named with what was expected.

    Limits:
        The gradients are formed with the value, in three products of matrices, as many as logits and their gradients
        take; pools of several samples, and reduction "none", need a fourth. Under autocast the products are made in
        its dtype and added up in float32. `label_weight` and `pos_weight` get no gradient. There is no mask of (N, L).
        Second derivatives, forward mode and torch.func are not supported; torch.compile leaves this call as it is,
        between two graphs.

    Source:
        As `multilabel_cross_entropy`. Gradients formed with the value, a chunk at a time: Hsu et al. 2024,
        arXiv 2410.10989 (Liger Kernel).

    Example:
        >>> from equilog import multilabel_cross_entropy
        >>> generator = torch.manual_seed(0)
        >>> hidden, weight = torch.randn(64, 8, generator=generator), torch.randn(1000, 8, generator=generator)
        >>> target = torch.randint(500, (64, 2), generator=generator) + torch.tensor([0, 500])
        >>> loss = linear_multilabel_cross_entropy(hidden, weight, target, chunk_rows=16)
        >>> torch.allclose(loss, multilabel_cross_entropy(hidden @ weight.T, target))
        True
    """
    options = LabelOptions(
        where="linear_multilabel_cross_entropy",
        pool=pool,
        index_target=index_target,
        scale=scale,
        reduction=reduction,
        validate=validate,
    )
    layer = _label_layer(options, hidden, weight, target, bias, label_weight, pos_weight, sample_weight, chunk_rows)
    return layer.loss(options, class_mass, process_group)


def _class_layer(
    options: ClassOptions,
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    prior: Any,
    class_weight: Any,
    sample_weight: Tensor | None,
    chunk_rows: int | None,
) -> Layer:
    """Return a layer whose sets choose one class each, and meet in one log a class and pool."""
    where = options.where
    shape = check_layer(where, hidden, weight, target, bias, per_output="class_weight", validate=options.validate)
    if target.is_floating_point() or target.shape != shape:
        raise ValueError(
            f"{where}: target must be {tuple(shape)} class indices, integers, to match hidden {tuple(hidden.shape)}; "
            f"got {tuple(target.shape)} {target.dtype}. Probabilities need the logits: use log_balanced_cross_entropy."
        )
    classes, features = weight.shape
    size = rows_of_a_chunk(where, chunk_rows, features, hidden.device)
    rows = hidden.reshape(-1, features)
    like = as_compute_dtype(rows.new_empty(0, classes))  # logits of no sets
    shift = None if bias is None else bias.to(like)
    if prior is not None:
        shift = log_prior(options, prior, like) + (0.0 if shift is None else shift)
    if class_weight is not None:
        class_weight = class_vector(
            where, "class_weight", class_weight, like, positive=False, validate=options.validate
        ).detach()
    targets = index_targets(options, target, classes, like.dtype, sample_weight)
    index = cast(Tensor, targets.index)
    log_weight = targets.log_weight
    if targets.usable is not None:
        log_weight = torch.where(targets.usable | (log_weight == -torch.inf), log_weight, torch.nan)

    pools = as_pools(options, shape, rows.device)
    used = torch.arange(len(index), device=rows.device) if targets.kept is None else targets.kept.nonzero().squeeze(1)
    logs, log_of = torch.unique(pools.ids[used] * classes + index[used], return_inverse=True)
    slot, slots, groups, scale = index, classes, None, options.scale
    fixed_shift = None if shift is None else shift.detach()

    def log_odds(z: Tensor, rows: Tensor) -> Tensor:
        return index_log_odds(z, index[rows], fixed_shift, scale)

    if not spans_parts(options.pool, shape):
        slot, of_logs = _columns(pools, logs // classes, logs % classes, used, log_of)
        slots, groups = of_logs.shape[1], Groups(of_logs, classes)
    return with_known_units(
        Layer(
            inputs=(rows, weight, shift, log_weight),
            head=as_head(rows, weight, shift, scale, log_odds, takes_products=True),
            chunks=as_chunks(used, log_of, size),
            slot=slot,
            slots=slots,
            empty=index_sums(options, targets, pools, lambda: GroupSums(like, groups), class_weight),
            groups=groups,
            of_logits="log_balanced_cross_entropy",
        ),
        torch.where(targets.is_kept, 0.0, -torch.inf).to(like.dtype),
    )


def with_known_units(layer: Layer, holds: Tensor) -> Layer:
    """Return the layer with what the mean divides by, known before any logit.

    holds: (n, ...) 0 where a set adds a term to a log, minus infinity where it does not.
    """
    return replace(layer, empty=replace(layer.empty, known_units=layer.part(holds).mean_units()))


def _columns(pools: Pools, pool: Tensor, label: Tensor, used: Tensor, log_of: Tensor) -> tuple[Tensor, Tensor]:
    """Number the logs of each pool, which has few of all classes.

    Takes the pool and the class of each log (both in this order), and the log of each set that is used. Returns the
    number of each set's log (n,), and the classes of the logs (P, most logs of a pool).
    """
    first = torch.searchsorted(pool, torch.arange(pools.count, device=pool.device))
    number = torch.arange(len(pool), device=pool.device) - first[pool]
    classes = label.new_zeros(pools.count, int(number.max()) + 1 if len(number) else 1)
    classes[pool, number] = label
    return torch.zeros_like(pools.ids).index_put((used,), number[log_of]), classes


Sums = Callable[[Tensor, Tensor], Tensor]
"""(scaled logits (k, L), row numbers (k,)) -> log sums (k, 2)."""


def _label_layer(
    options: LabelOptions,
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    label_weight: Any,
    pos_weight: float | Tensor | None,
    sample_weight: Tensor | None,
    chunk_rows: int | None,
) -> Layer:
    """Return a layer whose samples meet in two logs a pool, with two log terms each."""
    where, validate = options.where, options.validate
    samples = check_layer(where, hidden, weight, target, bias, per_output="label_weight", validate=validate)
    if len(samples) != 1:
        raise ValueError(f"{where}: hidden must be (N, D), one row a sample; got {tuple(hidden.shape)}.")
    if isinstance(options.pool, int):
        raise ValueError(f'{where}: pool must be "sample", "batch" or (N,) pool ids; got {options.pool!r}.')
    labels, features = weight.shape
    like = as_compute_dtype(hidden.new_empty(0, labels))  # logits of no samples
    if label_weight is not None:
        label_weight = class_vector(where, "label_weight", label_weight, like, positive=False, validate=validate)
    log_weight, kept = log_set_weight(options, sample_weight, None, samples, hidden.device, like.dtype)
    log_weight = like.new_zeros(len(hidden)) if log_weight is None else log_weight
    kept = all_true(log_weight) if kept is None else kept

    shape = hidden.new_empty(len(hidden), 1).expand(-1, labels)  # stands for the logits, without their memory
    if looks_indexed(shape, target) if options.index_target is None else options.index_target:
        sums, positives, wrong = _sums_of_indices(options, target, shape, label_weight)
        if wrong is not None:
            log_weight = torch.where(wrong, torch.nan, log_weight)
    else:
        sums, positives = _sums_of_values(options, target, shape, label_weight, kept)

    pools = as_pools(options, samples, hidden.device)
    used = kept.nonzero().squeeze(1)
    chunks = torch.split(used, rows_of_a_chunk(where, chunk_rows, features, hidden.device)) if len(used) else ()
    all_labels = like.new_tensor(labels) if label_weight is None else label_weight.sum()

    def count() -> Tensor:
        factor = log_weight.detach().exp()
        yes = (factor * positives()).sum()
        return torch.stack((yes, factor.sum() * all_labels - yes)).double()

    there = labels if label_weight is None else int((label_weight != 0).sum())
    shift = None if bias is None else bias.to(like)
    factors = weight_of_logs(where, pos_weight, like)
    yes = positives()
    holds = torch.stack((yes, all_labels - yes), 1) * log_weight.detach().exp()[:, None] > 0
    return with_known_units(
        Layer(
            inputs=(hidden, weight, shift, log_weight[:, None].expand(-1, 2)),
            head=as_head(hidden, weight, shift, options.scale, sums),
            chunks=Chunks(chunks, () if pools.consecutive and pools.size == 1 else chunks),
            slot=None,
            slots=2,
            empty=PoolSums(
                make_sums=lambda: GroupSums(like.new_empty(0, 2)),
                samples=Samples(pools, kept * there, sample_weight, None),
                class_count=count,
                shape=samples,
                layout=Layout("multilabel", 2, spans=spans_parts(options.pool, torch.Size((len(hidden), labels)))),
                group_weight=None if factors is None else factors.detach(),
            ),
            of_logits="multilabel_cross_entropy",
        ),
        torch.where(holds, 0.0, -torch.inf).to(like.dtype),
    )


def _sums_of_indices(
    options: LabelOptions, target: Tensor, logits: Tensor, label_weight: Tensor | None
) -> tuple[Sums, Callable[[], Tensor], Tensor | None]:
    """Return the log sums of rows with these positives, each row's weighted number of them, and who is wrong."""
    samples, labels = logits.shape
    if target.is_floating_point() or target.dtype == torch.bool or target.dim() != 2 or len(target) != samples:
        raise ValueError(
            f"{options.where}: a target of label indices must be ({samples}, k) integers; got {tuple(target.shape)} "
            f"{target.dtype}."
        )
    index, wrong = label_index(options, target, labels)

    def sums(z: Tensor, rows: Tensor) -> Tensor:
        return indexed_label_log_sums(z, index[rows], None if label_weight is None else label_weight.expand_as(z), 1.0)

    def positives() -> Tensor:
        there = index < labels
        return (there if label_weight is None else there * label_weight[index.clamp(max=labels - 1)]).sum(1)

    return sums, positives, wrong


def _sums_of_values(
    options: LabelOptions, target: Tensor, logits: Tensor, label_weight: Tensor | None, kept: Tensor
) -> tuple[Sums, Callable[[], Tensor]]:
    """Return the log sums of rows with a target for each label, and each row's weighted number of positives."""
    if target.shape != logits.shape:
        raise ValueError(
            f"{options.where}: target must be {tuple(logits.shape)}, one value in [0, 1] a label, or label indices "
            f"({len(logits)}, k); got {tuple(target.shape)} {target.dtype}."
        )
    inside = ((target >= 0) & (target <= 1)).all(1) | ~kept
    if (options.validate or not target.is_floating_point()) and known(inside.all(), options.validate) is False:
        raise ValueError(f"{options.where}: target must lie in [0, 1], one value a label; got other values.")

    def sums(z: Tensor, rows: Tensor) -> Tensor:
        weight = None if label_weight is None else label_weight.expand_as(z).reshape(-1)
        return pooled_label_log_sums(z.reshape(-1), target[rows].reshape(-1), weight, z.shape[1])

    def positives() -> Tensor:
        return (target if label_weight is None else target * label_weight).sum(1)

    return sums, positives
