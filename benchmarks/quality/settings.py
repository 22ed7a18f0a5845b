"""Every loss that the study asks about, as a setting with a name.

The names of ours say balance, pool and prior: "class-16-auto" is one log per class over 16 sets with the running prior.
What is added at the end is anything that is not the default: "-half" for scale 0.5, "-offset" for another
compensation, "-nll", "-divergence" and "-power" for another inner term, "-at-prior" for training that starts with the
last layer's bias at the frequencies.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from benchmarks.quality.criteria import DeferredReweighting, FocalLabels, SmoothAP, Truncated, WithDice

from equilog import LogBalancedCrossEntropyLoss, MultiLabelCrossEntropyLoss
from equilog.baselines import GeneralizedCrossEntropy
from equilog.baselines.registry import LOSSES, TargetCounts
from equilog.baselines.registry import Task as Kind
from equilog.losses.criterion import Criterion

Prior = Literal["none", "known", "auto"]


@dataclass(frozen=True)
class Setting:
    """One loss with all its options."""

    name: str
    kinds: frozenset[Kind]
    build: Callable[[TargetCounts], Criterion]
    ours: bool = False
    options: tuple[tuple[str, Any], ...] = ()
    """What it is made of, for the figures: balance, pool, prior and the rest, where it is one of ours."""
    starts_at_prior: bool = False
    """Whether the bias of the model's last layer is set to the frequencies of the training targets first."""


def _peer(name: str) -> Setting:
    return Setting(name, LOSSES[name].tasks, LOSSES[name].build)


def _balanced(pool: str | int, prior: Prior, *, balance: str = "class", also: str = "", **options: Any) -> Setting:
    def build(counts: TargetCounts) -> Criterion:
        given: Any = {"none": None, "known": counts.class_count.clamp(min=1.0).float(), "auto": "auto"}[prior]
        chosen: Any = {"balance": balance, "pool": pool, "prior": given, **options}
        return LogBalancedCrossEntropyLoss(len(counts.class_count), **chosen)

    return Setting(
        "-".join(filter(None, (balance, str(pool), prior, also))),
        frozenset({"multiclass", "soft"}),
        build,
        ours=True,
        options=(("balance", balance), ("pool", pool), ("prior", prior), *options.items()),
    )


def _labels(pool: str | int, prior: Prior = "none", *, also: str = "", **options: Any) -> Setting:
    """A pool of q sets is one of the labels of q rows, or of q cells of a grid."""

    def build(counts: TargetCounts) -> Criterion:
        labels = len(counts.class_count)
        size = pool * labels if isinstance(pool, int) else pool
        return MultiLabelCrossEntropyLoss(labels, pool=size, prior="auto" if prior == "auto" else None, **options)

    name = "-".join(filter(None, ("labels", str(pool), "auto" if prior == "auto" else "", also)))
    shown = (("pool", pool), ("prior", prior), *options.items())
    return Setting(name, frozenset({"multilabel"}), build, ours=True, options=shown)


def _at_prior(setting: Setting) -> Setting:
    return replace(setting, name=f"{setting.name}-at-prior", starts_at_prior=True)


def _of_labels(name: str, loss: Callable[[], Criterion]) -> Setting:
    return Setting(name, frozenset({"multilabel"}), lambda _: loss())


def _truncated(order: int) -> Setting:
    return Setting(
        f"truncated-{order}-known",
        frozenset({"multiclass"}),
        lambda counts: Truncated(counts.class_count, order),
        ours=True,
        options=(("pool", "batch"), ("prior", "known"), ("order", order)),
    )


SETTINGS: dict[str, Setting] = {
    setting.name: setting
    for setting in (
        *(_peer(name) for name, entry in LOSSES.items() if not entry.ours),
        Setting("generalized", frozenset({"multiclass", "soft"}), lambda _: GeneralizedCrossEntropy()),
        Setting("ldam-drw", frozenset({"multiclass"}), lambda counts: DeferredReweighting(counts.class_count)),
        *(_balanced(pool, "none") for pool in (1, 4, 16, 64, "sample", "batch", "stream")),
        *(_balanced(pool, "known") for pool in (16, "batch")),
        *(_balanced(pool, "auto") for pool in (1, 4, 16, 64, "sample", "batch", "stream")),
        *(_balanced(144, prior) for prior in ("none", "auto")),  # 16 rows of nine sets
        _balanced(16, "none", balance="pair"),
        *(_balanced("batch", prior, balance="pair") for prior in ("none", "auto")),
        _balanced(16, "auto", balance="pair"),
        _balanced("batch", "none", also="offset", compensation="offset"),
        _balanced("batch", "none", also="uncompensated", compensation=None),
        _balanced(16, "none", also="half", scale=0.5),
        _balanced(16, "auto", also="half", scale=0.5),
        _balanced("batch", "none", also="half", scale=0.5),
        *(
            _balanced(pool, prior, also=inner, inner=inner)
            for inner in ("nll", "divergence", "power")
            for pool, prior in (("batch", "none"), (16, "none"), (16, "auto"), ("batch", "auto"))
        ),
        *(_truncated(order) for order in (2, 4, 16)),
        *map(_at_prior, map(_peer, ("binary-cross-entropy", "asymmetric"))),
        _at_prior(_of_labels("focal-labels", FocalLabels)),
        _at_prior(_of_labels("with-dice", WithDice)),
        _of_labels("smooth-ap", SmoothAP),
        *(_labels(pool) for pool in ("sample", 16, "batch", "label")),
        *(_at_prior(_labels(pool)) for pool in (1, 8, 64, "sample", "batch", "label")),
        *(_labels(pool, also="nll", inner="nll") for pool in ("sample", "batch", "label")),
        _at_prior(_labels("sample", also="nll", inner="nll")),
        *(_labels(pool, "auto") for pool in (8, "sample", "label")),
    )
}
"""Every setting by name."""

PEERS = ("cross-entropy", "logit-adjusted", "balanced-softmax", "weighted-cross-entropy", "class-balanced", "focal",
         "ldam", "ldam-drw")  # fmt: skip
"""The peers for one choice of several, the baseline first."""

LABEL_PEERS = ("binary-cross-entropy", "tuned-threshold", "asymmetric", "two-way")
"""The peers for yes/no labels, the baseline first."""


def settings_for(task_kind: Kind, names: tuple[str, ...]) -> tuple[Setting, ...]:
    """Return the settings of these names. Raises ValueError for one that does not exist or does not fit the kind."""
    for name in names:
        if name not in SETTINGS:
            raise ValueError(f"No setting is called {name!r}; known are {', '.join(SETTINGS)}.")
        if task_kind not in SETTINGS[name].kinds:
            raise ValueError(f"Setting {name!r} does not fit {task_kind} targets.")
    return tuple(SETTINGS[name] for name in names)
