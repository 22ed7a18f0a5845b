"""Class frequencies in the scores: what the loss sees in place of the bare logits, and what takes them off again."""

from torch import Tensor

from equilog.targets import as_compute_dtype
from equilog.vocabulary import beside


def with_prior(scores: Tensor, prior: Tensor | None, strength: float) -> Tensor:
    """Return scores (..., C) + strength * log prior (C,); where there is no prior the scores, in their own type."""
    if prior is None:
        return scores
    scores = as_compute_dtype(scores)
    log_prior = prior.to(device=scores.device, dtype=scores.dtype).log()
    return scores + strength * beside(log_prior, scores)
