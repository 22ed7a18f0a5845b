"""The offsets that are best for a metric that is no sum over rows: one class's at a time, all its values at once.

Where the metric depends on the confusion matrix and the probabilities are right, the best classifier takes the largest
of linearly weighted probabilities (Narasimhan et al., "Consistent multiclass algorithms for complex performance
measures", ICML 2015). For few rows it pays to have one number a class to learn, so the classifiers considered are those
that weight each class: argmax log p + offset. With the other offsets fixed, a row goes over to a class where that
class's offset passes a margin of the row's own; rows binned by margin give the table of every candidate offset in one
pass, and the best candidate is taken. (Block coordinate ascent on expected confusion as in Schultheis et al.,
"Generalized test utilities for long-tail performance in extreme multi-label classification", NeurIPS 2023, with a class
for a block instead of a row.) No rule is drawn at random, as the minimax rule for the worst recall may have to be: what
is best here is the best of the rules that are not.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from equilog.decisions.inputs import Array, Codes
from equilog.decisions.metrics import Table

REACHES = (4.0, 1.0, 0.25)
"""How far around the present offset candidates lie, pass by pass; a factor of 55 of the weight at first."""

CANDIDATES = 65

STRENGTH = 0.5
"""What a squared unit of log weight away from the reference costs, over the total weight: half a row."""


def ascend(
    log_prob: Array,
    truth: Array,
    weight: Array,
    judge: Callable[[Table], Array],
    reference: Array,
    free: NDArray[np.bool_],
) -> Array:
    """Return the offsets (C,) that maximise metric - STRENGTH |offsets - reference|^2 / total weight.

    Args:
        log_prob: (n, C).
        truth: (n, C) the classes as probabilities, one-hot where they are known.
        weight: (n,)
        judge: the metric, of tables (..., C).
        reference: (C,) where the search starts and what it stays near.
        free: (C,) bool, the classes whose offset may change.
    """
    rows, classes = log_prob.shape
    total = weight.sum()
    scores, shares = np.ascontiguousarray(log_prob.T), np.ascontiguousarray((truth * weight[:, None]).T)
    actual, offsets = shares.sum(1) / total, reference.copy()
    choice, best = _best(scores, offsets)
    hit = shares[choice, np.arange(rows)]
    hits, predicted = (np.bincount(choice, weights=values, minlength=classes) for values in (hit, weight))
    for reach in REACHES:
        step = 2 * reach / (CANDIDATES - 1)
        for k in np.flatnonzero(free):
            # Class k is taken away: its rows go to their second choice, and only they are looked at again.
            own = np.flatnonzero(choice == k)
            rest = scores[:, own] + offsets[:, None]
            rest[k] = -np.inf
            second = rest.argmax(0)
            choice[own], best[own], hit[own] = second, rest[second, np.arange(len(own))], shares[second, own]
            hits[k] = predicted[k] = 0.0
            hits += np.bincount(second, weights=hit[own], minlength=classes)
            predicted += np.bincount(second, weights=weight[own], minlength=classes)

            candidates = offsets[k] - reach + step * np.arange(CANDIDATES)
            margin = best - scores[k]
            near = np.flatnonzero(margin < candidates[-1])
            # The first candidate at which a row goes over to class k.
            place = np.maximum(np.floor((margin[near] - candidates[0]) / step) + 1, 0).astype(np.int64)
            cell, cells = place.clip(max=CANDIDATES - 1) * classes + choice[near], CANDIDATES * classes

            def gone(values: Array, cell: Codes = cell, cells: int = cells) -> Array:
                return np.bincount(cell, weights=values, minlength=cells).reshape(-1, classes).cumsum(0)

            hits_then, predicted_then = hits - gone(hit[near]), predicted - gone(weight[near])
            hits_then[:, k] = gone(shares[k, near]).sum(1)
            predicted_then[:, k] = gone(weight[near]).sum(1)
            worth = judge(Table(hits_then / total, predicted_then / total, actual))
            worth = worth - STRENGTH / total * (candidates - reference[k]) ** 2
            offsets[k] = candidates[int(worth.argmax())]

            over = near[margin[near] < offsets[k]]
            hits -= np.bincount(choice[over], weights=hit[over], minlength=classes)
            predicted -= np.bincount(choice[over], weights=weight[over], minlength=classes)
            choice[over], best[over], hit[over] = k, scores[k, over] + offsets[k], shares[k, over]
            hits[k], predicted[k] = hit[over].sum(), weight[over].sum()
    return offsets


def _best(scores: Array, offsets: Array) -> tuple[Codes, Array]:
    """Return the class with the largest score and that score, of each row; the first where several are."""
    best, choice = scores[0] + offsets[0], np.zeros(scores.shape[1], np.int64)
    for k in range(1, len(scores)):
        score = scores[k] + offsets[k]
        above = score > best
        best, choice = np.where(above, score, best), np.where(above, k, choice)
    return choice, best
