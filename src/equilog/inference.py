r"""What trained scores say about probabilities.

Training lets the scores of features x settle where, with $p = \mathrm{softmax}(\text{scale} \cdot z)$ and $O_j$ what
the *other* sets of a pool add to class j's odds,

$$ \mathrm{P}(j \mid x) \cdot \mathrm{E}\Bigl[\frac{1}{1 + O_j\, p_j(x)}\Bigr] \;\propto\; p_j(x). $$

A set alone in its pool has $O = 0$: the posterior is $\mathrm{softmax}(z)$, as for cross-entropy. In a large pool it is
$p_j^2 O_j$: $\mathrm{softmax}(2z)$ with the class mass put back. Everything in between is the same formula. (Set the
expected gradient at x to zero: a set of class j carries cross-entropy's gradient times $1/(1 + O_j p_j)$.)

Inner "nll" has $1/(1 + O_j - \log p_j)$ in its place: $p_j (1 - \log p_j)$ alone, and $p_j (1 + O_j)$ in a large pool.
Inner "divergence" answers the posterior itself, softmax(z), in a large pool whatever $O$ is, and approximately in a
small one.
"""

import math

import torch
from torch import Tensor

from equilog.criterion import Kind, check_kind
from equilog.grouping import LogThreats
from equilog.inner import INNERS, Inner, InnerName
from equilog.logspace import log_one_plus
from equilog.pooling import as_pools
from equilog.prior import with_prior
from equilog.targets import as_compute_dtype, class_vector

_QUANTILES = 64
_SETS_DRAWN = 2**20
"""As many sets are drawn in all, which takes a moment and some megabytes; large pools vary little, and need few."""


def probabilities(
    logits: Tensor,
    *,
    inner: InnerName = "odds",
    scale: float = 1.0,
    pool_size: float | None = None,
    temperature: float = 1.0,
    log_class_mass: Tensor | None = None,
    prior: Tensor | None = None,
    prior_strength: float = 1.0,
    kind: Kind = "balanced",
) -> Tensor:
    r"""Probabilities of scores trained with `log_balanced_cross_entropy`.

    "balanced" is what the bare scores say, softmax(link * logits), as if every class were equally frequent. "posterior"
    puts the prior and the class mass A back, which gives the probabilities of the data as drawn:
    $\mathrm{P}(j \mid x) \propto p_j^2 A_j$ for an unbounded pool, $p_j (1 + O_j p_j)$ with $O_j = (A_j - 1) (1 -
    1/\text{pool\_size})$ for a bounded one, where $p = \mathrm{softmax}(\text{scale} \cdot (\text{logits} +
    \text{prior\_strength} \log \text{prior}))$. For inner "nll" it is $p_j A_j$ and $p_j (1 + O_j - \log p_j)$; for
    "divergence", $p_j$, which holds in large pools and nearly in small ones.

    Args:
        logits: (N, C), (N, C, d1, ...) or (C,), the bare scores.
        inner: the loss's.
        scale: the loss's.
        pool_size: sets that shared a log in training; None for so many that one set's own odds do not count. The link
            is scale for 1, 2 scale for None, and (2 - 1/pool_size) scale where nothing else is known; for an inner term
            other than "odds" it is scale.
        temperature: divides the scores before they are normalised; fit it on held-out data.
        log_class_mass: (C,) log A of such a pool, or None for the same mass in every class.
        prior: the loss's, (C,) or None.
        prior_strength: the loss's.
        kind: "balanced" or "posterior".

    Returns:
        Probabilities of the shape of `logits`, summing to 1 over the classes; float32 (float64 for float64 logits).

    Raises:
        TypeError, ValueError: kind, pool_size, temperature or prior of the wrong type, shape or range.

    Example:
        >>> logits = torch.tensor([0.5, -0.5])
        >>> probabilities(logits, pool_size=1)  # softmax(logits)
        tensor([0.7311, 0.2689])
        >>> probabilities(logits, log_class_mass=torch.tensor([1.0, 3.0]).log(), kind="posterior")  # e^2 : 3
        tensor([0.7112, 0.2888])
    """
    check_kind("probabilities", kind)
    if inner not in INNERS:
        raise ValueError(f"probabilities: inner must be one of {', '.join(map(repr, INNERS))}; got {inner!r}.")
    if pool_size is not None and not pool_size >= 1:
        raise ValueError(f"probabilities: pool_size must be at least 1, or None for unbounded; got {pool_size}.")
    if not temperature > 0:
        raise ValueError(f"probabilities: temperature must be positive; got {temperature}.")
    rows = as_compute_dtype(classes_last(logits))
    if kind == "posterior" and prior is not None:
        like = rows.reshape(-1, rows.shape[-1])
        prior = class_vector("probabilities", "prior", prior, like, positive=True, validate=False)
        rows = with_prior(rows, prior, prior_strength)
    scores, term = scale * rows, INNERS[inner]
    if pool_size == 1 and log_class_mass is None:
        log_class_mass = rows.new_zeros(rows.shape[-1])  # no other sets, so no mass of theirs
    if kind == "balanced" or log_class_mass is None or term.separate:
        scores = (2.0 - 1.0 / pool_size if inner == "odds" and pool_size is not None else term.link) * scores
    elif pool_size is None:
        scores = term.link * scores + log_class_mass.to(rows)
    else:
        others = torch.expm1(log_class_mass.to(rows)) * (1.0 - 1.0 / pool_size)
        scores = posterior_scores(scores.log_softmax(-1), others.log(), term)
    return classes_second((scores / temperature).softmax(-1), logits)


def posterior_scores(log_prob: Tensor, log_others: Tensor, inner: Inner = INNERS["odds"]) -> Tensor:
    """Return log p - log E[share] from log p (..., C) and draws of log O, (C,) or (K, C).

    The share is 1 / (1 + O p) for odds.
    """
    draws = log_others.reshape(-1, *[1] * (log_prob.dim() - 1), log_prob.shape[-1])
    # One draw at a time: K copies of the scores at once would be the largest tensor in the program.
    kept = log_prob.new_full(log_prob.shape, -math.inf)
    for draw in draws:
        kept = torch.logaddexp(kept, inner.log_share(log_prob, draw))
    return log_prob - kept + math.log(len(draws))


def label_posterior_scores(logits: Tensor, log_others: Tensor) -> Tensor:
    """Return the log odds of a label's posterior from scaled logits x and draws (K, 2) of log O.

    P(yes) e^{-x} E[1 / (1 + O+ + e^{-x})] = P(no) e^{x} E[1 / (1 + O- + e^{x})], O+ and O- being what the other labels
    of a pool add to the positives' and the negatives' log.
    """
    kept_yes = kept_no = logits.new_full(logits.shape, -math.inf)
    for yes, no in log_one_plus(log_others):
        kept_yes = torch.logaddexp(kept_yes, -torch.logaddexp(yes, -logits))
        kept_no = torch.logaddexp(kept_no, -torch.logaddexp(no, logits))
    return 2.0 * logits + kept_no - kept_yes


def draw_pools(threats: LogThreats, log_weight: Tensor, sets: int) -> Tensor:
    """Return log O (K, G) of random pools of that many sets: K quantiles for each group, each as likely as the others.

    Thousands of pools are drawn, since a rare class is in few of them; their quantiles say the same in less space. The
    generator is one of its own (seed 0).
    """
    if sets < 1 or len(log_weight) == 0:
        return threats.values.new_full((1, threats.slots * threats.values.shape[1]), -math.inf)
    each = min(max(_SETS_DRAWN // (sets * _QUANTILES), 1), 64)
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(len(log_weight), (_QUANTILES * each * sets,), generator=generator).to(log_weight.device)
    slot = None if threats.slot is None else threats.slot[index]
    pools = as_pools("draw_pools", sets, index.shape, index.device)
    drawn = LogThreats(threats.values[index], slot, threats.slots).pooled(pools, log_weight[index])
    # A copy: a view would keep all the draws, and be summed in another order than what is loaded from a file.
    return drawn.sort(0).values[each // 2 :: each].contiguous()


def classes_last(logits: Tensor) -> Tensor:
    """(N, C, d1, ...) -> (N, d1, ..., C); (C,) as it is."""
    return logits if logits.dim() == 1 else logits.movedim(1, -1)


def classes_second(values: Tensor, like: Tensor) -> Tensor:
    """Undo `classes_last`."""
    return values if like.dim() == 1 else values.movedim(-1, 1)
