"""Gradient accumulation that is exact: several micro-batches make one large batch, in two passes.

The sets of a step meet only in the class mass. A first pass without gradient gathers it; a second back-propagates each
micro-batch's share of the whole. Both passes see the same dropout, and buffers such as batch-norm's running statistics
move once. Costs one more forward pass, and the memory of one micro-batch.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from equilog.core.pool_state import ClassMass
from equilog.losses.base import PooledCriterion

MicroBatch = TypeVar("MicroBatch")
Loss = Callable[..., Tensor]
"""Called like the criterion: loss(logits, target, ...)."""


def accumulate(
    call: Callable[[Loss, MicroBatch], Tensor],
    criterion: PooledCriterion,
    micro_batches: Iterable[MicroBatch],
    *,
    model: nn.Module | None = None,
    backward: Callable[[Tensor], Any] = Tensor.backward,
    loss_scale: float = 1.0,
) -> Tensor:
    """Back-propagate the loss of all micro-batches together, holding the activations of one at a time.

    The gradients are those of one call with all the sets, whatever the lengths of the micro-batches; so are running
    prior and stream, which count the step once. Over several ranks (`process_group` of the criterion) the whole is
    that of all ranks' micro-batches, with one all-reduce of the class mass and one of the gradients. Follow it with
    the optimizer's step.

    Args:
        call: (loss, micro-batch) -> scalar, the usual line with the criterion named by its first argument, such as
            `lambda loss, batch: loss(model(batch[0]), batch[1])`. Called twice a micro-batch.
        criterion: an equilog module, of reduction "mean" or "sum".
        micro_batches: at least one, of any lengths, held in memory together.
        model: whose buffers are put back after the first pass; if it is wrapped for data parallelism (it has
            `no_sync`), gradients are exchanged after the last micro-batch only. None where it has no buffers that a
            forward pass changes.
        backward: what back-propagates: `accelerator.backward`, Lightning's `manual_backward`, or
            `lambda loss: scaler.scale(loss).backward()`.
        loss_scale: factor on what `backward` gets, to make up for a `backward` that divides.

    Returns:
        The loss of the whole, 0-d, without gradient. Pools that lie within their call ("sample", an int) are meant
        over ranks only when averaged over them.

    Raises:
        ValueError: no micro-batches, or a `call` whose result is not a scalar.

    Limits:
        Batch normalisation in training mode normalises by each micro-batch's own statistics, here as in every
        accumulation. Random numbers are replayed for the CPU and the current kind of accelerator. Fully sharded
        models need the same number of micro-batches on every rank.

    Example:
        >>> from equilog import LogBalancedCrossEntropyLoss
        >>> model, criterion = torch.nn.Linear(4, 3), LogBalancedCrossEntropyLoss()
        >>> x, target = torch.randn(12, 4), torch.arange(12) % 3
        >>> parts = zip(x.split(5), target.split(5))
        >>> loss = accumulate(lambda loss, batch: loss(model(batch[0]), batch[1]), criterion, parts, model=model)
        >>> torch.allclose(loss, criterion(model(x), target))
        True
    """
    step = Accumulation(criterion, model=model, loss_scale=loss_scale)
    batches = list(micro_batches)
    step.gather(call, batches)
    shares = []
    for number, batch in enumerate(batches, start=1):
        with contextlib.nullcontext() if number == len(batches) else _unsynced(model):
            share = step.part(call, batch)
            backward(share)
        shares.append(share.detach())
    return torch.stack(shares).sum() / loss_scale


class Accumulation:
    """The two passes of `accumulate` for trainers that run the micro-batches themselves.

    `gather` where the trainer has a step's micro-batches at hand, then `part` for each of them, in the same order, in
    place of the loss. The parts add up to the loss of the whole, and so do their gradients.

    Args:
        criterion: as of `accumulate`.
        model: as of `accumulate`.
        loss_scale: factor on each part: the number of micro-batches, where the trainer divides the loss by it. None
            is that number, for trainers that divide by as many micro-batches as the step really has.
    """

    def __init__(
        self, criterion: PooledCriterion, *, model: nn.Module | None = None, loss_scale: float | None = 1.0
    ) -> None:
        self.criterion = criterion
        self.model = model
        self.loss_scale = loss_scale
        self.whole: ClassMass | None = None
        self._random: list[_RandomState] = []
        self._done = 0
        self._calls = 0

    def gather(self, call: Callable[[Loss, MicroBatch], Tensor], micro_batches: Sequence[MicroBatch]) -> ClassMass:
        """Run the first pass over the micro-batches of one step and return their class mass, that of all ranks.

        Collective where the criterion has a process group.
        """
        if len(micro_batches) == 0:
            raise ValueError("Accumulation.gather: a step needs at least one micro-batch; got none.")
        self._random, self._done, self._calls = [], 0, 0
        masses: list[ClassMass] = []

        def record(*args: Any, **kwargs: Any) -> Tensor:
            masses.append(self.criterion.class_mass(*args, **kwargs))
            return masses[-1].sets.new_zeros(())

        with torch.no_grad(), _restored(self.model):
            for batch in micro_batches:
                self._random.append(_RandomState())
                call(record, batch)
        # Within autocast the second pass would find the weights that were cast here, without gradient.
        torch.clear_autocast_cache()
        if not masses:
            raise ValueError("Accumulation.gather: call(loss, micro_batch) never called its first argument, the loss.")
        self._calls = len(masses)
        total = masses[0]
        for mass in masses[1:]:
            total = total.merge(mass)
        self.whole = self.criterion.whole(total)
        return self.whole

    def part(self, call: Callable[[Loss, MicroBatch], Tensor], micro_batch: MicroBatch) -> Tensor:
        """Return the next micro-batch's share of the loss, to be back-propagated; after the last the step is noted."""
        if self.whole is None or self._done == len(self._random):
            raise RuntimeError(
                f"Accumulation.part: {self._done} micro-batches of the step have been used, all that were gathered. "
                f"Call gather with the micro-batches of the next step first."
            )
        whole = self.whole

        def share(*args: Any, **kwargs: Any) -> Tensor:
            loss: Tensor = self.criterion(*args, class_mass=whole, **kwargs)
            if loss.dim() != 0:
                raise ValueError(
                    f'Accumulation.part: the loss must be a scalar, of reduction "mean" or "sum"; got shape '
                    f"{tuple(loss.shape)}."
                )
            # Each call has the value of the whole; an equal share of it leaves their sum the whole.
            return loss + loss.detach() * (1 / self._calls - 1) if whole.layout.spans else loss

        self._random[self._done].restore()
        loss = call(share, micro_batch) * (len(self._random) if self.loss_scale is None else self.loss_scale)
        self._done += 1
        if self._done == len(self._random) and self.criterion.training:
            self.criterion.note(whole)
        return loss


class _RandomState:
    """The random generators as they are now: the CPU's, and those of the accelerator where there is one."""

    def __init__(self) -> None:
        self.cpu = torch.get_rng_state()
        self.device: ModuleType | None = None
        if torch.accelerator.is_available():
            self.device = torch.get_device_module(torch.accelerator.current_accelerator())
            self.states = self.device.get_rng_state_all() if self._has_several else [self.device.get_rng_state()]

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.device is not None and self._has_several:
            self.device.set_rng_state_all(self.states)
        elif self.device is not None:
            self.device.set_rng_state(self.states[0])

    @property
    def _has_several(self) -> bool:
        return hasattr(self.device, "get_rng_state_all")


@contextlib.contextmanager
def _restored(model: nn.Module | None) -> Iterator[None]:
    """Put the model's buffers back on leaving."""
    buffers = [] if model is None else list(model.buffers())
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)


def _unsynced(model: nn.Module | None) -> contextlib.AbstractContextManager[Any]:
    """Leave out the exchange of gradients, where the model's wrapper can."""
    no_sync = getattr(model, "no_sync", None)
    return contextlib.nullcontext() if no_sync is None else no_sync()
