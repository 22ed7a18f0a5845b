"""Class frequencies in the scores: what the loss sees in place of the bare logits, and what takes them off again."""

from torch import Tensor


def with_prior(scores: Tensor, prior: Tensor | None, strength: float) -> Tensor:
    """Return scores (..., C) + strength * log prior (C,); the scores themselves where there is no prior."""
    return scores if prior is None else scores + strength * prior.to(scores).log()
