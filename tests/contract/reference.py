"""The losses as their formulas are printed: one loop per sum, in 60 digits, where nothing overflows or cancels.

Nothing here is shared with the package. A pool's loss is a sum of w log(1 + D + sum of threats), and a threat is
v t exp(scale (z_k - z_j)) or the inner term of a class, so that value and gradient need one loop over the threats each.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from mpmath import mp, mpf
from torch import Tensor

DIGITS = 60

Threat = tuple[Any, list[tuple[tuple[int, ...], Any]]]
"""Its size, and its derivative with respect to each logit it depends on."""


@dataclass
class Log:
    """weight * log(1 + offset + sum of the threats), each threat with its gradient."""

    weight: Any
    offset: Any = 0
    threats: list[Threat] = field(default_factory=list)

    def value(self) -> Any:
        return self.weight * mp.log1p(self.offset + mp.fsum(size for size, _ in self.threats))

    def add_gradient(self, gradient: dict[tuple[int, ...], Any]) -> None:
        inside = 1 + self.offset + mp.fsum(size for size, _ in self.threats)
        for _, slopes in self.threats:
            for at, slope in slopes:
                gradient[at] = gradient.get(at, mpf(0)) + self.weight * slope / inside


def balanced(
    logits: Tensor,
    target: Tensor,
    *,
    pool: Tensor,
    balance: Any = "class",
    inner: str = "odds",
    compensation: str | None = "weight",
    scale: float = 1.0,
    prior: Tensor | None = None,
    prior_strength: float = 1.0,
    weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    pools: int | None = None,
) -> tuple[list[Any], Tensor]:
    """Return the value of each pool and the gradient of their sum (n, C), for sets (n, C) with pool ids (n,)."""
    with mp.workdps(DIGITS):
        n, classes = logits.shape
        c, strength = mpf(scale), mpf(prior_strength)
        shift = [mpf(0)] * classes if prior is None else [strength * mp.log(mpf(p)) for p in prior.tolist()]
        z = [[_number(value) + s for value, s in zip(row, shift, strict=True)] for row in logits.tolist()]
        v = [mpf(1)] * n if sample_weight is None else [mpf(value) for value in sample_weight.tolist()]
        class_weight = [mpf(1)] * classes if weight is None else [mpf(value) for value in weight.tolist()]
        group_of = _groups(balance, classes)

        t: list[list[Any]] = []
        for i, given in enumerate(target.tolist()):
            if isinstance(given, int):
                if given == ignore_index:
                    v[i] = mpf(0)
                given = [float(j == given) for j in range(classes)]
            present = [value != -mp.inf for value in z[i]]
            mass = mp.fsum(mpf(share) for share in given)
            eps = mpf(label_smoothing)
            t.append(
                [
                    (1 - eps) * mpf(share) + (eps * mass / sum(present) if there else 0)
                    for share, there in zip(given, present, strict=True)
                ]
            )

        values, gradient = [], {}
        for number in range(pools if pools is not None else max(pool.tolist()) + 1):
            members = [i for i in range(n) if pool[i] == number and v[i] != 0]
            logs: dict[Any, Log] = {}
            for j in range(classes):
                for k in range(classes):
                    if j != k:
                        logs.setdefault(group_of(j, k), Log(weight=class_weight[j]))
            soft = target.is_floating_point() or label_smoothing > 0
            if balance == "class" and compensation is not None and soft and classes > 1 and inner != "divergence":
                left = _odds_left if inner == "odds" else _entropy
                _compensate(logs, compensation, [left(t[i]) for i in members], [v[i] for i in members])
            for i in members:
                if inner != "odds":
                    for j, threat in enumerate(_inner_terms(inner, i, z[i], t[i], v[i], c)):
                        logs.setdefault(j, Log(weight=class_weight[j])).threats.append(threat)
                    continue
                for j in range(classes):
                    for k in range(classes):
                        if j != k and t[i][j] > 0 and z[i][k] != -mp.inf:
                            size = v[i] * t[i][j] * mp.exp(c * (z[i][k] - z[i][j]))
                            logs[group_of(j, k)].threats.append((size, [((i, k), c * size), ((i, j), -c * size)]))
            values.append(mp.fsum(log.value() for log in logs.values()))
            for log in logs.values():
                log.add_gradient(gradient)
        return values, _dense(gradient, (n, classes))


def multilabel(
    logits: Tensor,
    target: Tensor,
    *,
    pool: Tensor,
    scale: float = 1.0,
    weight: Tensor | None = None,
    pos_weight: float | None = None,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    pools: int | None = None,
) -> tuple[list[Any], Tensor]:
    """Return the value of each pool and the gradient of their sum (n,), for labels (n,) with pool ids (n,)."""
    with mp.workdps(DIGITS):
        n, c = len(logits), mpf(scale)
        v = [mpf(1)] * n
        for factor in (weight, sample_weight, mask):
            if factor is not None:
                v = [value * mpf(float(f)) for value, f in zip(v, factor.tolist(), strict=True)]
        values, gradient = [], {}
        for number in range(pools if pools is not None else max(pool.tolist()) + 1):
            yes, no = Log(mpf(1 if pos_weight is None else pos_weight)), Log(mpf(1))
            for i in range(n):
                x, t = _number(logits[i].item()), mpf(float(target[i]))
                if pool[i] == number and v[i] != 0:
                    if t > 0:
                        size = v[i] * t * mp.exp(-c * x)
                        yes.threats.append((size, [((i,), -c * size)]))
                    if t < 1:
                        size = v[i] * (1 - t) * mp.exp(c * x)
                        no.threats.append((size, [((i,), c * size)]))
            values.append(yes.value() + no.value())
            for log in (yes, no):
                log.add_gradient(gradient)
        return values, _dense(gradient, (n,))


def _inner_terms(inner: str, i: int, z: Sequence[Any], t: Sequence[Any], v: Any, c: Any) -> Iterator[Threat]:
    """The term of each class in set i: -t log p, or t log(t/p) - t + p, with dp_j/dz_l = c p_j ((j = l) - p_l)."""
    sizes = [mp.exp(c * value) for value in z]
    p = [size / mp.fsum(sizes) for size in sizes]
    for j, share in enumerate(t):
        log_ratio = share * mp.log(p[j]) if share > 0 else mpf(0)
        along = share  # minus the derivative along log p_j
        term = -log_ratio
        if inner == "divergence":
            along = share - p[j]
            term = (share * mp.log(share) if share > 0 else 0) - log_ratio - share + p[j]
        yield v * term, [((i, k), v * c * along * (p[k] - (j == k))) for k in range(len(z)) if p[k] > 0]


def _odds_left(targets: Sequence[Any]) -> list[Any]:
    """sqrt(t_j) (sum_k sqrt(t_k) - sqrt(t_j))."""
    roots = [mp.sqrt(share) for share in targets]
    return [root * (mp.fsum(roots) - root) for root in roots]


def _entropy(targets: Sequence[Any]) -> list[Any]:
    """-t_j log t_j."""
    return [-share * mp.log(share) if share > 0 else mpf(0) for share in targets]


def _compensate(logs: dict[Any, Log], compensation: str, terms: Sequence[Sequence[Any]], v: Sequence[Any]) -> None:
    """Give each class's log its weight (1 + R_j) / mean, or its offset max R - R_j."""
    classes = len(logs)
    left = [mpf(0)] * classes
    for of_set, factor in zip(terms, v, strict=True):
        for j in range(classes):
            left[j] += factor * of_set[j]
    mean = 1 + mp.fsum(left) / classes
    for j in range(classes):
        if compensation == "weight":
            logs[j].weight *= (1 + left[j]) / mean
        else:
            logs[j].offset = max(left) - left[j]


def _groups(balance: Any, classes: int) -> Callable[[int, int], Any]:
    if isinstance(balance, Tensor):
        block = balance.tolist()
        return lambda j, k: (block[j], block[k])
    named: dict[str, Callable[[int, int], Any]] = {
        "class": lambda j, _: j,
        "pair": lambda j, k: j * classes + k,
        "none": lambda *_: 0,
    }
    return named[balance]


def _number(value: float) -> Any:
    return -mp.inf if value == -torch.inf else mpf(value)


def _dense(gradient: dict[tuple[int, ...], Any], shape: tuple[int, ...]) -> Tensor:
    dense = torch.zeros(shape, dtype=torch.float64)
    for at, value in gradient.items():
        dense[at] = float(value)
    return dense
