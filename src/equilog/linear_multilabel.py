"""The multi-label loss of a linear layer's output from its input, for so many labels that the logits are too much."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from equilog.chunked import Chunks
from equilog.functional import Reduction, check_reduction, check_scale, spans
from equilog.kernels import log_index_sums, log_side_sums
from equilog.layer import Layer, as_head, check_layer, rows_of_a_chunk
from equilog.linear import uncompiled
from equilog.mass import ClassMass, Layout
from equilog.multilabel import as_side_weight
from equilog.part import Group, Part
from equilog.pooling import Pools, as_pools
from equilog.positives import as_index, looks_indexed
from equilog.targets import all_true, as_compute_dtype, class_vector, known, log_set_weight


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
    label_weight: Tensor | None = None,
    pos_weight: float | Tensor | None = None,
    sample_weight: Tensor | None = None,
    reduction: Reduction = "mean",
    class_mass: ClassMass | None = None,
    process_group: Group = None,
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
        class_mass: as in `multilabel_cross_entropy`, from `linear_multilabel_class_mass` of every part.
        process_group: as in `multilabel_cross_entropy`.
        chunk_rows: number of samples >= 1 whose logits are there together. None is D / 2, but at most 1024: a chunk's
            logits and their gradient then take no more memory than `weight`.
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
    where = "linear_multilabel_cross_entropy"
    check_reduction(where, reduction)
    layer = _as_layer(
        where,
        hidden,
        weight,
        target,
        bias,
        pool=pool,
        index_target=index_target,
        scale=scale,
        label_weight=label_weight,
        sample_weight=sample_weight,
        chunk_rows=chunk_rows,
        validate=validate,
    )
    factor = as_side_weight(where, pos_weight, layer.empty.log_sums)
    return layer.loss(
        where,
        class_mass=class_mass,
        process_group=process_group,
        reduction=reduction,
        group_weight=None if factor is None else factor.detach(),
        validate=validate,
    )


@uncompiled
def linear_multilabel_class_mass(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    *,
    pool: str | Tensor = "batch",
    index_target: bool | None = None,
    scale: float = 1.0,
    label_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    chunk_rows: int | None = None,
    validate: bool = False,
) -> ClassMass:
    r"""What a call of `linear_multilabel_cross_entropy` adds to a loss over several micro-batches, ranks or steps.

    As `multilabel_class_mass` of the logits. Masses of both functions merge.

    Args:
        hidden: as the loss's.
        weight: as the loss's.
        target: as the loss's.
        bias: as the loss's.
        pool: as the loss's; "batch" makes one pool of all the parts.
        index_target: as the loss's.
        scale: as the loss's.
        label_weight: as the loss's.
        sample_weight: as the loss's.
        chunk_rows: as the loss's.
        validate: as the loss's.

    Returns:
        A `ClassMass`, without gradient.

    Example:
        >>> hidden, weight, target = torch.zeros(2, 4), torch.zeros(3, 4), torch.tensor([[0, -1], [-1, -1]])
        >>> linear_multilabel_class_mass(hidden, weight, target).log_mass.exp()
        tensor([2., 6.])
    """
    with torch.no_grad():
        layer = _as_layer(
            "linear_multilabel_class_mass",
            hidden,
            weight,
            target,
            bias,
            pool=pool,
            index_target=index_target,
            scale=scale,
            label_weight=label_weight,
            sample_weight=sample_weight,
            chunk_rows=chunk_rows,
            validate=validate,
        )
        return layer.mass()


@dataclass(frozen=True)
class _LabelLayer(Layer):
    """A layer whose samples meet in two logs a pool, with two log terms each."""

    def part(self, log_terms: Tensor) -> Part:
        """Return the part that these log terms (N, 2) make."""
        return replace(self.empty, log_sums=self.empty.pools.log_sums(log_terms))


def _as_layer(
    where: str,
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    *,
    pool: str | Tensor,
    index_target: bool | None,
    scale: float,
    label_weight: Tensor | None,
    sample_weight: Tensor | None,
    chunk_rows: int | None,
    validate: bool,
) -> _LabelLayer:
    samples = check_layer(where, hidden, weight, target, bias, per_output="label_weight", validate=validate)
    if len(samples) != 1:
        raise ValueError(f"{where}: hidden must be (N, D), one row a sample; got {tuple(hidden.shape)}.")
    check_scale(where, scale)
    if isinstance(pool, int):
        raise ValueError(f'{where}: pool must be "sample", "batch" or (N,) pool ids; got {pool!r}.')
    labels, features = weight.shape
    like = as_compute_dtype(hidden.new_empty(0, labels))  # logits of no samples
    if label_weight is not None:
        label_weight = class_vector(where, "label_weight", label_weight, like, positive=False, validate=validate)
    log_weight, kept = log_set_weight(where, sample_weight, None, samples, hidden.device, like.dtype, validate=validate)
    kept = all_true(log_weight) if kept is None else kept

    shape = hidden.new_empty(len(hidden), 1).expand(-1, labels)  # stands for the logits, without their memory
    if looks_indexed(shape, target) if index_target is None else index_target:
        sums, positives, wrong = _of_indices(where, target, shape, label_weight, validate=validate)
        if wrong is not None:
            log_weight = torch.where(wrong, torch.nan, log_weight)
    else:
        sums, positives = _of_values(where, target, shape, label_weight, kept, validate=validate)

    pools = as_pools(where, pool, samples, hidden.device)
    used = kept.nonzero().squeeze(1)
    chunks = torch.split(used, rows_of_a_chunk(where, chunk_rows, features)) if len(used) else ()
    each = like.new_tensor(labels) if label_weight is None else label_weight.sum()

    def side_count() -> Tensor:
        factor = log_weight.detach().exp()
        yes = (factor * positives()).sum()
        return torch.stack((yes, factor.sum() * each - yes))

    there = labels if label_weight is None else int((label_weight != 0).sum())
    shift = None if bias is None else bias.to(like)
    return _LabelLayer(
        inputs=(hidden, weight, shift, log_weight[:, None].expand(-1, 2)),
        head=as_head(hidden, weight, shift, scale, sums),
        chunks=Chunks(chunks, () if pools.given is None and pools.size == 1 else chunks),
        empty=Part(
            log_sums=like.new_empty(0, 2),
            at_optimum=None,
            class_count=side_count,
            pools=pools,
            kept=kept * there,
            shape=samples,
            layout=Layout("multilabel", 2, spans=spans(pool, torch.Size((len(hidden), labels)))),
        ),
        of_logits="multilabel_cross_entropy",
    )


Sums = Callable[[Tensor, Tensor], Tensor]
"""(scaled logits (k, L), row numbers (k,)) -> log sums (k, 2)."""


def _of_indices(
    where: str, target: Tensor, logits: Tensor, label_weight: Tensor | None, *, validate: bool
) -> tuple[Sums, Callable[[], Tensor], Tensor | None]:
    """Return the log sums of rows with these positives, each row's weighted number of them, and who is wrong."""
    samples, labels = logits.shape
    if target.is_floating_point() or target.dtype == torch.bool or target.dim() != 2 or len(target) != samples:
        raise ValueError(
            f"{where}: a target of label indices must be ({samples}, k) integers; got {tuple(target.shape)} "
            f"{target.dtype}."
        )
    index, wrong = as_index(where, target, labels, validate=validate)

    def sums(z: Tensor, rows: Tensor) -> Tensor:
        return log_index_sums(z, index[rows], None if label_weight is None else label_weight.expand_as(z), 1.0)

    def positives() -> Tensor:
        there = index < labels
        return (there if label_weight is None else there * label_weight[index.clamp(max=labels - 1)]).sum(1)

    return sums, positives, wrong


def _of_values(
    where: str, target: Tensor, logits: Tensor, label_weight: Tensor | None, kept: Tensor, *, validate: bool
) -> tuple[Sums, Callable[[], Tensor]]:
    """Return the log sums of rows with a target for each label, and each row's weighted number of positives."""
    if target.shape != logits.shape:
        raise ValueError(
            f"{where}: target must be {tuple(logits.shape)}, one value in [0, 1] a label, or label indices "
            f"({len(logits)}, k); got {tuple(target.shape)} {target.dtype}."
        )
    inside = ((target >= 0) & (target <= 1)).all(1) | ~kept
    if (validate or not target.is_floating_point()) and known(inside.all(), validate) is False:
        raise ValueError(f"{where}: target must lie in [0, 1], one value a label; got other values.")

    def sums(z: Tensor, rows: Tensor) -> Tensor:
        pools = Pools(len(rows), z.numel(), z.device, size=z.shape[1])
        weight = None if label_weight is None else label_weight.expand_as(z).reshape(-1)
        return log_side_sums(z.reshape(-1), target[rows].reshape(-1), weight, pools, 1.0)

    def positives() -> Tensor:
        return (target if label_weight is None else target * label_weight).sum(1)

    return sums, positives
