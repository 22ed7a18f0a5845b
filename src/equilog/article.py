"""The losses of Su Jianlin's article as it states them: for study, not for use.

The article starts from cross-entropy summed over n sets of m classes, notices that moving the sum over the sets
inside the log balances the classes, and asks which such loss answers soft targets. These are the steps on the way;
`equilog.log_balanced_cross_entropy` is where they lead. Each takes logits (n, C) and targets that are class indices
(n,) or probabilities (n, C), puts all n sets into one pool, and returns the sum in nats. The article's multi-label
losses are `equilog.multilabel_cross_entropy`.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from equilog.core.grouping import LogTerms
from equilog.core.pools import as_pools
from equilog.inputs.classes import read_sets
from equilog.inputs.options import ClassOptions
from equilog.losses.multiclass import log_balanced_cross_entropy
from equilog.ops import index_log_odds, log_one_plus, log_sum_exp, log_weighted

__all__ = ["general", "loss_one", "loss_three", "softmax_cross_entropy_over_sets", "truncated"]


def softmax_cross_entropy_over_sets(logits: Tensor, target: Tensor) -> Tensor:
    r"""Softmax cross-entropy summed over the sets, where the article starts from.

    $$ -\sum_i \sum_j t_{ij} \log p_{ij}, \qquad p_i = \mathrm{softmax}(s_i) $$

    Args:
        logits: (n, C), floating point.
        target: (n,) class indices, or (n, C) probabilities.

    Returns:
        Nats, a scalar.

    Source:
        Su Jianlin, https://kexue.fm/archives/9158 (2022).

    Example:
        >>> softmax_cross_entropy_over_sets(torch.zeros(3, 4), torch.tensor([0, 1, 2]))  # 3 log 4
        tensor(4.1589)
    """
    read_sets(ClassOptions(where="softmax_cross_entropy_over_sets"), logits, target, None)
    return F.cross_entropy(logits, target, reduction="sum")


def loss_one(logits: Tensor, target: Tensor) -> Tensor:
    r"""The article's first loss: per class, the odds against the truth added over all sets, then the log.

    $$ \sum_j \log\Bigl(1 + \sum_i t_{ij} \bigl(1/p_{ij} - 1\bigr)\Bigr), \qquad p_i = \mathrm{softmax}(s_i) $$

    It balances the classes of index targets. Probability targets it answers re-weighted by the class mass, see
    `equilog.optimum.scores` with compensation None.

    Args:
        logits: (n, C), floating point.
        target: (n,) class indices, or (n, C) probabilities.

    Returns:
        Nats, a scalar.

    Source:
        Su Jianlin, https://kexue.fm/archives/9158 (2022). `log_balanced_cross_entropy` without compensation, summed.

    Example:
        >>> loss_one(torch.zeros(3, 4), torch.tensor([0, 0, 2]))  # log(1 + 3 + 3) + log(1 + 3)
        tensor(3.3322)
    """
    return log_balanced_cross_entropy(logits, target, compensation=None, pool="batch", reduction="sum")


def loss_three(logits: Tensor, target: Tensor) -> Tensor:
    r"""The article's third loss: `general` with each score against the mean of its set.

    $$ \sum_j \log\Bigl(1 + \sum_i t_{ij} e^{\bar s_i - s_{ij}}\Bigr), \qquad \bar s_i = \tfrac1C \sum_k s_{ik} $$

    It answers probability targets exactly, $t_i = \mathrm{softmax}(s_i)$. But the mean lets one very low score pay
    for a wrong class on top, so with index targets and more than two classes it accepts the wrong class.

    Args:
        logits: (n, C), floating point, finite.
        target: (n,) class indices, or (n, C) probabilities.

    Returns:
        Nats, a scalar.

    Source:
        Su Jianlin, https://kexue.fm/archives/9158 (2022).

    Example:
        >>> right = torch.tensor([[9.0, 0.0, 0.0]])
        >>> wrong = torch.tensor([[9.0, 10.0, -100.0]])
        >>> bool(loss_three(wrong, torch.tensor([0])) < loss_three(right, torch.tensor([0])))
        True
    """
    return general(logits, target, lambda s: s - s.mean(1, keepdim=True))


def general(logits: Tensor, target: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
    r"""The article's general form: one log per class over any function of the scores.

    $$ \sum_j \log\Bigl(1 + \sum_i t_{ij} e^{-f(s_i)_j}\Bigr) $$

    Args:
        logits: (n, C), floating point.
        target: (n,) class indices, or (n, C) probabilities.
        f: takes logits (n, C), gives (n, C): how much each class is in favour. $f_j = \log p_j - \log(1 - p_j)$ makes
            it `loss_one`.

    Returns:
        Nats, a scalar.

    Raises:
        ValueError: f gives another shape than it was given.

    Source:
        Su Jianlin, https://kexue.fm/archives/9158 (2022).

    Example:
        >>> s = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
        >>> target = torch.tensor([0, 1])
        >>> general(s, target, lambda s: torch.logit(s.softmax(1))), loss_one(s, target)
        (tensor(0.3618), tensor(0.3618))
    """
    options = ClassOptions(where="general", pool="batch")
    sets = read_sets(options, logits, target, None)
    favour = f(sets.scores())
    if favour.shape != sets.logits.shape:
        raise ValueError(
            f"general: f must keep the shape of the logits, {tuple(sets.logits.shape)}; it gave {tuple(favour.shape)}."
        )
    if sets.index is not None:
        terms = LogTerms(-favour.gather(1, sets.index[:, None]), sets.index, sets.classes)
    else:
        terms = LogTerms(log_weighted(-favour, sets.probs), None, 1)
    pools = as_pools(options, sets.shape, logits.device)
    return log_one_plus(terms.pooled(pools, sets.log_weight)).sum()


def truncated(logits: Tensor, target: Tensor, order: int) -> Tensor:
    r"""Cross-entropy's product cut after `order`: from `loss_one` at 1 to cross-entropy at the largest class.

    Over the $n_j$ sets of class j cross-entropy is $\log \prod (1 + x_i)$, $x_i = 1/p_{ij} - 1$. Multiplied out, the
    product is $1 + e_1 + e_2 + \dots + e_{n_j}$, with $e_r$ the sum of all products of r different odds; this keeps
    the first `order` of them:

    $$ \sum_j \log\bigl(1 + e_1(x) + \dots + e_{\text{order}}(x)\bigr) $$

    Time and memory grow like C * (largest class) * order, in log(n) steps. Everything stays a logarithm of sums of
    positive numbers, so no digit is lost at logits of +-1e4.

    Args:
        logits: (n, C), floating point.
        target: (n,) class indices.
        order: how many terms to keep, at least 1.

    Returns:
        Nats, a scalar; grows with `order`.

    Raises:
        TypeError: the target is not class indices. ValueError: order is less than 1.

    Source:
        Su Jianlin, https://kexue.fm/archives/9158 (2022) for order 1; the family in between is this project's.

    Example:
        >>> s, target = torch.zeros(3, 2), torch.tensor([0, 0, 0])
        >>> [round(truncated(s, target, order).exp().item()) for order in (1, 2, 3)]  # 1 + 3, 1 + 3 + 3, 2 ** 3
        [4, 7, 8]
    """
    if target.is_floating_point():
        raise TypeError(f"truncated: target must be class indices, not {target.dtype} probabilities.")
    if order < 1:
        raise ValueError(f"truncated: order must be 1 or more; got {order}.")
    sets = read_sets(ClassOptions(where="truncated"), logits, target, None)
    assert sets.index is not None
    log_odds = index_log_odds(sets.scores(), sets.index) + sets.log_weight
    one = torch.zeros_like(log_odds)
    log_terms = _product(_by_class(torch.stack((one, log_odds), -1), sets.index, sets.classes), order)
    return log_one_plus(log_sum_exp(log_terms[:, 1:])).sum()


def _by_class(factors: Tensor, index: Tensor, classes: int) -> Tensor:
    """Return each class's factors 1 + x in a row, (n, 2) -> (C, K, 2), K a power of two, filled up with factors 1."""
    size = torch.bincount(index, minlength=classes)
    order = index.argsort(stable=True)
    position = torch.arange(len(index), device=index.device) - (size.cumsum(0) - size)[index[order]]
    longest = int(size.max()) if classes else 0
    table = factors.new_full((classes, 1 << max(longest - 1, 0).bit_length(), 2), -torch.inf)
    table[..., 0] = 0.0
    return table.index_put((index[order], position), factors[order])


def _product(factors: Tensor, order: int) -> Tensor:
    """Return the log coefficients of the products over K, at most order + 1 of them, from (C, K, terms)."""
    while factors.shape[1] > 1:
        left, right = factors[:, ::2], factors[:, 1::2]
        terms = min(left.shape[-1] + right.shape[-1] - 1, order + 1)
        by_left_term = [
            left[..., k, None] + F.pad(right, (k, terms), value=-torch.inf)[..., :terms]
            for k in range(min(left.shape[-1], terms))
        ]
        factors = log_sum_exp(torch.stack(by_left_term), 0).squeeze(0)
    return factors.squeeze(1)
