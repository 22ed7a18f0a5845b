"""The loss of a linear layer's output from its input, for so many classes that the logits are too much to hold."""

from typing import Any, cast

import torch
from torch import Tensor

from equilog.core.chunks import as_chunks
from equilog.core.grouping import GroupSums
from equilog.core.linear_layer import (
    Layer,
    as_head,
    check_layer,
    rows_of_a_chunk,
    uncompiled,
    with_known_units,
)
from equilog.core.pool_state import ClassMass, ProcessGroup
from equilog.core.pools import Pools, as_pools, spans_parts
from equilog.core.sparse_groups import Groups
from equilog.inputs.classes import index_targets
from equilog.inputs.options import ClassOptions, Pool, Reduction
from equilog.inputs.values import class_vector
from equilog.losses.multiclass import index_sums, log_prior
from equilog.ops import as_compute_dtype, index_log_odds


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
