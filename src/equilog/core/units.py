r"""What the mean divides by, so that a loss keeps the scale of the gradient that torch's own has.

The absolute gradient of one log adds up to at most 2 scale over all its sets, as that of cross-entropy's mean does over
the batch. The unit of a pool is the larger of the samples that it spans and the logs that it holds something in, and
the mean divides the sum over the pools by their units. So

- a pool of one set costs its cross-entropy, and the mean over such pools is torch's;
- where a sample is one set with an index target, no set's gradient is larger than by cross-entropy's mean;
- where a sample has many sets (its labels, pixels or tokens), its logs are what bounds the gradient.

A set that is in several logs (of pair balance, say) counts so many times. Weights of classes, and those that compensate
soft targets, weigh the logs; class weights weigh the samples too, as torch's mean divides by them. The gentle inner
terms have no more gradient in a set than cross-entropy, in however many logs: there the samples alone count, where
they are sets.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from equilog.core.pools import Pools, divided, quotient
from equilog.inputs.classes import Targets
from equilog.inputs.labels import IndexedLabels, Labels
from equilog.ops import precise


@dataclass(frozen=True)
class Samples:
    """What of the sets the units are made of."""

    pools: Pools
    kept: Tensor | None
    """(n,) bool, or how many labels of a set are kept; None where none is left out."""
    weight: Tensor | None
    """(N,) the weight of each sample; None where all are 1."""
    targets: Targets | None
    """The sets' classes; None for yes/no labels, whose logs are not weighted here."""
    logs_per_set: int | Tensor = 1
    gentle: bool = False
    """Whether a set has no more gradient than by cross-entropy, in all logs together."""

    @property
    def logs_do_not_count(self) -> bool:
        """Whether the samples of a pool are more than its logs, whatever there is in them."""
        if self.pools.positions != 1:
            return False
        hard = self.targets is not None and self.targets.index is not None
        return self.gentle or (hard and self.weight is None)

    def spanned(self) -> Tensor | int:
        """Return how many samples each pool spans (P,), each by its weight; a number where it is that of all pools."""
        pools, positions, plain = self.pools, self.pools.positions, self.kept is None and self.weight is None
        if plain and pools.consecutive:
            is_whole = not pools.ragged and positions > 0
            return pools.size // positions if is_whole else _samples_in_a_row(pools)
        if positions == 1 or pools.apart:
            return pools.sums(self._of_each_set())
        if pools.consecutive and pools.size in (positions, pools.sets):  # a sample, or the batch
            shape = pools.count, pools.size // max(positions, 1), positions
            weight = None if self.weight is None else self.weight.view(shape[:2])
            if self.kept is None:
                assert weight is not None
                return weight.sum(1)
            kept = (self.kept.view(shape) != 0).any(2)
            return (kept if weight is None else kept * weight).sum(1)
        return _distinct_sums(pools, quotient(pools.sets, positions, pools.device), self._of_each_set())

    def total(self, class_weight: Tensor | None) -> Tensor | int:
        """Return how many samples there are, by their weight and that of their class, where sets are samples."""
        if self.kept is None and self.weight is None and class_weight is None:
            return self.pools.sets
        if self.weight is None and class_weight is None:
            assert self.kept is not None
            return self.kept.sum()
        weight = self._of_each_set()
        if class_weight is not None:
            assert self.targets is not None
            weight = weight * self.targets.of_class(class_weight)
        return weight.sum()

    def class_weight(self, class_weight: Tensor) -> Tensor:
        """Return the mean weight of the classes of each pool's sets (P,), from that of each class (C,)."""
        targets = self.targets
        assert targets is not None
        share = targets.log_weight.detach().exp()
        weighted = self.pools.sums(share * targets.of_class(class_weight))
        return weighted / self.pools.sums(share).clamp(min=torch.finfo(share.dtype).tiny)

    def _of_each_set(self) -> Tensor:
        """Return the weight of each set's sample (n,), 0 where the set is left out."""
        pools = self.pools
        if self.weight is None:
            weight = torch.ones(pools.sets, device=pools.device, dtype=precise(pools.device))
        else:
            weight = self.weight.repeat_interleave(pools.positions)
        return weight if self.kept is None else weight * (self.kept != 0)


def samples_of(
    data: Targets | Labels | IndexedLabels, pools: Pools, logs_per_set: int | Tensor = 1, gentle: bool = False
) -> Samples:
    """Return the samples of sets or of labels."""
    targets = data if isinstance(data, Targets) else None
    return Samples(pools, data.kept, data.sample_weight, targets, logs_per_set, gentle)


def _samples_in_a_row(pools: Pools) -> Tensor:
    """Return how many samples each of consecutive pools spans (P,), none of their sets left out."""
    start = torch.arange(pools.count, device=pools.device) * pools.size
    stop = (start + pools.size).clamp(max=pools.sets)
    if pools.positions == 1:
        return stop - start
    positions = max(pools.positions, 1)
    return divided(stop - 1, positions) - divided(start, positions) + 1


def _distinct_sums(pools: Pools, samples: Tensor, weight: Tensor) -> Tensor:
    """Return the sum (P,) over each pool's different samples of their weight, from the sample and weight of each set.

    By sorting, since a table of pools and samples may be larger than all else.
    """
    pair, order = (pools.ids * pools.sets + samples).sort(stable=True)
    weight = weight[order]
    first = torch.ones_like(pair)
    first[1:] = pair[1:] != pair[:-1]
    run = first.cumsum(0) - 1
    largest = torch.zeros_like(weight).scatter_reduce(0, run, weight, "amax")  # 0 where all sets are left out
    return weight.new_zeros(pools.count).index_add(0, pools.ids[order], first * largest[run])
