"""What baselines make of the number of training rows of each class."""

import torch
from torch import Tensor


def clamped_counts(where: str, class_count: Tensor) -> Tensor:
    """Return the counts (C,) in float64, none below 1: a class never seen is treated as one seen once.

    Without that a prior of 0 or a weight of infinity would come out. Raises ValueError naming the class `where`.
    """
    count = torch.as_tensor(class_count, dtype=torch.float64)
    if count.dim() != 1 or count.numel() == 0:
        raise ValueError(f"{where}: class_count must be (C,), one count a class; got shape {tuple(count.shape)}.")
    if not bool((count.isfinite() & (count >= 0)).all()):
        raise ValueError(f"{where}: class_count must hold finite counts, 0 or more; got {count.tolist()}.")
    return count.clamp(min=1.0)


def log_prior(where: str, class_count: Tensor) -> Tensor:
    """Return the log of each class's share of the training rows, (C,) float32."""
    count = clamped_counts(where, class_count)
    return (count / count.sum()).log().float()


def along_classes(where: str, values: Tensor, logits: Tensor) -> Tensor:
    """Return values (C,) shaped to broadcast along the class dimension of logits (C,) or (N, C, d1, ...).

    Raises ValueError naming the class `where` if there are not C of them.
    """
    classes = logits.shape[0 if logits.dim() == 1 else 1]
    if len(values) != classes:
        raise ValueError(
            f"{where}: class_count held {len(values)} classes, but logits {tuple(logits.shape)} have {classes}."
        )
    return values.to(logits.dtype).reshape(-1, *[1] * max(logits.dim() - 2, 0))
