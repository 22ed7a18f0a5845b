"""A linear layer with its targets and the logs that its sets meet in; its loss, a chunk of logits at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from equilog.chunked import Chunks, Head, as_chunks
from equilog.functional import Reduction, check_scale, spans
from equilog.indexed import as_index_sets
from equilog.kernels import log_odds_against_label, log_sums
from equilog.mass import ClassMass
from equilog.occupied import Groups
from equilog.part import Group, Part, as_group, whole_of
from equilog.pooling import Pools, as_pools
from equilog.prior import with_prior
from equilog.targets import as_compute_dtype, class_vector, known

_MOST_ROWS = 1024
"""Products of matrices gain nothing from more rows than this."""


@dataclass(frozen=True)
class Layer:
    """A linear layer and its targets, checked, and the logs that its sets meet in."""

    inputs: tuple[Tensor, Tensor, Tensor | None, Tensor]
    """Hidden (n, D), weight (C, D), bias with the prior (C,) and log sample weight (n, ...), as autograd knows them."""
    head: Head
    chunks: Chunks
    empty: Part
    """The part while no log terms are known."""
    of_logits: str
    """The same loss from logits, for error texts."""

    @property
    def spans(self) -> bool:
        """Whether one pool spans all parts."""
        return self.empty.layout.spans

    @property
    def learns(self) -> bool:
        """Whether anything asks for a gradient."""
        return torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in self.inputs)

    def log_terms(self, chunks: tuple[Tensor, ...]) -> Tensor:
        """Return the log terms plus log weights (n, ...) of these rows, minus infinity for all others."""
        log_weight = self.inputs[3].detach()
        log_terms = torch.full_like(log_weight, -torch.inf)
        for rows in chunks:
            log_terms[rows] = self.head.log_terms(rows) + log_weight[rows]
        return log_terms

    def part(self, log_terms: Tensor) -> Part:
        """Return the part that these log terms (n, ...) make."""
        raise NotImplementedError

    def mass(self) -> ClassMass:
        """Return what these sets add to a whole; where they have pools of their own, no logits are made for it."""
        return self.part(self.log_terms(self.chunks.all if self.spans else ())).mass()

    def loss(
        self,
        where: str,
        *,
        class_mass: ClassMass | None,
        process_group: Group,
        reduction: Reduction,
        compensation: str | None = None,
        group_weight: Tensor | None = None,
        validate: bool,
    ) -> Tensor:
        """Return the loss of the whole that these sets are a part of, its gradients formed a chunk at a time."""
        at_once = self.learns and reduction != "none"
        # The mass of a pool over several ranks takes all log terms before the first gradient.
        gathers = self.spans and class_mass is None and as_group(where, process_group) is not None
        if gathers or not at_once:
            beforehand = self.chunks.all
        else:
            beforehand = () if self.spans and class_mass is not None else self.chunks.open
        with torch.no_grad():
            log_terms = self.log_terms(beforehand)
            whole, factor = whole_of(where, self.part(log_terms), class_mass, process_group, validate=validate)

        def loss(log_terms: Tensor) -> Tensor:
            return self.part(log_terms).loss(
                whole=whole, factor=factor, compensation=compensation, group_weight=group_weight, reduction=reduction
            )

        value: Tensor = ChunkedLoss.apply(*self.inputs, self, loss, log_terms, at_once)  # type: ignore[no-untyped-call]
        return value


@dataclass(frozen=True)
class ClassLayer(Layer):
    """A layer whose sets each choose one class, and meet in one log a class and pool."""

    column: Tensor
    """(n,) which of the logs of its pool each set is in."""
    logs: int
    """How many logs a pool has at most."""

    def part(self, log_terms: Tensor) -> Part:
        """Return the part that these log terms (n,) make."""
        return replace(self.empty, log_sums=log_sums(log_terms[:, None], self.empty.pools, self.column, self.logs))

    def of_each_class(self, where: str, class_weight: Tensor | None, *, validate: bool) -> Tensor | None:
        """Return the factor on the log of each class, or None."""
        if class_weight is None:
            return None
        like = self.empty.log_sums.new_empty(0, len(self.head.weight))
        return class_vector(where, "class_weight", class_weight, like, positive=False, validate=validate).detach()


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

            def slope(rows: Tensor, found: Tensor) -> Tensor:
                log_terms[rows] = found + log_weight[rows]
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
            gradients = tuple(None if each is None else each * upstream.to(each.dtype) for each in ctx.saved_tensors)
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


def as_layer(
    where: str,
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    *,
    pool: str | int | Tensor | None,
    scale: float,
    prior: Tensor | None,
    prior_strength: float,
    sample_weight: Tensor | None,
    ignore_index: int,
    chunk_rows: int | None,
    validate: bool,
) -> ClassLayer:
    """Return the layer of a call's arguments, or raise."""
    shape = check_layer(where, hidden, weight, target, bias, per_output="class_weight", validate=validate)
    if target.is_floating_point() or target.shape != shape:
        raise ValueError(
            f"{where}: target must be {tuple(shape)} class indices, integers, to match hidden {tuple(hidden.shape)}; "
            f"got {tuple(target.shape)} {target.dtype}. Probabilities need the logits: use log_balanced_cross_entropy."
        )
    check_scale(where, scale)
    classes, features = weight.shape
    size = rows_of_a_chunk(where, chunk_rows, features)
    rows = hidden.reshape(-1, features)
    like = as_compute_dtype(rows.new_empty(0, classes))  # logits of no sets
    shift = None if bias is None else bias.to(like)
    if prior is not None:
        prior = class_vector(where, "prior", prior, like, positive=True, validate=validate)
        shift = with_prior(like.new_zeros(classes) if shift is None else shift, prior, prior_strength)
    sets = as_index_sets(
        where,
        target,
        classes,
        like.dtype,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        validate=validate,
    )
    labels = sets.labels

    pools = as_pools(where, pool, shape, rows.device)
    spanning = spans(pool, shape)
    used = torch.arange(len(labels), device=rows.device) if sets.kept is None else sets.kept.nonzero().squeeze(1)
    logs, log_of = torch.unique(pools.ids[used] * classes + labels[used], return_inverse=True)
    column, most, groups = labels, classes, None
    if not spanning:
        column, of_logs = _columns(pools, logs // classes, logs % classes, used, log_of)
        most, groups = of_logs.shape[1], Groups(of_logs, classes)
    return ClassLayer(
        inputs=(rows, weight, shift, sets.log_weight),
        head=as_head(rows, weight, shift, scale, lambda z, rows: log_odds_against_label(z, labels[rows])),
        chunks=as_chunks(used, log_of, size),
        column=column,
        logs=most,
        empty=sets.part(like, pools, spans=spanning, groups=groups),
        of_logits="log_balanced_cross_entropy",
    )


def as_head(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: float,
    from_logits: Callable[[Tensor, Tensor], Tensor],
) -> Head:
    """Return the layer's logits as autograd does not know them, and in the dtype of their product."""
    dtype = _product_dtype(rows)
    return Head(
        rows.detach().to(dtype),
        weight.detach().to(dtype),
        None if bias is None else bias.detach(),
        scale,
        from_logits,
    )


def rows_of_a_chunk(where: str, chunk_rows: int | None, features: int) -> int:
    """Return the number of rows that a `chunk_rows` argument asks for."""
    if chunk_rows is None:
        return max(min(features // 2, _MOST_ROWS), 1)
    if not chunk_rows >= 1:
        raise ValueError(f"{where}: chunk_rows must be at least 1, or None; got {chunk_rows}.")
    return chunk_rows


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
    given = {"hidden": hidden, "weight": weight, "target": target} | ({} if bias is None else {"bias": bias})
    for name, values in given.items():
        if not isinstance(values, Tensor):
            raise TypeError(
                f"{where}: {name} must be a tensor; got {type(values).__name__}. Wrap it in torch.as_tensor."
            )
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
