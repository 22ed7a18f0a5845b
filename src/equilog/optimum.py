r"""The best possible scores of each loss in closed form, its value there, and how far from it given scores are.

Probability targets leave every loss a minimum above 0. Where every group of class pairs has its opposite, or where
one log per class is compensated, it lies at $t_i = \mathrm{softmax}(2 \cdot \text{scale} \cdot s_i)$. One log per
class without compensation answers re-weighted targets: `class_mass` solves for the weights.

The mean divides the smallest value by the units of finite scores, and a regret by those of its scores: at the best
scores, of which some may be infinite, fewer logs may hold something. Everything here is computed and returned in
float64, whatever the target's type.
"""

from dataclasses import replace

import torch
from torch import Tensor

from equilog.core.grouping import ClassBalance, Grouping, as_grouping
from equilog.core.inner import INNERS
from equilog.core.pool_sums import PoolSums
from equilog.core.pools import as_pools
from equilog.inputs.classes import read_sets
from equilog.inputs.labels import read_labels
from equilog.inputs.options import (
    Balance,
    ClassOptions,
    Compensation,
    InnerName,
    LabelOptions,
    Pool,
    Reduction,
    check_scale,
)
from equilog.losses.multiclass import class_sums
from equilog.losses.multilabel import label_sums, multilabel_cross_entropy
from equilog.ops import mean_of

__all__ = [
    "class_mass",
    "minimum",
    "multilabel_minimum",
    "multilabel_regret",
    "multilabel_scores",
    "regret",
    "scores",
]


def class_mass(target: Tensor, *, max_iterations: int = 100) -> Tensor:
    r"""Class mass at the optimum of one log per class without compensation, for one pool of probability targets.

    With $M_{jk} = \sum_i \sqrt{t_{ij} t_{ik}}$ it is $A_j = u_j^{-2}$ of the only positive solution of

    $$ u_j \Bigl(u_j + \sum_{k \ne j} M_{jk} u_k\Bigr) = 1 \quad \text{for every } j, $$

    the symmetric scaling of $I + M$ to a doubly stochastic matrix. Solved by Newton's method in $b = -\log u$, where
    it is the minimum of a convex function of C numbers, whatever n is.

    Args:
        target: (n, C) probabilities. A row that sums to v instead of 1 is a set of sample weight v.
        max_iterations: Newton steps before giving up; a dozen is usual.

    Returns:
        (C,) float64, 1 or more; 1 for a class whose sets are all certain.

    Raises:
        TypeError, ValueError: target is not (n, C) floating point, or holds a negative or non-finite value.
        RuntimeError: not solved within `max_iterations`; says how far it came.

    Source:
        This project. On matrix scaling: Sinkhorn 1967, "Diagonal equivalence to matrices with prescribed row and
        column sums"; as a convex problem, Marshall & Olkin 1968, "Scaling of matrices to achieve specified row and
        column sums".

    Example:
        >>> class_mass(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))  # u^2 (1 + 1/2) = 1
        tensor([1.5000, 1.5000], dtype=torch.float64)
    """
    where = "class_mass"
    target = _as_probabilities(where, target)
    if not bool((target >= 0).all() & target.isfinite().all()):
        raise ValueError(f"{where}: target probabilities must be finite and not negative.")
    return _solve(_affinity(target)[None], max_iterations)[0]


def scores(
    target: Tensor,
    *,
    balance: Balance | Tensor | Grouping = "class",
    inner: InnerName = "odds",
    compensation: Compensation | None = "weight",
    pool: Pool = "batch",
    scale: float = 1.0,
) -> Tensor:
    r"""Scores at which `log_balanced_cross_entropy` of these targets is smallest.

    $$ s_{ij} = \frac{\log t_{ij} - \log A_j}{2 \cdot \text{scale}} + \text{const}_i $$

    $A_j$ is the `class_mass` of the set's pool for balance "class" without compensation, and 1 for everything else,
    so that there $\mathrm{softmax}(2 \cdot \text{scale} \cdot s_i)$ is the target itself. The constant of a set is
    free; here it makes the doubled scores log-probabilities. For inner "nll" and "divergence" they are the log-targets
    / scale. There the gradient of "nll" is 0, but its value need not be the smallest: it is in pools of one set, and
    nearby where 1 + H_j is at least the summed target of every class ($H_j = -\sum_i t_{ij} \log t_{ij}$).

    Args:
        target: (n, C) probabilities, each row summing to 1.
        balance: the loss's.
        inner: the loss's.
        compensation: the loss's.
        pool: the loss's.
        scale: the loss's.

    Returns:
        (n, C) float64; minus infinity where the target is 0. A loss with such targets, certain ones above all, only
        comes ever closer to its minimum.

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape or range; inner "nll" without compensation, which
            has no closed form. RuntimeError: as `class_mass`.

    Source:
        This project, except balance "class" without compensation with two classes: Su Jianlin,
        https://kexue.fm/archives/9064 (2022).

    Example:
        >>> target = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]])
        >>> (2 * scores(target)).softmax(1)
        tensor([[0.7000, 0.2000, 0.1000],
                [0.1000, 0.8000, 0.1000]], dtype=torch.float64)
        >>> (2 * scores(target, compensation=None)).softmax(1)  # what the article's loss answers
        tensor([[0.6942, 0.1879, 0.1179],
                [0.1024, 0.7759, 0.1217]], dtype=torch.float64)
    """
    where = "scores"
    target = _as_probabilities(where, target)
    options = ClassOptions(
        where=where, balance=balance, inner=inner, compensation=compensation, pool=pool, scale=scale, validate=True
    )
    read_sets(options, torch.zeros_like(target), target, None)
    log_answer = target.log()
    grouping = as_grouping(options, target.shape[1], target.device)
    if inner == "nll" and compensation is None:
        raise ValueError(
            f'{where}: inner "nll" without compensation has no closed form; use compensation "weight" or "offset".'
        )
    if isinstance(grouping, ClassBalance) and inner == "odds" and compensation is None:
        pools = as_pools(options, target.shape[:1], target.device)
        sizes = pools.ids.bincount(minlength=pools.count).tolist()
        affinity = [_affinity(sets) for sets in torch.split(target[pools.ids.argsort(stable=True)], sizes)]
        if affinity:
            log_answer = log_answer - _solve(torch.stack(affinity)).log()[pools.ids]
    return log_answer.log_softmax(1) / (INNERS[inner].calibration_factor * scale)


def minimum(
    target: Tensor,
    *,
    balance: Balance | Tensor | Grouping = "class",
    inner: InnerName = "odds",
    compensation: Compensation | None = "weight",
    pool: Pool = "batch",
    reduction: Reduction = "mean",
) -> Tensor:
    r"""The smallest value `log_balanced_cross_entropy` can take with these targets: its value at `scores`.

    With $R_j = \sum_i \sqrt{t_{ij}} (\sum_k \sqrt{t_{ik}} - \sqrt{t_{ij}})$ the sum of one pool is $\sum_j w_j \log(1 +
    R_j)$ for compensation "weight", $C \log(1 + \max_k R_k)$ for "offset", $\sum_j \log A_j$ for None. It is 0 for
    certain targets and the same for every scale. For inner "divergence" it is 0, up to rounding; for "nll", with $R_j =
    -\sum_i t_{ij} \log t_{ij}$, it is the value at the answer, of which `scores` says when it is the smallest.

    Args:
        target: (n, C) probabilities, each row summing to 1.
        balance: the loss's.
        inner: the loss's.
        compensation: the loss's.
        pool: the loss's.
        reduction: the loss's.

    Returns:
        Nats, float64, a scalar, or one value a pool for reduction "none".

    Raises:
        TypeError, ValueError, RuntimeError: as `scores`.

    Source:
        This project.

    Example:
        >>> target = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
        >>> minimum(target, reduction="sum")  # 2 log(1 + 1/2)
        tensor(0.8109, dtype=torch.float64)
        >>> minimum(target)  # of two samples, and two logs
        tensor(0.4055, dtype=torch.float64)
    """
    best = scores(target, balance=balance, inner=inner, compensation=compensation, pool=pool)
    options = ClassOptions(where="minimum", balance=balance, inner=inner, compensation=compensation, pool=pool)
    target = target.detach()
    least = class_sums(options, read_sets(options, best, target, None), None, None)
    finite = class_sums(options, read_sets(options, torch.zeros_like(best), target, None), None, None)
    return _reduced(reduction, least.loss(replace(options, reduction=_undivided(reduction))), finite)


def regret(
    logits: Tensor,
    target: Tensor,
    *,
    balance: Balance | Tensor | Grouping = "class",
    inner: InnerName = "odds",
    compensation: Compensation | None = "weight",
    pool: Pool = "batch",
    scale: float = 1.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """How much of `log_balanced_cross_entropy` better scores could still remove: the loss less its `minimum`.

    Zero exactly at `scores`, up to a constant in each set, and positive everywhere else; for inner "nll" it may be
    negative, where the answer is not the minimum. Its gradient is the loss's.

    Args:
        logits: (n, C), floating point, with the log-prior added where the loss has one.
        target: (n, C) probabilities, each row summing to 1; or (n,) class indices, whose minimum is 0.
        balance: the loss's.
        inner: the loss's.
        compensation: the loss's.
        pool: the loss's.
        scale: the loss's.
        reduction: the loss's.

    Returns:
        Nats, float64, a scalar, or one value a pool for reduction "none"; 0 or more, but for "nll".

    Raises:
        TypeError, ValueError, RuntimeError: as `scores`.

    Source:
        This project.

    Example:
        >>> target = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]])
        >>> regret(torch.zeros(2, 3), target)
        tensor(0.1411, dtype=torch.float64)
        >>> regret(scores(target), target)
        tensor(0., dtype=torch.float64)
    """
    options = ClassOptions(
        where="regret",
        balance=balance,
        inner=inner,
        compensation=compensation,
        pool=pool,
        scale=scale,
        reduction=_undivided(reduction),
    )
    part = class_sums(options, read_sets(options, logits.double(), target, None), None, None)
    excess = part.loss(options)
    if target.is_floating_point():
        undivided = _undivided(reduction)
        excess = excess - minimum(
            target, balance=balance, inner=inner, compensation=compensation, pool=pool, reduction=undivided
        )
        # Of nll, which may be less elsewhere, a difference below 0 is to be seen; of the others it is rounding.
        excess = excess if inner == "nll" else excess.clamp(min=0.0)
    return _reduced(reduction, excess, part)


def multilabel_scores(target: Tensor, *, scale: float = 1.0) -> Tensor:
    r"""Scores at which `multilabel_cross_entropy` of these targets is smallest, whatever the pools.

    $$ x = \frac{\log t - \log(1 - t)}{2 \cdot \text{scale}} $$

    Args:
        target: any shape, in [0, 1].
        scale: the loss's.

    Returns:
        Scores of the target's shape, float64; infinite where the target is 0 or 1.

    Raises:
        ValueError: scale is not positive.

    Source:
        Su Jianlin, https://kexue.fm/archives/9064 (2022).

    Example:
        >>> (2 * multilabel_scores(torch.tensor([0.0, 0.3, 0.5]))).sigmoid()
        tensor([0.0000, 0.3000, 0.5000], dtype=torch.float64)
    """
    check_scale("multilabel_scores", scale)
    return torch.logit(target.double()) / (2.0 * scale)


def multilabel_minimum(target: Tensor, *, pool: Pool = "sample", reduction: Reduction = "mean") -> Tensor:
    r"""The smallest `multilabel_cross_entropy`: $2 \log(1 + \sum \sqrt{t (1 - t)})$ summed over the pools.

    Args:
        target: of the shape of the logits, in [0, 1].
        pool: the loss's.
        reduction: the loss's.

    Returns:
        Nats, float64, a scalar, or one value a pool for reduction "none".

    Source:
        This project.

    Example:
        >>> multilabel_minimum(torch.tensor([[0.5, 0.5, 1.0]]), reduction="sum")  # 2 log 2
        tensor(1.3863, dtype=torch.float64)
    """
    best = multilabel_scores(target)
    least = multilabel_cross_entropy(best, target, pool=pool, reduction=_undivided(reduction))
    return _reduced(reduction, least, _sums_of_labels(torch.zeros_like(best), target, pool))


def multilabel_regret(
    logits: Tensor,
    target: Tensor,
    *,
    pool: Pool = "sample",
    scale: float = 1.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """How much of `multilabel_cross_entropy` better scores could still remove: the loss less its minimum.

    Args:
        logits: (N, L) or any shape that starts with the samples, floating point.
        target: of the shape of `logits`, in [0, 1].
        pool: the loss's.
        scale: the loss's.
        reduction: the loss's.

    Returns:
        Nats, float64, a scalar, or one value a pool for reduction "none"; 0 or more.

    Source:
        This project.

    Example:
        >>> multilabel_regret(torch.zeros(1, 2), torch.tensor([[0.5, 0.5]]))
        tensor(0., dtype=torch.float64)
    """
    undivided = _undivided(reduction)
    loss = multilabel_cross_entropy(logits.double(), target, pool=pool, scale=scale, reduction=undivided)
    excess = (loss - multilabel_minimum(target, pool=pool, reduction=undivided)).clamp(min=0.0)
    return _reduced(reduction, excess, _sums_of_labels(logits.double(), target, pool))


def _undivided(reduction: Reduction) -> Reduction:
    """Return the reduction before anything is divided: the mean is made of the sum."""
    return "sum" if reduction == "mean" else reduction


def _reduced(reduction: Reduction, values: Tensor, pools: PoolSums) -> Tensor:
    """Return undivided values, divided by the units of these pools for the mean."""
    return mean_of(values, pools.mean_units()) if reduction == "mean" else values


def _sums_of_labels(logits: Tensor, target: Tensor, pool: Pool) -> PoolSums:
    options = LabelOptions(where="multilabel_minimum", pool=pool)
    labels = read_labels(options, logits, target, weight=None, sample_weight=None, mask=None)
    return label_sums(options, labels, None, None)


def _as_probabilities(where: str, target: Tensor) -> Tensor:
    if not isinstance(target, Tensor) or not target.is_floating_point() or target.dim() != 2:
        found = f"{tuple(target.shape)} {target.dtype}" if isinstance(target, Tensor) else type(target).__name__
        raise TypeError(
            f"{where}: target must be a tensor of (n, C) floating point probabilities; got {found}. Class indices "
            f"become such with torch.nn.functional.one_hot(target, C).double()."
        )
    return target.detach().double()


def _affinity(target: Tensor) -> Tensor:
    """Return I + M (C, C): M_jk = sum_i sqrt(t_ij t_ik) off the diagonal."""
    root = target.sqrt()
    affinity: Tensor = root.T @ root
    return affinity.fill_diagonal_(1.0)


def _solve(affinity: Tensor, max_iterations: int = 100) -> Tensor:
    """Return the class masses (P, C) of P matrices (P, C, C) by Newton's method with a line search.

    With b = -log u the equations are the zero gradient of sum_j b_j + 1/2 sum_jk K_jk exp(-b_j - b_k).
    """
    b = 0.5 * affinity.sum(2).log()
    for _ in range(max_iterations):
        scaled = affinity * torch.exp(-b[:, :, None] - b[:, None, :])
        gradient = 1.0 - scaled.sum(2)
        hessian = scaled + torch.diag_embed(scaled.sum(2))
        step = -torch.cholesky_solve(gradient[:, :, None], torch.linalg.cholesky(hessian)).squeeze(2)
        slope = (gradient * step).sum(1)
        start = _objective(affinity, b)
        length = torch.ones_like(slope)
        # What rounding leaves of the objective cannot be held against a step.
        allowed = 1e-15 * affinity.shape[1] * (1.0 + start.abs())
        for _ in range(60):
            too_long = _objective(affinity, b + length[:, None] * step) > start + 0.25 * length * slope + allowed
            if not bool(too_long.any()):
                break
            length = torch.where(too_long, 0.5 * length, length)
        b = b + length[:, None] * step
        # A full Newton step this small leaves its square.
        if bool((step.abs() < 1e-8).all()):
            return (2.0 * b).exp()
    residual = float((1.0 - (affinity * torch.exp(-b[:, :, None] - b[:, None, :])).sum(2)).abs().max())
    raise RuntimeError(
        f"class_mass: not solved after {max_iterations} Newton steps: u_j (u_j + sum_k M_jk u_k) is off 1 by up to "
        f"{residual:.2g}. Give more max_iterations, or check the target for extreme values."
    )


def _objective(affinity: Tensor, b: Tensor) -> Tensor:
    scaled = affinity * torch.exp(-b[:, :, None] - b[:, None, :])
    return b.sum(1) + 0.5 * scaled.sum((1, 2))
