"""Every loss with every option that changes its formula, declared once; the tests of the contract run from here."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from contract import reference
from equilog import log_balanced_cross_entropy, multilabel_cross_entropy

IGNORED = -100


@dataclass(frozen=True)
class Inputs:
    """One call of a loss: (N, C, d1, ...) or multi-label (N, L), with every keyword."""

    logits: Tensor
    target: Tensor
    options: dict[str, Any]

    def with_logits(self, logits: Tensor) -> "Inputs":
        return replace(self, logits=logits)

    def with_options(self, **options: Any) -> "Inputs":
        return replace(self, options=self.options | options)

    def at(self, index: Tensor) -> "Inputs":
        """The same call with only these sets, in this order; for sets in a row (see `Case.in_a_row`)."""
        chosen = {name: self.options[name][index] for name in PER_SET if self.options.get(name) is not None}
        return Inputs(self.logits[index], self.target[index], self.options | chosen)


PER_SET = ("pool", "sample_weight", "mask", "weight of labels", "prior of labels")


@dataclass(frozen=True)
class Case:
    """A loss with its options, the inputs it is tried on, and what it promises beyond what all promise."""

    name: str
    function: Callable[..., Tensor]
    formula: Callable[..., reference.Pooled]
    draw: Callable[[torch.Generator], Inputs]
    tags: frozenset[str] = field(default_factory=frozenset)

    @property
    def multilabel(self) -> bool:
        return self.function is multilabel_cross_entropy

    @property
    def link(self) -> float:
        """Soft targets are answered by softmax(link * scale * z)."""
        return 1.0 if "gentle" in self.tags else 2.0

    def inputs(self, seed: int = 0) -> Inputs:
        return self.draw(torch.Generator().manual_seed(seed))

    def loss(self, inputs: Inputs, **changes: Any) -> Tensor:
        options = _plainly_named(inputs.options | changes)
        return self.function(inputs.logits, inputs.target, **options)

    def gradient(self, inputs: Inputs, **changes: Any) -> Tensor:
        logits = inputs.logits.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.loss(inputs.with_logits(logits), **changes), logits)
        return gradient

    def in_a_row(self, inputs: Inputs) -> Inputs:
        """The same sets as (n, C), or labels as (n,), with one pool id, weight and mask each."""
        shape = inputs.target.shape
        if not self.multilabel and inputs.target.is_floating_point():
            shape = shape[:1] + shape[2:]
        options = dict(inputs.options)
        # Labels (L,) are one sample.
        usual = None if not self.multilabel else "sample" if len(shape) > 1 else "batch"
        options["pool"] = pool_ids(options.pop("pool", usual), shape)
        if options.get("sample_weight") is not None:
            options["sample_weight"] = one_a_set(options["sample_weight"], shape)
        if self.multilabel:
            if options.get("prior") is not None:
                between = options["prior"].reshape(-1, *[1] * (len(shape) - 2))
                options["prior"] = between.expand(shape).reshape(-1)
            for name in ("mask", "weight"):
                if options.get(name) is not None:
                    options[name] = options[name].expand(shape).reshape(-1)
            for name in ("weight", "prior"):
                if name in options:
                    options[f"{name} of labels"] = options.pop(name)
            return Inputs(inputs.logits.reshape(-1), inputs.target.reshape(-1), options)
        target = inputs.target
        target = classes_last(target) if target.is_floating_point() else target.reshape(-1)
        return Inputs(classes_last(inputs.logits), target, options)

    def expected(self, inputs: Inputs) -> reference.Pooled:
        """Values and units of the pools in many digits, and the gradient of the sum in the shape of the logits."""
        row = self.in_a_row(inputs)
        options = _plainly_named(row.options)
        if self.multilabel:
            shape, pool = inputs.logits.shape, inputs.options.get("pool")
            by_label = isinstance(pool, str) and pool == "label"
            options["one_a_sample"] = shape[2:].numel() == 1 and by_label
        samples = 1 if self.multilabel and inputs.logits.dim() == 1 else len(inputs.logits)
        sets = len(row.logits)
        options["sample"] = torch.arange(sets) // (sets // samples)
        weight = inputs.options.get("sample_weight")
        options["sample_weighs"] = weight is not None and weight.shape == (samples,)
        pooled = self.formula(row.logits.double(), row.target, **options)
        if self.multilabel:
            return replace(pooled, gradient=pooled.gradient.reshape(inputs.logits.shape))
        last = inputs.logits.movedim(1, -1)
        return replace(pooled, gradient=pooled.gradient.reshape(last.shape).movedim(-1, 1))


def _plainly_named(options: dict[str, Any]) -> dict[str, Any]:
    """Options in which a value a label goes by the argument's own name."""
    return {name.removesuffix(" of labels"): value for name, value in options.items()}


def classes_last(values: Tensor) -> Tensor:
    """(N, C, d1, ...) -> (N d1 ..., C)."""
    return values.movedim(1, -1).reshape(-1, values.shape[1])


def one_a_set(values: Tensor, shape: torch.Size) -> Tensor:
    """One value a set, or one a sample, -> one a set in a row."""
    return values.reshape(values.shape + (1,) * (len(shape) - values.dim())).expand(shape).reshape(-1)


def pool_ids(pool: Any, shape: torch.Size) -> Tensor:
    """The pool of each set in a row, from what `pool` says."""
    number = torch.arange(shape.numel())
    if isinstance(pool, Tensor):
        return one_a_set(pool, shape)
    if isinstance(pool, int):
        return number // pool
    if pool == "label":
        return number // shape[2:].numel() % shape[1]
    if pool == "sample" or (pool is None and len(shape) > 1):
        return number // shape[1:].numel()
    return torch.zeros_like(number)


def random_targets(kind: str, shape: tuple[int, ...], classes: int, generator: torch.Generator) -> Tensor:
    """Targets of N, d1, ... sets: "index", "probability", or "sparse" probabilities with zeros and ones in them."""
    if kind == "index":
        return torch.randint(classes - 1, shape, generator=generator)  # the last class is never seen
    scores = 2 * torch.randn(shape[0], classes, *shape[1:], generator=generator, dtype=torch.float64)
    if kind == "sparse":
        scores = torch.where(torch.rand(scores.shape, generator=generator) < 0.4, -torch.inf, scores)
        scores[:, 0] = scores[:, 0].nan_to_num(neginf=0.0)
    return scores.softmax(1)


def _balanced(
    name: str,
    *tags: str,
    kind: str = "index",
    shape: tuple[int, ...] = (9,),
    classes: int = 4,
    weighted: str | None = None,
    ignored: bool = False,
    prior: bool = False,
    weight: bool = False,
    **options: Any,
) -> Case:
    def draw(generator: torch.Generator) -> Inputs:
        logits = 2 * torch.randn(shape[0], classes, *shape[1:], generator=generator, dtype=torch.float64)
        target = random_targets(kind, shape, classes, generator)
        chosen = dict(options)
        if weighted is not None:
            size = shape if weighted == "set" else shape[:1]
            chosen["sample_weight"] = 3 * torch.rand(size, generator=generator, dtype=torch.float64)
            chosen["sample_weight"].view(-1)[1] = 0.0
        if ignored:
            target.view(-1)[::4] = IGNORED
        if prior:
            chosen["prior"] = 0.1 + torch.rand(classes, generator=generator, dtype=torch.float64)
        if weight:
            chosen["weight"] = torch.rand(classes, generator=generator, dtype=torch.float64)
        if isinstance(chosen.get("pool"), str) and chosen["pool"] == "ids":
            chosen["pool"] = torch.randint(4, shape, generator=generator)
        return Inputs(logits, target, chosen)

    found = set(tags) | {kind}
    inner = options.get("inner", "odds")
    hard = kind == "index" and not options.get("label_smoothing")
    found.add("convex" if inner == "odds" or (inner == "power" and hard) else "gentle")
    compensated = options.get("balance", "class") == "class" and options.get("compensation", "weight") is not None
    if kind != "index" or options.get("label_smoothing"):
        found.add("soft")
        if compensated and inner != "divergence":
            found.add("compensated")
        answers = options.get("balance", "class") != "class" or compensated
        if inner == "divergence" or (answers and not weight):
            found.add("stationary")  # at softmax(link scale z) = t
            if inner not in ("nll", "power"):
                found.add("exact")  # and least there alone
    else:
        found.add("hard")
    return Case(name, log_balanced_cross_entropy, reference.balanced, draw, frozenset(found))


def _multilabel(
    name: str,
    *tags: str,
    kind: str = "index",
    shape: tuple[int, ...] = (4, 5),
    weighted: str | None = None,
    masked: bool = False,
    prior: bool = False,
    weight: bool = False,
    **options: Any,
) -> Case:
    def draw(generator: torch.Generator) -> Inputs:
        logits = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
        target = torch.rand(shape, generator=generator, dtype=torch.float64)
        if kind == "index":
            target = (target < 0.3).long()
        elif kind == "sparse":
            target = (2 * target - 0.5).clamp(0, 1)
        chosen = dict(options)
        if weighted is not None:
            size = shape if weighted == "set" else shape[:1]
            chosen["sample_weight"] = 3 * torch.rand(size, generator=generator, dtype=torch.float64)
            chosen["sample_weight"].view(-1)[1] = 0.0
        if masked:
            chosen["mask"] = torch.rand(shape, generator=generator) < 0.7
        if prior:
            chosen["prior"] = 0.05 + 0.9 * torch.rand(shape[1], generator=generator, dtype=torch.float64)
        if weight:
            chosen["weight"] = torch.rand(shape[1:], generator=generator, dtype=torch.float64)
        if isinstance(chosen.get("pool"), str) and chosen["pool"] == "ids":
            chosen["pool"] = torch.randint(4, shape, generator=generator)
        return Inputs(logits, target, chosen)

    inner = options.get("inner", "odds")
    found = set(tags) | {kind, "hard" if kind == "index" else "soft"}
    found.add("convex" if inner == "odds" or (inner == "power" and kind == "index") else "gentle")
    if kind != "index" and inner in ("nll", "power"):
        found.add("always compensated")
    if kind != "index" and (options.get("pos_weight") is None or inner == "divergence"):
        found.add("stationary")
        if inner not in ("nll", "power"):
            found.add("exact")
    return Case(name, multilabel_cross_entropy, reference.multilabel, draw, frozenset(found))


BLOCKS = torch.tensor([2, 0, 0, 7])
BALANCES: dict[str, Any] = {"class": "class", "pair": "pair", "none": "none", "blocks": BLOCKS}
POOLS: dict[str, Any] = {"default": None, "one": 1, "four": 4, "ids": "ids"}
KINDS = ("index", "probability")
GENTLE = ("nll", "divergence")
INNERS = ("odds", "power", *GENTLE)

CASES: tuple[Case, ...] = (
    *(
        _balanced(f"{balance}-{kind}-{pool}", kind=kind, balance=BALANCES[balance], pool=POOLS[pool])
        for balance in BALANCES
        for kind in KINDS
        for pool in POOLS
    ),
    *(
        _balanced(f"{compensation}-{kind}-{pool}", kind=kind, compensation=compensation, pool=POOLS[pool])
        for compensation in ("offset", None)
        for kind in KINDS
        for pool in ("default", "four")
    ),
    *(_balanced(f"{balance}-sparse", kind="sparse", balance=BALANCES[balance]) for balance in BALANCES),
    *(_balanced(f"{balance}-smoothing", balance=BALANCES[balance], label_smoothing=0.2) for balance in BALANCES),
    *(
        _balanced(f"{balance}-two-{kind}", kind=kind, balance=balance, classes=2)
        for balance in ("class", "pair")
        for kind in KINDS
    ),
    *(
        _balanced(
            f"{balance}-{kind}-everything",
            kind=kind,
            balance=BALANCES[balance],
            pool=4,
            scale=0.7,
            prior=True,
            prior_strength=0.8,
            weight=balance in ("class", "pair"),
            weighted="set",
            ignored=kind == "index",
        )
        for balance in BALANCES
        for kind in KINDS
    ),
    *(
        _balanced(f"{inner}-{kind}-{pool}", inner=inner, kind=kind, pool=POOLS[pool])
        for inner in GENTLE
        for kind, pools in {"index": POOLS, "probability": ("default", "four"), "sparse": ("default",)}.items()
        for pool in pools
    ),
    *(
        _balanced(f"nll-{compensation}-{kind}", inner="nll", kind=kind, compensation=compensation)
        for compensation in ("offset", None)
        for kind in KINDS
    ),
    _balanced("divergence-uncompensated", inner="divergence", kind="probability", compensation=None),
    *(
        _balanced(
            f"{inner}-{kind}-everything",
            inner=inner,
            kind=kind,
            pool=4,
            scale=0.7,
            prior=True,
            prior_strength=0.8,
            weight=True,
            weighted="set",
            ignored=kind == "index",
        )
        for inner in GENTLE
        for kind in KINDS
    ),
    *(_balanced(f"{inner}-smoothing", inner=inner, label_smoothing=0.2, pool=3) for inner in INNERS[1:]),
    *(
        _balanced(f"power-{kind}-{pool}", inner="power", kind=kind, pool=POOLS[pool])
        for kind, pool in (("index", "default"), ("index", "four"), ("probability", "four"), ("sparse", "default"))
    ),
    *(
        _balanced(f"power-{compensation}", inner="power", kind="probability", compensation=compensation)
        for compensation in ("offset", None)
    ),
    _balanced(
        "power-everything",
        inner="power",
        kind="probability",
        pool=4,
        scale=0.7,
        prior=True,
        weight=True,
        weighted="set",
    ),
    *(_balanced(f"{inner}-positions", inner=inner, shape=(3, 4), weighted="sample", ignored=True) for inner in GENTLE),
    *(_balanced(f"{inner}-two-{kind}", inner=inner, kind=kind, classes=2) for inner in GENTLE for kind in KINDS),
    *(
        _balanced(f"{balance}-many-classes-{pool}", balance=balance, classes=classes, pool=pool, weight=True)
        for balance in ("class", "pair")
        for classes, pool in ((8, 2), (20, 3))
    ),
    _balanced("class-many-everything", classes=20, pool=3, weight=True, weighted="set", ignored=True, prior=True),
    _balanced("class-many-nll", classes=33, pool=4, inner="nll", weighted="set", ignored=True),
    _balanced("positions-many-classes", shape=(3, 4), classes=32, weighted="sample", ignored=True),
    _balanced("class-prior", prior=True),
    _balanced("class-soft-prior", kind="probability", prior=True, scale=0.5),
    _balanced("class-weight", weight=True),
    _balanced("offset-weight", kind="probability", weight=True, compensation="offset"),
    _balanced("class-soft-smoothing", kind="sparse", label_smoothing=0.3, weighted="set"),
    _balanced("class-smoothing-ignored", label_smoothing=0.3, ignored=True, pool=3),
    _balanced("class-weighted", weighted="set", pool=3),
    _balanced("class-soft-weighted", weighted="set", kind="probability", pool="batch"),
    _balanced("positions", shape=(3, 4), weighted="sample", ignored=True),
    _balanced("positions-soft", shape=(3, 2, 2), kind="probability", weighted="set"),
    _balanced("positions-batch", shape=(3, 2, 2), pool="batch", weighted="sample"),
    _balanced("positions-five", shape=(3, 4), pool=5, kind="probability", compensation="offset"),
    _balanced("positions-ids", shape=(3, 4), pool="ids", ignored=True),
    _balanced("positions-ids-a-sample", shape=(3, 4), pool=torch.tensor([2, 0, 2])),
    _balanced("positions-pairs", shape=(3, 4), kind="probability", balance="pair"),
    _balanced("samples-apart", pool="sample", kind="probability"),
    *(
        _multilabel(f"multilabel-{kind}-{pool}", kind=kind, pool={"default": "sample"}.get(pool, POOLS[pool]))
        for kind in ("index", "probability", "sparse")
        for pool in POOLS
    ),
    _multilabel("multilabel-batch", kind="probability", pool="batch", scale=0.6),
    _multilabel("multilabel-positions", kind="probability", shape=(3, 2, 2), weighted="sample", masked=True),
    _multilabel("multilabel-alone", shape=(8,)),
    *(_multilabel(f"multilabel-{inner}-index", inner=inner) for inner in INNERS[1:]),
    *(_multilabel(f"multilabel-{inner}-soft", inner=inner, kind="probability", pool=6) for inner in INNERS[1:]),
    *(
        _multilabel(
            f"multilabel-{inner}-everything",
            inner=inner,
            kind="sparse",
            pool="ids",
            scale=1.3,
            weighted="set",
            masked=True,
            weight=True,
            prior=True,
            prior_strength=0.7,
            pos_weight=2.5,
        )
        for inner in GENTLE
    ),
    _multilabel("multilabel-prior", prior=True, prior_strength=0.7, kind="probability", scale=0.6),
    _multilabel("multilabel-label-index", pool="label", prior=True),
    _multilabel("multilabel-label-soft", pool="label", kind="probability", weighted="sample", masked=True),
    _multilabel("multilabel-label-nll", pool="label", inner="nll", kind="sparse", weighted="sample", masked=True),
    _multilabel("multilabel-label-divergence", pool="label", inner="divergence", weighted="set"),
    _multilabel(
        "multilabel-label-positions",
        pool="label",
        kind="probability",
        shape=(3, 2, 2),
        prior=True,
        weighted="sample",
        masked=True,
    ),
    _multilabel(
        "multilabel-everything",
        kind="sparse",
        pool=3,
        scale=1.3,
        weighted="set",
        masked=True,
        weight=True,
        pos_weight=2.5,
    ),
)


def cases(*tags: str, multilabel: bool | None = None, without: str | None = None) -> list[Any]:
    """The cases that have all these tags and not that other, as parameters with their names."""
    import pytest

    return [
        pytest.param(case, id=case.name)
        for case in CASES
        if case.tags >= set(tags) and multilabel in (None, case.multilabel) and without not in case.tags
    ]
