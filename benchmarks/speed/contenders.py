"""The losses that are measured, and the inputs they are measured on.

Every loss is set against torch's own for the same kind of target, on the same tensors. Losses of packages that are not
installed, or that need a GPU, are left out by name, so that the table says what it lacks.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from equilog import LogBalancedCrossEntropyLoss, log_balanced_cross_entropy, multilabel_cross_entropy
from equilog.baselines import Asymmetric, Focal, TwoWay

Kind = Literal["index", "soft", "labels"]
"""Class indices, class probabilities, or yes/no labels."""

Loss = Callable[[Tensor, Tensor], Tensor]

TORCH: dict[Kind, tuple[str, Loss]] = {
    "index": ("torch cross_entropy", F.cross_entropy),
    "soft": ("torch cross_entropy, probabilities", F.cross_entropy),
    "labels": ("torch binary_cross_entropy_with_logits", F.binary_cross_entropy_with_logits),
}
"""What the ratios are to."""


@dataclass(frozen=True)
class Contender:
    """One loss."""

    name: str
    kind: Kind
    loss: Loss
    most_classes: int = 10**9
    """Where its cost grows with the square of the classes, up to how many it is measured."""
    prepared: Callable[[Tensor], Tensor] = lambda target: target
    """What it takes in place of the target."""
    made_for: Callable[[int], Loss] | None = None
    """Makes the loss for so many classes, where it is a module that must know them."""

    def loss_for(self, columns: int) -> Loss:
        """Return the loss of so many classes."""
        return self.loss if self.made_for is None else self.made_for(columns)


def label_indices(target: Tensor) -> Tensor:
    """Return the indices (N, k) of the positives of yes/no labels (N, L), filled up with -1."""
    most = int(target.sum(1).max())
    order = target.topk(most, 1).indices
    return torch.where(target.gather(1, order) > 0, order, -1)


def recommended(classes: int) -> Loss:
    """Return the module that is recommended: pools of 4, and a prior that is counted in training."""
    return LogBalancedCrossEntropyLoss(classes, pool=4, prior="auto")


OURS = (
    Contender("class balance, batch", "index", log_balanced_cross_entropy),
    Contender("class balance, pools of 16", "index", lambda z, t: log_balanced_cross_entropy(z, t, pool=16)),
    Contender("class balance, pools of 1", "index", lambda z, t: log_balanced_cross_entropy(z, t, pool=1)),
    Contender("recommended module", "index", log_balanced_cross_entropy, made_for=recommended),
    Contender("pair balance", "index", lambda z, t: log_balanced_cross_entropy(z, t, balance="pair"), 256),
    Contender("class balance, soft", "soft", log_balanced_cross_entropy),
    Contender("multi-label, sample", "labels", multilabel_cross_entropy),
    Contender("multi-label, batch", "labels", lambda z, t: multilabel_cross_entropy(z, t, pool="batch")),
    Contender(
        "multi-label, label indices",
        "labels",
        lambda z, t: multilabel_cross_entropy(z, t, index_target=True),
        prepared=label_indices,
    ),
)


def multilabel_by_subtraction(logits: Tensor, target: Tensor) -> Tensor:
    """The published multi-label form (Su 2020, https://kexue.fm/archives/7359), as bert4keras has it, in torch.

    The other side's entries are pushed down by 1e12, and a column of zeros stands for the 1.
    """
    signed = (1 - 2 * target) * logits
    zeros = torch.zeros_like(logits[:, :1])
    negatives = torch.cat((signed - 1e12 * target, zeros), 1).logsumexp(1)
    positives = torch.cat((signed - 1e12 * (1 - target), zeros), 1).logsumexp(1)
    return (negatives + positives).mean()


def peers() -> tuple[list[Contender], list[str]]:
    """Return other authors' losses, and which of them cannot be measured here."""
    found = [
        Contender("focal", "index", Focal()),
        Contender("bert4keras' formula", "labels", multilabel_by_subtraction),
        Contender("asymmetric", "labels", Asymmetric()),
        Contender("two-way", "labels", TwoWay()),
    ]
    missing = []
    if importlib.util.find_spec("timm"):
        from timm.loss import AsymmetricLossMultiLabel, BinaryCrossEntropy, SoftTargetCrossEntropy

        found += [
            Contender("timm SoftTargetCrossEntropy", "soft", SoftTargetCrossEntropy()),
            Contender("timm BinaryCrossEntropy", "labels", BinaryCrossEntropy(smoothing=0.0)),
            Contender("timm AsymmetricLossMultiLabel", "labels", AsymmetricLossMultiLabel()),
        ]
    else:
        missing.append("timm's losses (timm is not installed)")
    if not torch.cuda.is_available():
        missing.append(
            "the kernels for GPUs, nor Liger's cross-entropy (no GPU was at hand: they are tested by Triton's "
            "interpreter and compiled for Ampere and Hopper; `python -m benchmarks.gpu` times them where there is one)"
        )
    elif importlib.util.find_spec("liger_kernel"):
        from liger_kernel.transformers import LigerCrossEntropyLoss

        found.append(Contender("Liger cross-entropy", "index", LigerCrossEntropyLoss()))
    else:
        missing.append("Liger's cross-entropy (liger-kernel is not installed)")
    return found, missing


def inputs(kind: Kind, rows: int, columns: int, device: str) -> tuple[Tensor, Tensor]:
    """Return logits (rows, columns) that take a gradient, and a target of this kind."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, columns, generator=generator)
    if kind == "index":
        target = torch.randint(columns, (rows,), generator=generator)
    elif kind == "soft":
        target = torch.randn(rows, columns, generator=generator).softmax(1)
    else:
        target = (torch.rand(rows, columns, generator=generator) < min(0.2, 20 / columns)).float()
    return logits.to(device).requires_grad_(), target.to(device)
