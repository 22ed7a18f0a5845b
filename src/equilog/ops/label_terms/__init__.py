"""The positive and negative sums of pools of yes/no labels, of any term that a set of two classes adds to each."""

from torch import Tensor

from equilog.ops import dispatch
from equilog.ops.label_terms import chunked, reference
from equilog.ops.label_terms.reference import Term, as_two_classes, log_terms_of_labels, shares_of

__all__ = ["Term", "as_two_classes", "log_terms_of_labels", "pooled_label_terms", "shares_of"]


def pooled_label_terms(
    logits: Tensor, target: Tensor, weight: Tensor | None, term: Term, pool_size: int, scale: float = 1.0
) -> Tensor:
    """Return the logs of each pool's positive and negative sum.

    Args:
        logits: (n,) of any floating type.
        target: (n,) in [0, 1], of any type.
        weight: (n,) in the type to compute in, 0 where the label is left out, which may hold anything; None for 1.
        term: what a label adds.
        pool_size: consecutive labels a pool; the last may be short.
        scale: factor > 0 on the logits.

    Returns:
        (P, 2).
    """
    return _pooled_label_terms(logits, target, weight, term, pool_size, scale)


def _is_for_chunks(logits: Tensor, target: Tensor, weight: Tensor | None, *_: object) -> bool:
    # The terms are made once more for the gradient, which takes half as long again, and much less memory.
    is_bare = dispatch.is_many(logits) and not dispatch.learns(target, weight)
    return is_bare and dispatch.chunked(logits, target, weight)


_pooled_label_terms = dispatch.Operation(
    "pooled_label_terms",
    ("chunked", _is_for_chunks, chunked.pooled_label_terms),
    reference=reference.pooled_label_terms,
)
