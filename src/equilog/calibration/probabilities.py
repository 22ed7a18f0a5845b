"""Probabilities of scores in closed form, where the pool and its class mass are known."""

from typing import Any

import torch
from torch import Tensor

from equilog.calibration.base import Kind, check_kind
from equilog.calibration.posterior import posterior_scores
from equilog.calibration.temperature import check_temperature
from equilog.core.inner import INNERS
from equilog.inputs.classes import classes_last, classes_second
from equilog.inputs.options import InnerName, check_choice
from equilog.inputs.values import class_vector
from equilog.ops import as_compute_dtype


def probabilities(
    logits: Tensor,
    *,
    inner: InnerName = "odds",
    scale: float = 1.0,
    pool_size: float | None = None,
    temperature: float = 1.0,
    log_class_mass: Tensor | None = None,
    prior: Any = None,
    prior_strength: float = 1.0,
    kind: Kind = "balanced",
) -> Tensor:
    r"""Probabilities of scores trained with `log_balanced_cross_entropy`.

    "balanced" is what the bare scores say, softmax(factor * logits), as if every class were equally frequent.
    "posterior" puts the prior and the class mass A back, which gives the probabilities of the data as drawn:
    $\mathrm{P}(j \mid x) \propto p_j^2 A_j$ for an unbounded pool, $p_j (1 + O_j p_j)$ with $O_j = (A_j - 1) (1 -
    1/\text{pool\_size})$ for a bounded one, where $p = \mathrm{softmax}(\text{scale} \cdot (\text{logits} +
    \text{prior\_strength} \log \text{prior}))$. For inner "nll" it is $p_j A_j$ and $p_j (1 + O_j - \log p_j)$; for
    "divergence", $p_j$, which holds in large pools and nearly in small ones.

    Args:
        logits: (N, C), (N, C, d1, ...) or (C,), the bare scores.
        inner: the loss's.
        scale: the loss's.
        pool_size: sets that shared a log in training; None for so many that one set's own odds do not count. The
            factor is scale for 1, 2 scale for None, and (2 - 1/pool_size) scale where nothing else is known; for an
            inner term "nll" or "divergence" it is scale.
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
    check_choice("probabilities", "inner", inner, tuple(INNERS))
    if pool_size is not None and not pool_size >= 1:
        raise ValueError(f"probabilities: pool_size must be at least 1, or None for unbounded; got {pool_size}.")
    check_temperature("probabilities", temperature)
    rows = as_compute_dtype(classes_last(logits))
    if kind == "posterior" and prior is not None:
        like = rows.reshape(-1, rows.shape[-1])
        prior = class_vector("probabilities", "prior", prior, like, positive=True, validate=False)
        rows = rows + prior_strength * prior.log()
    scores, term = scale * rows, INNERS[inner]
    if pool_size == 1 and log_class_mass is None:
        log_class_mass = rows.new_zeros(rows.shape[-1])  # no other sets, so no mass of theirs
    if kind == "balanced" or log_class_mass is None or term.separate:
        scores = (2.0 - 1.0 / pool_size if pool_size is not None and not term.gentle else term.index_factor) * scores
    elif pool_size is None:
        scores = term.index_factor * scores + log_class_mass.to(rows)
    else:
        others = torch.expm1(log_class_mass.to(rows)) * (1.0 - 1.0 / pool_size)
        scores = posterior_scores(scores.log_softmax(-1), others.log(), term)
    return classes_second((scores / temperature).softmax(-1), logits)
