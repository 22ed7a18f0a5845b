"""The loss of a linear layer's output from its input, for so many classes that the logits are too much to hold."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from equilog.functional import Reduction, check_reduction
from equilog.layer import as_layer
from equilog.mass import ClassMass
from equilog.part import Group

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
    pool: str | int | Tensor | None = None,
    scale: float = 1.0,
    prior: Tensor | None = None,
    prior_strength: float = 1.0,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    class_mass: ClassMass | None = None,
    process_group: Group = None,
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
        class_mass: the mass of the whole that this call is a part of, from `linear_class_mass` of every part; as in
            `log_balanced_cross_entropy`.
        process_group: as in `log_balanced_cross_entropy`.
        chunk_rows: number of sets >= 1 whose logits are there together. None is D / 2, but at most 1024: the logits of
            a chunk and their gradient then take no more memory than `weight`.
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
    where = "linear_log_balanced_cross_entropy"
    check_reduction(where, reduction)
    layer = as_layer(
        where,
        hidden,
        weight,
        target,
        bias,
        pool=pool,
        scale=scale,
        prior=prior,
        prior_strength=prior_strength,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        chunk_rows=chunk_rows,
        validate=validate,
    )
    return layer.loss(
        where,
        class_mass=class_mass,
        process_group=process_group,
        reduction=reduction,
        compensation="weight",
        group_weight=layer.of_each_class(where, class_weight, validate=validate),
        validate=validate,
    )


@uncompiled
def linear_class_mass(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    *,
    pool: str | int | Tensor | None = "batch",
    scale: float = 1.0,
    prior: Tensor | None = None,
    prior_strength: float = 1.0,
    sample_weight: Tensor | None = None,
    ignore_index: int = -100,
    chunk_rows: int | None = None,
    validate: bool = False,
) -> ClassMass:
    r"""What a call of `linear_log_balanced_cross_entropy` adds to a loss over several micro-batches, ranks or steps.

    As `class_mass` of the logits. Masses of both functions merge.

    Args:
        hidden: as the loss's.
        weight: as the loss's.
        target: as the loss's.
        bias: as the loss's.
        pool: as the loss's; "batch" makes one pool of all the parts.
        scale: as the loss's.
        prior: as the loss's.
        prior_strength: as the loss's.
        sample_weight: as the loss's.
        ignore_index: as the loss's.
        chunk_rows: as the loss's.
        validate: as the loss's.

    Returns:
        A `ClassMass`, without gradient.

    Example:
        >>> hidden, weight, target = torch.zeros(4, 2), torch.zeros(3, 2), torch.tensor([0, 0, 1, 2])
        >>> linear_class_mass(hidden, weight, target).log_mass.exp()  # 1 + 2 for each set
        tensor([5., 3., 3.])
    """
    with torch.no_grad():
        layer = as_layer(
            "linear_class_mass",
            hidden,
            weight,
            target,
            bias,
            pool=pool,
            scale=scale,
            prior=prior,
            prior_strength=prior_strength,
            sample_weight=sample_weight,
            ignore_index=ignore_index,
            chunk_rows=chunk_rows,
            validate=validate,
        )
        return layer.mass()
