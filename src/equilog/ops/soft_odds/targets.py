"""What a target stands for: class indices or probabilities, smoothed or not, as probabilities."""

import torch
from torch import Tensor


def target_probs(target: Tensor, logits: Tensor, smoothing: float, dtype: torch.dtype) -> Tensor:
    """Return the probabilities (n, C) of a target in a type, `smoothing` of them spread over the classes of each set.

    Args:
        target: class indices (n,), or (n, C) probabilities of any floating type.
        logits: (n, C), minus infinity for a class that takes no part in the set.
        smoothing: in [0, 1), the share that is spread evenly.
        dtype: that of the result.
    """
    is_index = target.dim() == 1
    if smoothing == 0.0:
        if not is_index:
            return target.to(dtype)
        return torch.zeros_like(logits, dtype=dtype).scatter(1, target[:, None], 1.0)
    present = logits != -torch.inf
    uniform = present.to(dtype)
    uniform *= smoothing / present.sum(1, keepdim=True).clamp(min=1).to(dtype)
    if is_index:
        return uniform.scatter_add(1, target[:, None], uniform.new_full((len(target), 1), 1.0 - smoothing))
    probs = target.to(dtype)
    return (1.0 - smoothing) * probs + uniform * probs.sum(1, keepdim=True)
