"""The losses as their formulas are printed: one loop per sum, in 60 digits, where nothing overflows or cancels.

Nothing here is shared with the package. A pool's loss is a sum of w log(1 + D + sum of terms), and a term is
v t exp(scale (z_k - z_j)) or the inner term of a class, so that value and gradient need one loop over the terms each.
The unit of a pool, by whose sum the mean divides, is the larger of its samples and its logs that hold something.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from mpmath import mp, mpf
from torch import Tensor

DIGITS = 60

Term = tuple[Any, list[tuple[tuple[int, ...], Any]]]
"""Its size, and its derivative with respect to each logit it depends on."""


@dataclass
class Pooled:
    """What a loss makes of each pool."""

    values: list[Any]
    """The value of each pool."""
    units: list[Any]
    """The unit of each pool."""
    gradient: Tensor
    """That of the sum of the values, for logits (n, C) or (n,)."""
    heaviest: Any = 1
    """The largest weight w_j that compensates the soft targets of a class."""

    @property
    def mean(self) -> Any:
        """The sum of the values, divided by that of the units."""
        return mp.fsum(self.values) / (mp.fsum(self.units) or 1)


@dataclass
class Log:
    """weight * log(1 + offset + sum of the terms), each term with its gradient."""

    weight: Any
    offset: Any = 0
    terms: list[Term] = field(default_factory=list)

    def value(self) -> Any:
        return self.weight * mp.log1p(self.offset + mp.fsum(size for size, _ in self.terms))

    @property
    def holds(self) -> bool:
        return any(size > 0 for size, _ in self.terms)

    def add_gradient(self, gradient: dict[tuple[int, ...], Any]) -> None:
        inside = 1 + self.offset + mp.fsum(size for size, _ in self.terms)
        for _, slopes in self.terms:
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
    sample: Tensor | None = None,
    sample_weighs: bool = True,
) -> Pooled:
    """Return what there is to know of sets (n, C) with pool ids (n,).

    sample: (n,) the sample of each set; None where each is one.
    sample_weighs: whether `sample_weight` is that of the samples, and not of each set by itself.
    """
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

        of_sample = list(range(n)) if sample is None else sample.tolist()
        positions = max(of_sample.count(number) for number in of_sample)
        values, units, gradient, heaviest = [], [], {}, mpf(1)
        for number in range(max(pool.tolist()) + 1):
            members = [i for i in range(n) if pool[i] == number and v[i] != 0]
            logs: dict[Any, Log] = {}
            for j in range(classes):
                for k in range(classes):
                    if j != k:
                        logs.setdefault(group_of(j, k), Log(weight=class_weight[j]))
            soft = target.is_floating_point() or label_smoothing > 0
            if balance == "class" and compensation is not None and soft and classes > 1 and inner != "divergence":
                left = {"odds": _odds_left, "nll": _entropy, "power": _power_left}[inner]
                weighs = _compensate(logs, compensation, [left(t[i]) for i in members], [v[i] for i in members])
                heaviest = max(heaviest, weighs)
            for i in members:
                if inner != "odds":
                    for j, term in enumerate(_inner_terms(inner, i, z[i], t[i], v[i], c)):
                        logs.setdefault(j, Log(weight=class_weight[j])).terms.append(term)
                    continue
                for j in range(classes):
                    for k in range(classes):
                        if j != k and t[i][j] > 0 and z[i][k] != -mp.inf:
                            size = v[i] * t[i][j] * mp.exp(c * (z[i][k] - z[i][j]))
                            logs[group_of(j, k)].terms.append((size, [((i, k), c * size), ((i, j), -c * size)]))
            values.append(mp.fsum(log.value() for log in logs.values()))
            samples = _samples(members, of_sample, v if sample_weighs else None)
            if weight is not None and members:
                weighted = mp.fsum(v[i] * t[i][j] * class_weight[j] for i in members for j in range(classes))
                samples *= weighted / mp.fsum(v[i] for i in members)
            # A gentle term has no more gradient than cross-entropy in a set that is a sample, in all logs together.
            gentle = inner in ("nll", "divergence") and positions == 1
            held = 0 if gentle else mp.fsum(log.weight for log in logs.values() if log.holds)
            units.append(max(_logs_of_a_set(balance, classes) * samples, held))
            for log in logs.values():
                log.add_gradient(gradient)
        return Pooled(values, units, _dense(gradient, (n, classes)), heaviest)


def multilabel(
    logits: Tensor,
    target: Tensor,
    *,
    pool: Tensor,
    inner: str = "odds",
    scale: float = 1.0,
    prior: Tensor | None = None,
    prior_strength: float = 1.0,
    weight: Tensor | None = None,
    pos_weight: float | None = None,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    sample: Tensor | None = None,
    sample_weighs: bool = True,
    one_a_sample: bool = False,
) -> Pooled:
    """Return what there is to know of labels (n,) with pool ids and priors (n,); the rest as of `balanced`.

    one_a_sample: whether each sample has one label in a pool.
    """
    with mp.workdps(DIGITS):
        n, c = len(logits), mpf(scale)
        v = [mpf(1)] * n
        for factor in (weight, sample_weight, mask):
            if factor is not None:
                v = [value * mpf(float(f)) for value, f in zip(v, factor.tolist(), strict=True)]
        of_sample = list(range(n)) if sample is None else sample.tolist()
        weighs = [mpf(1)] * n if sample_weight is None else [mpf(value) for value in sample_weight.tolist()]
        odds = [mpf(0)] * n if prior is None else [mp.log(mpf(q) / (1 - mpf(q))) for q in prior.tolist()]
        values, units, gradient, heaviest = [], [], {}, mpf(1)
        for number in range(max(pool.tolist()) + 1):
            yes, no = Log(mpf(1 if pos_weight is None else pos_weight)), Log(mpf(1))
            members = [i for i in range(n) if pool[i] == number and v[i] != 0]
            for i in members:
                x, t = _number(logits[i].item()) + mpf(prior_strength) * odds[i], mpf(float(target[i]))
                if inner != "odds":  # a choice between yes, of score x, and no, of score 0
                    terms = _inner_terms(inner, i, (x, mpf(0)), (t, 1 - t), v[i], c)
                    for log, (size, slopes) in zip((yes, no), terms, strict=True):
                        log.terms.append((size, [((i,), slope) for (_, k), slope in slopes if k == 0]))
                else:
                    if t > 0:
                        size = v[i] * t * mp.exp(-c * x)
                        yes.terms.append((size, [((i,), -c * size)]))
                    if t < 1:
                        size = v[i] * (1 - t) * mp.exp(c * x)
                        no.terms.append((size, [((i,), c * size)]))
            held = yes.holds + no.holds
            if inner in ("nll", "power"):
                targets = [(mpf(float(target[i])), 1 - mpf(float(target[i]))) for i in members]
                left = {"nll": _entropy, "power": _power_left}[inner]
                terms = [left(t) for t in targets]
                heaviest = max(heaviest, _compensate({0: yes, 1: no}, "weight", terms, [v[i] for i in members]))
            values.append(yes.value() + no.value())
            samples = _samples(members, of_sample, weighs if sample_weighs else None)
            gentle = inner in ("nll", "divergence") and one_a_sample
            units.append(samples if gentle else max(samples, held))
            for log in (yes, no):
                log.add_gradient(gradient)
        return Pooled(values, units, _dense(gradient, (n,)), heaviest)


def _samples(members: Sequence[int], of_sample: Sequence[int], weight: Sequence[Any] | None) -> Any:
    """How many different samples these sets are of, each by its weight."""
    weight_of = {of_sample[i]: mpf(1) if weight is None else weight[i] for i in members}
    return mp.fsum(weight_of.values())


def _logs_of_a_set(balance: Any, classes: int) -> int:
    """How many logs a set with an index target may be in."""
    if isinstance(balance, Tensor):
        blocks = len(balance.unique())
        return blocks - 1 if blocks == classes > 1 else blocks
    return max(classes - 1, 1) if balance == "pair" else 1


def _inner_terms(inner: str, i: int, z: Sequence[Any], t: Sequence[Any], v: Any, c: Any) -> Iterator[Term]:
    """The term of each class in set i, and its slopes, with dp_j/dz_l = c p_j ((j = l) - p_l)."""
    sizes = [mp.exp(c * value) for value in z]
    p = [size / mp.fsum(sizes) for size in sizes]
    for j, share in enumerate(t):
        log_ratio = share * mp.log(p[j]) if share > 0 else mpf(0)
        along = share  # minus the derivative along log p_j
        term = -log_ratio
        if inner == "divergence":
            along = share - p[j]
            term = (share * mp.log(share) if share > 0 else 0) - log_ratio - share + p[j]
        if inner == "power":
            factor = share**share if share > 0 else mpf(0)
            along, term = factor * share * mp.exp(-log_ratio), factor * mp.expm1(-log_ratio)
        yield v * term, [((i, k), v * c * along * (p[k] - (j == k))) for k in range(len(z)) if p[k] > 0]


def _odds_left(targets: Sequence[Any]) -> list[Any]:
    """sqrt(t_j) (sum_k sqrt(t_k) - sqrt(t_j))."""
    roots = [mp.sqrt(share) for share in targets]
    return [root * (mp.fsum(roots) - root) for root in roots]


def _entropy(targets: Sequence[Any]) -> list[Any]:
    """-t_j log t_j."""
    return [-share * mp.log(share) if share > 0 else mpf(0) for share in targets]


def _power_left(targets: Sequence[Any]) -> list[Any]:
    """1 - t_j^t_j."""
    return [1 - share**share if share > 0 else mpf(0) for share in targets]


def _compensate(logs: dict[Any, Log], compensation: str, terms: Sequence[Sequence[Any]], v: Sequence[Any]) -> Any:
    """Give each class's log its weight (1 + R_j) / mean, or its offset max R - R_j; return the largest weight."""
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
    return (1 + max(left)) / mean if compensation == "weight" else mpf(1)


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
