"""What the loss modules share: the step that a call is part of, and the state that remembers earlier steps."""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from numbers import Integral
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor
from torch.autograd import Variable

from equilog.calibration import Calibration
from equilog.calibration.base import Kind
from equilog.calibration.correction import Correction
from equilog.calibration.pooled import PooledCalibration
from equilog.core.inner import INNERS
from equilog.core.pool_state import ClassMass, Layout, ProcessGroup, as_process_group, numbers_in, sets_in
from equilog.core.pool_sums import PoolSums, part_of
from equilog.core.pools import Pools
from equilog.error_text import did_you_mean
from equilog.inputs.options import Options
from equilog.inputs.values import as_vector, class_vector
from equilog.losses.criterion import Criterion
from equilog.losses.plain import PlainSums
from equilog.losses.recomputation import Computation, Remembered, first_computation, keep, within_backward
from equilog.ops import compute_dtype, is_transformed, log_expm1, log_one_plus, precise


class PooledCriterion(Criterion):
    """A loss whose sets share logs.

    A running prior and a stream are state: buffers that have their full shape from construction and never change shape
    or precision, so that averaging, checkpoints and sharding treat them as any other. Without them there is none.

    A training step is a call in training mode whose logits require a gradient: only that is remembered. Calls under
    torch.func transformations are not. Where the call is computed once more within a backward pass (activation
    checkpointing), it is computed with what was remembered before the first time, and not remembered again. A reentrant
    checkpoint computes first without gradient, so its calls are remembered at the end of the backward pass.
    """

    options: Options
    prior: Tensor | None
    """The class frequencies, where they were given."""
    class_count: Tensor | None
    """The float64 count of the targets of training steps, where prior is "auto"."""
    pool_ids: Tensor | None
    """The ids of the pools, where they were given."""
    stream: Tensor | None
    """The moving class mass of a stream: log(1 + sum) of each group, and the other numbers of a `ClassMass`."""
    _streams: ClassVar[dict[str, str]] = {"stream": "batch"}
    """The pools that go on over the steps, and what they are in one."""
    _unit: ClassVar[tuple[str, str]] = ("class", "classes")
    """What a number is for, one and several."""

    def __init__(self, options: Options, *, size: int | None, momentum: float, process_group: ProcessGroup) -> None:
        """Make a loss of `size` classes or labels, where that is known."""
        super().__init__()
        name = type(self).__name__
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"{name}: momentum must lie in [0, 1); got {momentum}.")
        if size is not None and (not isinstance(size, Integral) or not size >= 1):
            raise ValueError(f"{name}: num_{self._unit[1]} must be an integer, at least 1; got {size!r}.")
        self.options = options
        self.momentum = momentum
        self.process_group = process_group
        self._last_step: tuple[Tensor | int, Tensor | int] | None = None

    def extra_repr(self) -> str:
        """Show the pool."""
        return f"pool={self.options.pool!r}, scale={self.options.scale!r}, reduction={self.options.reduction!r}"

    @property
    def streams(self) -> bool:
        """Whether the sets of earlier steps stand in the pool."""
        return isinstance(self.options.pool, str) and self.options.pool in self._streams

    @property
    def effective_sets(self) -> float:
        """Number of sets that share a log: the stream's, n / (1 - momentum) in the long run, or a pool's; 0 before."""
        if self.stream is None:
            return self.trained_pool_size or 0.0
        return float(sets_in(self.stream, self._stream_layout)) / self._stream_layout.pools

    @property
    def trained_pool_size(self) -> float | None:
        """Mean number of kept sets in a pool, in the last training step of this process; None before the first."""
        if self._last_step is None:
            return None
        sets, pools = self._last_step
        return float(sets) / max(float(pools), 1.0)

    def scores(self, logits: Tensor, kind: Kind = "balanced") -> Tensor:
        """Return scores of the logits' shape, without a calibration; RuntimeError where only one knows them."""
        return self.uncalibrated().scores(logits, kind)

    def calibration_from(self, state: dict[str, Tensor]) -> Calibration:
        """Return the calibration that has this state, its `state_dict`."""
        return PooledCalibration.from_state_dict(state)

    def class_mass(self, logits: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> ClassMass:
        """Return what these sets add to a step of several parts; nothing is remembered."""
        raise NotImplementedError

    @torch.no_grad()
    def note(self, step: ClassMass) -> None:
        """Take the class mass of a whole step into what is remembered: running prior and stream.

        A training step does so by itself, unless it was told by `class_mass` that it is one part of a step. Then this
        is to be called once, when the step is done.
        """
        self._see_pools(step.sets, step.pools)
        self._count(lambda: step.class_count)
        if self.stream is not None:
            self.stream.copy_(_as_state(self._within_stream(step, self.stream)))

    def whole(self, part: ClassMass) -> ClassMass:
        """Return the mass of the whole step from that of all this process's sets: merged over `process_group`."""
        group = as_process_group(type(self).__name__, self._step_group)
        return part if group is None else part.all_reduce(group, validate=self.options.validate)

    @property
    def _step_group(self) -> ProcessGroup:
        return self.process_group if self.training else None

    def _loss_of_call(
        self,
        options: Options,
        logits: Tensor,
        target: Tensor,
        class_mass: ClassMass | None,
        sums: Callable[[Tensor | None], PoolSums | PlainSums],
    ) -> Tensor:
        """Return the loss of a call from its pools' sums for a shift of the logits, and remember a training step."""
        remembered = self._remembered(logits)
        is_step = self.training and logits.requires_grad and torch.is_grad_enabled() and not is_transformed(logits)
        moves = is_step and self._has_state and not torch.compiler.is_compiling()
        group = as_process_group(options.where, self._step_group)
        by_itself = remembered.stream is None and class_mass is None and group is None
        again = moves and within_backward()
        if again:

            def outcome_of(one: Remembered) -> Tensor:
                part = sums(one.shift)
                return part.loss(options) if by_itself else part.sums.log_sums

            first = first_computation(self, logits, target, outcome_of)
            is_step = first is None
            remembered = remembered if first is None else first.remembered
        part = sums(remembered.shift)
        whole, factor = part_of(options, part, class_mass, group)
        step = whole
        weighted: Tensor | float = factor
        if remembered.stream is not None:
            step = part.mass() if step is None else step
            # The stream stands for a batch of all its sets, of which this step is a sample: its gradient is scaled up.
            whole = self._within_stream(step, remembered.stream)
            weighted = factor * (whole.sets / step.sets.clamp(min=1))
        loss = part.loss(options, whole=whole, factor=weighted, streams=remembered.stream is not None)
        if moves and not again:
            outcome = loss if by_itself else part.sums.log_sums
            keep(self, loss, Computation(remembered, outcome.detach(), logits.shape, target.data_ptr()))
        if not is_step or class_mass is not None:
            return loss
        if again:  # other calls of the pass are yet to be computed, with what is remembered now
            Variable._execution_engine.queue_callback(partial(self.note, part.mass() if step is None else step))
        elif step is not None:
            self.note(step)
        else:  # with nothing to share, the sums of the pools need not be known apart from the loss
            self._count(part.class_count)
            if not isinstance(self.options.pool, int):
                self._see_pools(part.kept_sets(), part.nonempty_pools())
        return loss

    def _call_options(self) -> Any:
        """The options of one call by itself: of a stream, the pools of each call whole."""
        if self.pool_ids is not None:
            return replace(self.options, pool=self.pool_ids)
        return replace(self.options, pool=self._streams[str(self.options.pool)]) if self.streams else self.options

    def _remembered(self, logits: Tensor) -> Remembered:
        """Return a copy of the state that the loss depends on."""
        stream = self.stream
        return Remembered(self._shift(logits), None if stream is None else stream.clone())

    def current_prior(self) -> Tensor | None:
        """Return the prior that the loss adds to the logits, or None."""
        raise NotImplementedError

    def _log_prior(self, prior: Tensor, logits: Tensor) -> Tensor:
        """Return what a prior that was given adds to logits, in the type that these are computed in."""
        raise NotImplementedError

    def _log_of_prior(self, prior: Tensor) -> Tensor:
        """Return what a prior adds to logits, at strength 1."""
        raise NotImplementedError

    def _running_log_prior(self, log_counts: Tensor) -> Tensor:
        """Return the log of the current prior from that of the counts, of one more of each."""
        return log_counts

    def _shift(self, logits: Tensor) -> Tensor | None:
        """Return what the loss adds to logits (N, C, ...), or (C,), or None."""
        counts = self.class_count
        if counts is None:
            return None if self.prior is None else self._log_prior(self.prior, logits)
        self._check_size("the running prior counts", len(counts), logits.shape[min(logits.dim() - 1, 1)])
        log_prior = self._running_log_prior(counts.log1p())
        if self.options.prior_strength != 1.0:
            log_prior = self.options.prior_strength * log_prior
        return log_prior.to(logits.device, compute_dtype(logits))

    def _check_size(self, what: str, held: int | None, met: int) -> None:
        """Raise ValueError unless the logits are of as many classes or labels as what is remembered."""
        if held != met:
            raise ValueError(
                f"{type(self).__name__}: {what} {held} {self._unit[1]}, but logits have {met}. Say "
                f"num_{self._unit[1]}={met}."
            )

    def _count(self, class_count: Callable[[], Tensor]) -> None:
        """Take the number of sets of each class into what is remembered, where there is a running prior."""
        count = self.class_count
        if count is not None:
            count.add_(class_count().view_as(count))

    def uncalibrated(self) -> Calibration:
        """Return what logits say as far as the loss alone knows: the posterior in pools of one, and of "divergence"."""
        inner = INNERS[self.options.inner]
        alone = isinstance(self.options.pool, int) and self.options.pool == 1
        prior = self.current_prior()
        shift = None if prior is None else self.options.prior_strength * self._log_of_prior(prior)
        if alone and self._has_log_a_class:
            correction = self._correction_alone(shift) if inner.gentle else None
            return self._calibration(1.0, shift, correction, balanced_by_prior=True, alone=True)
        factor = 1.0 if alone else inner.index_factor
        knows = inner.separate
        return self._calibration(factor, shift, None, balanced_by_prior=False, knows_posterior=knows)

    @property
    def _has_log_a_class(self) -> bool:
        """Whether a pool has one log for each class."""
        return True

    def _correction_alone(self, shift: Tensor | None) -> Correction | None:
        """Return what the posterior of a gentle term adds to the scores of sets alone in their pools."""
        raise NotImplementedError

    def _unweighted(self) -> Tensor | None:
        """Return what takes the weights of the logs off the posterior scores; None where there are none."""
        raise NotImplementedError

    def _calibration(
        self,
        factor: float,
        shift: Tensor | None,
        correction: Correction | None,
        *,
        balanced_by_prior: bool,
        alone: bool = False,
        knows_posterior: bool = True,
    ) -> Calibration:
        """Return the calibration of a loss with this shift, log prior.

        Balanced scores are the bare logits, times the factor. Where the classes overlap, though, prior and class mass
        balance both, which is too much; and with soft targets, whose factor is 2, the prior would come off twice. So
        where the posterior is known the balanced scores of a loss with a prior are the posterior's with just the prior
        taken off. So are they in pools of one, which balance nothing.
        """
        taken_off = None
        if balanced_by_prior and (shift is not None or alone or self.options.pool == 1):
            taken_off = torch.zeros(1) if shift is None else shift
        if correction is None and alone:
            factor = 1.0
        return PooledCalibration(
            factor=factor,
            scale=self.options.scale,
            shift=shift,
            correction=correction,
            offset=None if INNERS[self.options.inner].separate else self._unweighted(),
            taken_off=taken_off,
            knows_posterior=knows_posterior,
            multilabel=self.multilabel,
        )

    def _calibrated_pool_size(self, pool_size: float | None, kept: int, sets: int, pools: Pools) -> int:
        """Return how many sets a pool had in training, with as many ignored as among these to draw from."""
        pool = self.options.pool
        if isinstance(pool, int):
            return pool
        size = pool_size or self.effective_sets
        if not size:
            if pool in ("batch", "label") or (pool is None and pools.positions == 1):
                raise ValueError(
                    f"{type(self).__name__}.calibrate: how many sets shared a log in training is not known here; say "
                    f"pool_size=, the number of rows of a training batch."
                )
            size = kept / max(pools.count, 1)
        return max(1, round(size * sets / max(kept, 1)))

    def _see_pools(self, sets: Tensor | int, pools: Tensor | int) -> None:
        """Keep in mind how large pools are, which calibration asks for; as tensors, so that no GPU is waited for."""
        if not torch.compiler.is_compiling():
            self._last_step = sets, pools

    @property
    def _has_state(self) -> bool:
        """Whether a step leaves anything in the state."""
        buffers = self._buffers
        return buffers.get("class_count") is not None or buffers.get("stream") is not None

    def _within_stream(self, step: ClassMass, stream: Tensor) -> ClassMass:
        layout, met = self._stream_layout, step.layout
        if len(stream) != len(step.packed()):
            sizes = (layout.pools, met.pools) if self.multilabel else (layout.classes, met.classes)
            self._check_size("the stream is one of", *sizes)
        return _from_state(step, stream).decayed(self.momentum).merge(step)

    def _register_prior(self, prior: Any, size: int | None, *shape: int, streams: bool) -> None:
        """Make the buffers of the prior that was given, or of the counts of a running one, `shape` for each class.

        streams: whether the shape of the stream depends on the size too.
        """
        name, (unit, units) = type(self).__name__, self._unit
        counts = isinstance(prior, str)
        if counts and prior != "auto":
            raise ValueError(f'{name}: prior must be ({unit[0].upper()},) numbers, "auto" or None; got {prior!r}.')
        if size is None and (counts or streams):
            what = 'prior "auto" counts' if counts else f'pool "{self.options.pool}" sums up'
            raise ValueError(
                f"{name}: {what} the targets of each {unit}, for which num_{units} must be known; got None. Say "
                f"{name}(num_{units}=...), the size of the logits' dimension 1."
            )
        self.register_buffer("prior", None if counts else self._own_prior(prior, size))
        count = torch.zeros(size or 0, *shape, dtype=torch.float64) if counts else None
        self.register_buffer("class_count", count)

    def _own_prior(self, prior: Any, size: int | None) -> Tensor | None:
        """Return a copy of the prior that is given, checked, to be a buffer of this module; None stays None."""
        return own_class_buffer(type(self).__name__, "prior", prior, size, positive=True)

    def _register_stream(self, groups: int, layout: Layout) -> None:
        """Make the buffer of the stream, where the pool is one, of steps of this layout and G groups a pool."""
        self._stream_layout = layout
        numbers = numbers_in(groups, layout.classes, layout)
        self.register_buffer("stream", torch.zeros(numbers, dtype=torch.float64) if self.streams else None)

    def reset_parameters(self) -> None:
        """Forget all earlier steps. torch calls it by this name, of modules that were made on the meta device."""
        for name in _STATE:
            if (buffer := self._buffers.get(name)) is not None:
                buffer.zero_()

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """Move the buffers, but keep their precision: counts, sums and frequencies are no activations."""
        buffers = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        moved = {name: _moved(buffer, fn, name in _STATE) for name, buffer in buffers.items()}
        self._buffers.update(dict.fromkeys(buffers))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._buffers.update(moved)
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a buffer that comes from nowhere is state of no steps.

        transformers makes a model on the meta device and then sets its buffers: to those of the checkpoint, which it
        marks, and where the checkpoint has none to memory as it happens to be.
        """
        buffer = self.__dict__.get("_buffers", {}).get(name)
        super().__setattr__(name, value)
        if buffer is not None and buffer.is_meta and not getattr(value, "_is_hf_initialized", False):
            _fill(value, name in _STATE)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load as any module does; what a checkpoint from before the swap has not is left as it is."""
        if local_metadata.get("assign_to_params_buffers"):
            for name, buffer in self._buffers.items():
                loaded = state_dict.get(prefix + name)
                if buffer is not None and buffer.is_meta and loaded is not None:
                    self._buffers[name] = torch.empty_like(buffer, device=loaded.device)  # to be set to what is loaded
        missing: list[str] = []
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected_keys, error_msgs)
        missing_keys += [name for name in missing if name.removeprefix(prefix) not in self._buffers]


_STATE = ("class_count", "stream")


def _moved(buffer: Tensor, fn: Callable[..., Any], is_state: bool) -> Tensor:
    """Return a buffer where `fn` moves it, in its own precision or the best that the device has."""
    try:
        moved: Tensor = fn(buffer)
    except TypeError:  # a device without float64
        moved = fn(buffer.float())
    except NotImplementedError:  # torch has nothing to move from the meta device
        if not buffer.is_meta:
            raise
        moved = torch.empty_like(buffer, device=fn(torch.empty(0)).device)
    if moved.device == buffer.device:
        return moved if moved.dtype == buffer.dtype else buffer
    if buffer.is_meta:
        return _fill(moved, is_state)
    if moved.dtype == buffer.dtype:
        return moved
    return buffer.to(moved.device, precise(moved.device) if buffer.dtype == torch.float64 else buffer.dtype)


def _fill(buffer: Tensor, is_state: bool) -> Tensor:
    """Fill a buffer whose values are lost: state of no steps, or NaN, which no loss takes for a prior or a weight."""
    with torch.no_grad():
        return buffer.zero_() if is_state or not buffer.is_floating_point() else buffer.fill_(torch.nan)


_Options = TypeVar("_Options", bound=Options)


def options_of_module(kind: type[_Options], name: str, options: dict[str, Any]) -> _Options:
    """Return the checked options of the module of this name; TypeError for one that there is not."""
    known = [field.name for field in fields(kind) if field.init and field.name != "where"]
    for option in options:
        if option not in known:
            raise TypeError(f'{name}: there is no option "{option}". {did_you_mean(option, known)}')
    return kind(where=name, **options)


def own_buffer(name: str, what: str, values: Any) -> Tensor | None:
    """Return a copy of numbers that a module is given, to be a buffer of its own; None stays None."""
    return None if values is None else as_vector(name, what, values).detach().clone()


def own_class_buffer(name: str, what: str, values: Any, num_classes: int | None, *, positive: bool) -> Tensor | None:
    """Return a copy of one number a class, checked, to be a buffer of its own; None stays None."""
    buffer = own_buffer(name, what, values)
    if buffer is not None:
        like = torch.empty(0, buffer.numel() if num_classes is None else num_classes, device=buffer.device)
        class_vector(name, what, buffer, like, positive=positive, validate=True)
    return buffer


def _as_state(mass: ClassMass) -> Tensor:
    packed, groups = mass.packed(), len(mass.log_sums)
    return torch.cat((log_one_plus(packed[:groups]), packed[groups:]))


def _from_state(like: ClassMass, state: Tensor) -> ClassMass:
    groups = len(like.log_sums)
    return like.unpacked(torch.cat((log_expm1(state[:groups]), state[groups:])))
