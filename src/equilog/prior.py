"""Class frequencies in the scores: what the loss sees in place of the bare logits, and what takes them off again."""

from torch import Tensor

from equilog.targets import as_compute_dtype, scores_of


def with_prior(scores: Tensor, prior: Tensor | None, strength: float) -> Tensor:
    """Return scores (..., C) + strength * log prior (C,); where there is no prior the scores, in their own type."""
    return scores if prior is None else scores_of(scores, log_prior(prior, strength, scores), 1.0)


def log_prior(prior: Tensor, strength: float, like: Tensor) -> Tensor:
    """Return strength * log prior (C,), on the device of `like` and in the type it is computed in."""
    return strength * prior.to(as_compute_dtype(like[:0])).log()
