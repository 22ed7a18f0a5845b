"""A linear layer with its targets and the logs that its sets meet in; its loss, a chunk of logits at a time."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from equilog.core.chunks import Chunks, Head
from equilog.core.grouping import GroupSums, LogTerms
from equilog.core.pool_state import ClassMass, ProcessGroup, as_process_group
from equilog.core.pool_sums import PoolSums, part_of
from equilog.core.sparse_groups import Groups
from equilog.inputs.options import CLASS_MASS, Options
from equilog.inputs.values import check_is_tensor, known

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


_ROWS = {"cpu": (1, 1024), "cuda": (256, 4096)}
"""With fewer rows than the first products of matrices are slow, with more than the second no faster.

A chunk also adds once to the whole gradient of the weight, which of all that a GPU does takes the longest to read."""


@dataclass(frozen=True)
class Layer:
    """A linear layer and its targets, checked, and the logs that its sets meet in."""

    inputs: tuple[Tensor, Tensor, Tensor | None, Tensor]
    """Hidden (n, D), weight (C, D), bias with the prior (C,) and log sample weight (n, ...), as autograd knows them.

    Where labels are the rows, their matrix is in the place of hidden, and the samples' hidden in that of weight.
    """
    head: Head
    chunks: Chunks
    empty: PoolSums
    """The part while no log terms are known."""
    slot: Tensor | None
    """(n,) which of the logs of its pool each set is in; None where each has one column of log terms a log."""
    slots: int
    of_logits: str
    """The same loss from logits, for error texts."""
    groups: Groups | None = None
    """The groups of the sums where they are not all there are."""
    residual: Tensor | None = None
    """(P, G) what the best scores leave of the sums, for soft targets that are compensated."""

    @property
    def spans(self) -> bool:
        """Whether one pool spans all parts."""
        return self.empty.layout.spans

    @property
    def learns(self) -> bool:
        """Whether anything asks for a gradient."""
        return torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in self.inputs)

    def log_terms(self, chunks: tuple[Tensor, ...]) -> Tensor:
        """Return the log terms plus log weights (n, ...) of these rows, minus infinity for all others."""
        log_weight = self.inputs[3].detach()
        log_terms = torch.full_like(log_weight, -torch.inf)
        for rows in chunks:
            log_terms[rows] = self.head.log_terms(rows) + log_weight[rows]
        return log_terms

    def part(self, log_terms: Tensor) -> PoolSums:
        """Return the part that these log terms (n, ...) make."""
        pools, slot = self.empty.samples.pools, self.slot
        if slot is None:
            return replace(self.empty, make_sums=lambda: GroupSums(pools.log_sums(log_terms), residual=self.residual))
        terms = LogTerms(log_terms[:, None], slot, self.slots)
        no_more_weight = log_terms.new_zeros(len(log_terms))
        return replace(self.empty, make_sums=lambda: GroupSums(terms.pooled(pools, no_more_weight), self.groups))

    def loss(self, options: Options, class_mass: ClassMass | None, process_group: ProcessGroup) -> Tensor:
        """Return the loss of the whole that these sets are a part of, its gradients formed a chunk at a time.

        Or their class mass, where the options ask for that; where they have pools of their own, no logits are made for
        it.
        """
        if options.reduction == CLASS_MASS:
            return cast(Tensor, self.part(self.log_terms(self.chunks.all if self.spans else ())).mass())
        at_once = self.learns and options.reduction != "none"
        # The mass of a pool over several ranks takes all log terms before the first gradient.
        gathers = self.spans and class_mass is None and as_process_group(options.where, process_group) is not None
        if gathers or not at_once:
            beforehand = self.chunks.all
        else:
            beforehand = () if self.spans and class_mass is not None else self.chunks.open
        with torch.no_grad():
            log_terms = self.log_terms(beforehand)
            whole, factor = part_of(options, self.part(log_terms), class_mass, process_group)

        def loss(log_terms: Tensor) -> Tensor:
            return self.part(log_terms).loss(options, whole=whole, factor=factor)

        value: Tensor = ChunkedLoss.apply(*self.inputs, self, loss, log_terms, at_once)  # type: ignore[no-untyped-call]
        return value


class ChunkedLoss(torch.autograd.Function):
    """The loss of a layer. Gradients of one number are formed with it, those of several when it is known what for."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        log_weight: Tensor,
        layer: Layer,
        loss: Callable[[Tensor], Tensor],
        log_terms: Tensor,
        at_once: bool,
    ) -> Tensor:
        """Return the value, given the log terms (n,) of the rows that must be known before the others."""
        ctx.at_once, ctx.of_logits = at_once, layer.of_logits
        if at_once:
            slopes = torch.zeros_like(log_terms)

            def slope(rows: Tensor, of_rows: Tensor) -> Tensor:
                log_terms[rows] = of_rows + log_weight[rows]
                slopes[rows] = _slopes(loss, log_terms)[rows]
                return slopes[rows]

            gradients = layer.head.gradients(layer.chunks.all, slope, ctx.needs_input_grad)
            ctx.save_for_backward(*_like(gradients, (hidden, weight, bias)), slopes)
        else:
            ctx.save_for_backward(hidden, weight, bias, log_terms)
            ctx.layer, ctx.loss = layer, loss
        return loss(log_terms)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients times what flows back."""
        if torch.is_grad_enabled():
            raise RuntimeError(
                f"linear_{ctx.of_logits}: its gradients cannot be differentiated again, as create_graph=True asks. Use "
                f"{ctx.of_logits}(torch.nn.functional.linear(hidden, weight, bias), target)."
            )
        if ctx.at_once:
            gradients = tuple(
                None if value is None else value * upstream.to(value.dtype) for value in ctx.saved_tensors
            )
        else:
            *inputs, log_terms = ctx.saved_tensors
            slopes = _slopes(ctx.loss, log_terms, upstream)
            gradients = ctx.layer.head.gradients(
                ctx.layer.chunks.all, lambda rows, _: slopes[rows], ctx.needs_input_grad
            )
            gradients = (*_like(gradients, inputs), slopes)
        return *gradients, None, None, None, None


def _slopes(loss: Callable[[Tensor], Tensor], log_terms: Tensor, upstream: Tensor | None = None) -> Tensor:
    """Return the gradient of the loss with respect to the log terms (n,): to the log odds, and to the log weights."""
    with torch.enable_grad():
        log_terms = log_terms.detach().requires_grad_()
        (slopes,) = torch.autograd.grad(loss(log_terms), log_terms, upstream)
    return slopes


def _like(values: Sequence[Tensor | None], inputs: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """Return each value in the dtype of its input."""
    return tuple(
        None if value is None or like is None else value.to(like.dtype)
        for value, like in zip(values, inputs, strict=True)
    )


def as_head(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: float,
    from_logits: Callable[[Tensor, Tensor], Tensor],
    *,
    shifts_rows: bool = False,
    takes_products: bool = False,
) -> Head:
    """Return the layer's logits as autograd does not know them, and in the dtype of their product."""
    dtype = _product_dtype(rows)
    return Head(
        rows.detach().to(dtype),
        weight.detach().to(dtype),
        None if bias is None else bias.detach(),
        scale,
        from_logits,
        shifts_rows=shifts_rows,
        takes_products=takes_products,
    )


def rows_of_a_chunk(where: str, chunk_rows: int | None, features: int, device: torch.device) -> int:
    """Return the number of rows that a `chunk_rows` argument asks for."""
    if chunk_rows is None:
        least, most = _ROWS.get(device.type, _ROWS["cpu"])
        return max(min(features // 2, most), least)
    if not chunk_rows >= 1:
        raise ValueError(f"{where}: chunk_rows must be at least 1, or None; got {chunk_rows}.")
    return chunk_rows


def _product_dtype(hidden: Tensor) -> torch.dtype:
    """Return the dtype that autocast, where it is on, would make a product of matrices in."""
    device = hidden.device.type
    if hidden.dtype != torch.float64 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return hidden.dtype


def check_layer(
    where: str,
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    *,
    per_output: str,
    validate: bool,
) -> torch.Size:
    """Return the shape of the sets, or raise; `per_output` is the argument that `weight` may be mistaken for."""
    tensors = {"hidden": hidden, "weight": weight, "target": target} | ({} if bias is None else {"bias": bias})
    for name, values in tensors.items():
        check_is_tensor(where, name, values)
        if name != "target" and not values.is_floating_point():
            raise TypeError(f"{where}: {name} must be floating point, not {values.dtype}; call {name}.float().")
    if weight.dim() != 2 or len(weight) == 0:
        raise ValueError(
            f"{where}: weight must be (C, D), the matrix of the linear layer; got {tuple(weight.shape)}. Weights of "
            f"its outputs are {per_output}."
        )
    classes, features = weight.shape
    if hidden.dim() == 0 or hidden.shape[-1] != features:
        raise ValueError(
            f"{where}: hidden must be (N, ..., {features}), features last, to match weight {tuple(weight.shape)}; got "
            f"{tuple(hidden.shape)}."
        )
    if hidden.dtype != weight.dtype and not torch.is_autocast_enabled(hidden.device.type):
        raise TypeError(
            f"{where}: hidden and weight must be of one dtype; got {hidden.dtype} and {weight.dtype}. Use "
            f"torch.autocast, or hidden.to(weight.dtype)."
        )
    if bias is not None and bias.shape != (classes,):
        raise ValueError(f"{where}: bias must be ({classes},), one value a class; got {tuple(bias.shape)}.")
    shape = hidden.shape[:-1]
    if validate:
        for name, values in (("hidden", hidden), ("weight", weight)):
            if known(values.isfinite().all(), True) is False:
                raise ValueError(f"{where}: {name} holds NaN or infinity.")
        if bias is not None and known((bias.isnan() | (bias == torch.inf)).any(), True):
            raise ValueError(f"{where}: bias holds NaN or +inf. Only -inf is allowed; it leaves a class out.")
    return shape


def with_known_units(layer: Layer, holds: Tensor) -> Layer:
    """Return the layer with what the mean divides by, known before any logit.

    holds: (n, ...) 0 where a set adds a term to a log, minus infinity where it does not.
    """
    return replace(layer, empty=replace(layer.empty, known_units=layer.part(holds).mean_units()))
