"""Class frequencies in the scores: what the loss sees in place of the bare logits, and what takes them off again."""

from torch import Tensor

from equilog.targets import as_compute_dtype


def with_prior(scores: Tensor, prior: Tensor | None, strength: float) -> Tensor:
    """Return scores (..., C) + strength * log prior (C,); where there is no prior the scores, in their own type."""
    if prior is None:
        return scores
    scores = as_compute_dtype(scores)
    return scores + strength * prior.to(scores).log()
