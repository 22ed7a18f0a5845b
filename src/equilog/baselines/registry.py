"""Every loss the estimator and the comparison know, by name. Adding a loss is one entry here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from equilog.baselines import (
    LDAM,
    Asymmetric,
    BalancedSoftmax,
    BinaryCrossEntropy,
    ClassBalanced,
    CrossEntropy,
    Focal,
    LogitAdjusted,
    TunedThreshold,
    TwoWay,
    WeightedCrossEntropy,
)
from equilog.error_text import did_you_mean
from equilog.losses.criterion import Criterion
from equilog.losses.multiclass import LogBalancedCrossEntropyLoss
from equilog.losses.multilabel import MultiLabelCrossEntropyLoss

Task = Literal["multiclass", "multilabel", "soft"]
"""One choice among C classes per set, separate yes/no labels, or a distribution over C classes per row."""


@dataclass(frozen=True)
class TargetCounts:
    """What a loss may know of the training targets before training."""

    class_count: Tensor
    """(C,) float64: rows of each class, positives of each label, or the summed probability of each class."""
    rows: int
    """Number of training rows."""


@dataclass(frozen=True)
class LossEntry:
    """One loss under one name."""

    name: str
    summary: str
    tasks: frozenset[Task]
    build: Callable[[TargetCounts], Criterion]
    source: str
    ours: bool = False
    named_only: bool = False
    """Whether it is compared where it is named, and not among all."""


def _log_balanced(
    name: str,
    summary: str,
    *,
    pool: str | int = "batch",
    balance: Literal["class", "pair"] = "class",
    prior: Literal["auto"] | None = None,
) -> LossEntry:
    return LossEntry(
        name,
        summary,
        frozenset({"multiclass", "soft"}),
        lambda counts: LogBalancedCrossEntropyLoss(len(counts.class_count), pool=pool, balance=balance, prior=prior),
        "this project, after Su 2022, kexue.fm/archives/9158",
        ours=True,
    )


def _multilabel(
    name: str,
    summary: str,
    *,
    pool: str,
    inner: Literal["odds", "nll"] = "odds",
    prior: Literal["auto"] | None = None,
    named_only: bool = False,
) -> LossEntry:
    return LossEntry(
        name,
        summary,
        frozenset({"multilabel"}),
        lambda counts: MultiLabelCrossEntropyLoss(len(counts.class_count), pool=pool, inner=inner, prior=prior),
        "after Su 2020, kexue.fm/archives/7359",
        ours=True,
        named_only=named_only,
    )


LOSSES: dict[str, LossEntry] = {
    entry.name: entry
    for entry in (
        _log_balanced("log-balanced", "one log per class over 16 rows, running prior", pool=16, prior="auto"),
        _log_balanced(
            "log-balanced-batch", "one log per class over the batch, running prior", pool="batch", prior="auto"
        ),
        _log_balanced("log-balanced-no-prior", "one log per class over 16 rows", pool=16),
        _log_balanced("log-balanced-batch-no-prior", "one log per class over the batch", pool="batch"),
        _log_balanced(
            "pair-balanced", "one log per pair of classes over the batch, running prior", balance="pair", prior="auto"
        ),
        _multilabel("multilabel-sample", "two logs per row", pool="sample"),
        _multilabel("multilabel-batch", "two logs over the batch", pool="batch"),
        _multilabel(
            "multilabel-batch-prior",
            "two logs over the batch, running prior",
            pool="batch",
            prior="auto",
            named_only=True,
        ),
        _multilabel(
            "multilabel-batch-nll",
            "two logs over the batch, of binary cross-entropies",
            pool="batch",
            inner="nll",
            named_only=True,
        ),
        _multilabel("multilabel-label", "two logs per label over the batch", pool="label", named_only=True),
        LossEntry(
            "cross-entropy",
            "torch's cross-entropy",
            frozenset({"multiclass", "soft"}),
            lambda _: CrossEntropy(),
            "torch.nn.functional.cross_entropy",
        ),
        LossEntry(
            "weighted-cross-entropy",
            "cross-entropy, each class weighted by the inverse of its count",
            frozenset({"multiclass", "soft"}),
            lambda counts: WeightedCrossEntropy(counts.class_count),
            "King & Zeng 2001",
        ),
        LossEntry(
            "class-balanced",
            "cross-entropy, each class weighted by the inverse of its effective number",
            frozenset({"multiclass", "soft"}),
            lambda counts: ClassBalanced(counts.class_count),
            "Cui et al. 2019, CVPR",
        ),
        LossEntry(
            "focal",
            "focal loss, gamma 2",
            frozenset({"multiclass"}),
            lambda _: Focal(),
            "Lin et al. 2017, ICCV",
        ),
        LossEntry(
            "balanced-softmax",
            "cross-entropy of the logits plus the log-prior",
            frozenset({"multiclass", "soft"}),
            lambda counts: BalancedSoftmax(counts.class_count),
            "Ren et al. 2020, arXiv 2007.10740",
        ),
        LossEntry(
            "logit-adjusted",
            "cross-entropy, the log-prior taken off after training",
            frozenset({"multiclass", "soft"}),
            lambda counts: LogitAdjusted(counts.class_count),
            "Menon et al. 2020, arXiv 2007.07314",
        ),
        LossEntry(
            "ldam",
            "margins larger for rarer classes",
            frozenset({"multiclass"}),
            # The paper's 0.5 and 30 are for a head that puts out cosines; LDAM says why not here.
            lambda counts: LDAM(counts.class_count, max_margin=1.0, scale=5.0),
            "Cao et al. 2019, arXiv 1906.07413",
        ),
        LossEntry(
            "binary-cross-entropy",
            "torch's binary cross-entropy",
            frozenset({"multilabel"}),
            lambda _: BinaryCrossEntropy(),
            "torch.nn.functional.binary_cross_entropy_with_logits",
        ),
        LossEntry(
            "tuned-threshold",
            "binary cross-entropy, one threshold chosen after training",
            frozenset({"multilabel"}),
            lambda _: TunedThreshold(),
            "Lipton et al. 2014, arXiv 1402.1892",
        ),
        LossEntry(
            "asymmetric",
            "asymmetric loss, gammas 4 and 1, clip 0.05",
            frozenset({"multilabel"}),
            lambda _: Asymmetric(),
            "Ridnik et al. 2021, arXiv 2009.14119",
        ),
        LossEntry(
            "two-way",
            "two-way loss, temperatures 4 and 1",
            frozenset({"multilabel"}),
            lambda _: TwoWay(),
            "Kobayashi 2023, CVPR",
        ),
    )
}


def losses_for(task: Task) -> list[str]:
    """Return the names of the losses that fit a task, in the order of the registry."""
    return [entry.name for entry in LOSSES.values() if task in entry.tasks]


RECOMMENDED: dict[Task, str] = {"multiclass": "log-balanced", "multilabel": "multilabel-batch", "soft": "cross-entropy"}
"""The loss to start from where nothing else is known."""


def loss_named(name: str, task: Task) -> LossEntry:
    """Return the loss of a name in which "-" and "_" are the same; "auto" is the one recommended for the task.

    Raises:
        ValueError: there is no such loss, or it does not fit the task.
    """
    if name == "auto":
        return LOSSES[RECOMMENDED[task]]
    name = name.replace("_", "-")
    offered = did_you_mean(name, losses_for(task))
    if name not in LOSSES:
        raise ValueError(f'No loss is called "{name}". {offered}')
    if task not in LOSSES[name].tasks:
        raise ValueError(f'"{name}" does not fit {task} targets. {offered}')
    return LOSSES[name]
