"""What a set adds to its pool before the log: the inner term of one log per class.

Four strictly proper losses of one set, split by class. `odds` is the article's, which balances hard targets best and
is exponential in the scores; `power` is the odds on hard targets and gentle on little soft mass; `nll` and `divergence`
grow linearly with the scores.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from equilog.inputs.classes import Sets
from equilog.inputs.options import InnerName, Options
from equilog.ops import (
    TERMS,
    class_log_odds,
    index_log_odds,
    least_with_log,
    log_of_nll,
    log_one_plus,
)


class Inner(Protocol):
    """The term of one set and class, as a logarithm, and what it makes of the scores at the optimum."""

    @property
    def name(self) -> InnerName:
        """The name in a call."""

    @property
    def calibration_factor(self) -> float:
        """The best scores for a probability target t are those where softmax(factor * scale * z) = t."""

    @property
    def index_factor(self) -> float:
        """The same of index targets in a large pool, but for the class mass."""

    @property
    def gentle(self) -> bool:
        """Whether the gradient of a set's terms is no more than cross-entropy's, and they linear in the scores."""

    @property
    def separate(self) -> bool:
        """Whether the term of each class is least at the optimum by itself, with none of the others' help.

        Then the optimum needs no compensation, and no class mass moves it. A set with an index target then adds to
        every class, else to its own alone.
        """

    def log_of_index(self, sets: Sets) -> Tensor:
        """Return the log terms of sets with index targets: (n,) of their class, or (n, C)."""

    def log_of_soft(self, log_odds: Tensor, probs: Tensor) -> Tensor:
        """Return the log terms (n, C) of sets with probability targets (n, C), from log odds (n, C)."""

    def residual(self, probs: Tensor) -> Tensor:
        """Return the terms (n, C) at the best scores."""

    def log_share(self, log_prob: Tensor, log_others: Tensor) -> Tensor:
        """Return the log of the share of cross-entropy's gradient that an index target keeps in its pool.

        From log p of its class, and the log of what the pool's other sets add to that class.
        """


class Odds:
    """t_j (1/p_j - 1): the odds against class j."""

    name: InnerName = "odds"
    calibration_factor = 2.0
    index_factor = 2.0
    gentle = False
    separate = False

    def log_of_index(self, sets: Sets) -> Tensor:
        """Return the log odds (n,) against each class index."""
        return log_odds_of_index(sets)

    def log_of_soft(self, log_odds: Tensor, probs: Tensor) -> Tensor:
        """Return the log odds against every class with its target's share."""
        return TERMS[self.name][0](log_odds, probs)

    def residual(self, probs: Tensor) -> Tensor:
        """Return rho_j = sqrt(t_j) (sum_k sqrt(t_k) - sqrt(t_j))."""
        return TERMS[self.name][1](probs)

    def log_share(self, log_prob: Tensor, log_others: Tensor) -> Tensor:
        """Return -log(1 + O p)."""
        return F.logsigmoid(-(log_others + log_prob))


class NegativeLogLikelihood:
    """-t_j log p_j: cross-entropy, split by class."""

    name: InnerName = "nll"
    calibration_factor = 1.0
    index_factor = 1.0
    gentle = True
    separate = False

    def log_of_index(self, sets: Sets) -> Tensor:
        """Return the log of the cross-entropy (n,) of each set."""
        return log_of_nll(log_odds_of_index(sets))

    def log_of_soft(self, log_odds: Tensor, probs: Tensor) -> Tensor:
        """Return the log of each class's part of the cross-entropy."""
        return TERMS[self.name][0](log_odds, probs)

    def residual(self, probs: Tensor) -> Tensor:
        """Return -t_j log t_j, the entropy by class."""
        return TERMS[self.name][1](probs)

    def log_share(self, log_prob: Tensor, log_others: Tensor) -> Tensor:
        """Return -log(1 + O - log p)."""
        # Finite, so that p = 0, a class left out, keeps a share that p can still be divided by; and so far from the
        # largest number that log1p of every torch is.
        return -torch.log1p(log_others.exp() - log_prob.clamp(min=-(torch.finfo(log_prob.dtype).max ** 0.5)))


class Divergence:
    """t_j log(t_j / p_j) - t_j + p_j: the generalized Kullback-Leibler divergence, whose every class has its own zero.

    A set with an index target also adds p_k to each other class, for the mass they take from its own.
    """

    name: InnerName = "divergence"
    calibration_factor = 1.0
    index_factor = 1.0
    gentle = True
    separate = True

    def log_of_index(self, sets: Sets) -> Tensor:
        """Return (n, C): log(-log p_j - 1 + p_j) of the target's class and log p_k of every other class."""
        assert sets.index is not None
        index = sets.index[:, None]
        log_prob = -log_one_plus(class_log_odds(sets.scores()))
        return log_prob.scatter(1, index, _log_of_gap(log_prob.gather(1, index)))

    def log_of_soft(self, log_odds: Tensor, probs: Tensor) -> Tensor:
        """Return log t_j + log(e^d - 1 - d) with d = log(p_j / t_j), which is log p_j where t_j is 0."""
        log_prob = -log_one_plus(log_odds)
        positive = probs > 0
        log_target = torch.where(positive, probs, 1.0).log()
        gap = _log_of_gap(torch.where(positive, log_prob, -1.0) - log_target)
        return torch.where(positive, log_target + gap, log_prob)

    def residual(self, probs: Tensor) -> Tensor:
        """Return 0: each term is zero at the best scores."""
        return torch.zeros_like(probs)

    def log_share(self, log_prob: Tensor, log_others: Tensor) -> Tensor:
        """Return 0, all of it: in a large pool the optimum is the posterior whatever the other sets add."""
        return torch.zeros_like(log_prob + log_others)


class Power(Odds):
    """t_j^t_j (p_j^-t_j - 1), with 0^0 = 1: the odds for a hard target, and near -t_j log p_j for a small t_j.

    The odds are the first order in x of prod (1 + x_i)^t_i, which is cross-entropy; this is the first order in (1 +
    x)^t - 1. The factor t^t makes one weight a class enough for soft targets. At the best scores it is 1 - t^t.
    """

    name: InnerName = "power"
    calibration_factor = 1.0


INNERS: dict[str, Inner] = {inner.name: inner for inner in (Odds(), NegativeLogLikelihood(), Divergence(), Power())}
"""The inner terms by name."""


def inner_of(options: Options) -> Inner:
    """Return the inner term that options name; ValueError where there is none of that name."""
    if options.inner not in INNERS:
        names = ", ".join(map(repr, INNERS))
        raise ValueError(f"{options.where}: inner must be one of {names}; got {options.inner!r}.")
    return INNERS[options.inner]


def log_odds_of_index(sets: Sets) -> Tensor:
    """Return the log odds (n,) against the class index, minus infinity for an ignored set."""
    assert sets.index is not None
    return sets.blanked(index_log_odds(sets.logits, sets.index, sets.shift, sets.scale), -torch.inf)


_SERIES_ORDER = 13


def _log_of_gap(d: Tensor) -> Tensor:
    """Return log(e^d - 1 - d), where each of three forms keeps its digits; at 0 as near above 0 as has a log.

    That log of 0 is finite, so that both derivatives of the gap come out of it right: 0 and 1.
    """
    least = least_with_log(d.dtype)
    d = d + torch.where(d.abs() < least, least - d, 0.0).detach()
    near, above = d.abs() < 0.25, d > 1.0
    series = torch.ones_like(d)
    close = torch.where(near, d, 0.0)
    for order in range(_SERIES_ORDER, 2, -1):
        series = 1.0 + close / order * series
    at_zero = 2.0 * torch.where(near, d, 1.0).abs().log() + (0.5 * series).log()
    far_above = torch.where(above, d, 1.0)
    growing = far_above + torch.log1p(-(1.0 + far_above) * (-far_above).exp())
    between = torch.where(near | above, -1.0, d)
    falling = (between.expm1() - between).log()
    return torch.where(near, at_zero, torch.where(above, growing, falling))
