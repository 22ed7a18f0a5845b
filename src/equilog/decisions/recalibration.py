r"""Labelled rows correct the probabilities before anything is decided by them.

Of classes $p' = \mathrm{softmax}(a \log p + b)$, of a label $p' = \sigma(a \log\frac{p}{1-p} + b)$, where a and b
maximise the likelihood of the labels under a normal prior around a = 1, b = 0. A likelihood learns more from fifty rows
than a metric does, and the prior keeps fifty rows from saying too much. (Vector scaling: Guo et al., "On calibration of
modern neural networks", ICML 2017; the prior is ours.)
"""

from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit

from equilog.decisions.inputs import Array, Codes

FLOOR = 1e-12
"""The least probability a logarithm is taken of."""

PRECISION = 4.0
"""Of the prior: one over its variance, so that a class's log weight is within 0.5 of 0 two times in three."""

LEAST_SLOPE = 0.1

MOST_ROWS = 20_000
"""Rows that classes are corrected by at most: a correction of one number a class is as good as known then."""

STEPS = 25
TOLERANCE = 1e-5
"""Newton's method ends when a step would gain less than this, in nats of all rows."""


class Recalibration(NamedTuple):
    """The correction; a = 1 and b = 0 is none."""

    slope: Array
    """() of classes, (L,) of labels."""
    shift: Array
    """(C,) or (L,)."""

    def of_classes(self, log_prob: Array) -> Array:
        """Return the corrected log probabilities (n, C)."""
        return _log_softmax(self.slope * log_prob, self.shift)

    def of_labels(self, probability: Array) -> Array:
        """Return the corrected log odds (n, L)."""
        return np.asarray(self.slope * log_odds(probability) + self.shift)


def log_probabilities(probability: Array) -> Array:
    """Return log p, that of 0 being the log of `FLOOR`."""
    floored = np.maximum(probability, FLOOR)
    return np.asarray(np.log(floored, out=floored))


def log_odds(probability: Array) -> Array:
    """Return log p / (1 - p), finite where p is 0 or 1."""
    return np.asarray(logit(probability.clip(FLOOR, 1 - FLOOR)))


def _log_softmax(scores: Array, shift: Array) -> Array:
    """Return log softmax(scores + shift), written over the scores: the rows are many."""
    scores += shift
    scores -= scores.max(1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(1, keepdims=True))
    return scores


def none_of_classes(classes: int) -> Recalibration:
    """Return what changes nothing."""
    return Recalibration(np.ones(()), np.zeros(classes))


def none_of_labels(labels: int) -> Recalibration:
    """Return what changes nothing."""
    return Recalibration(np.ones(labels), np.zeros(labels))


def recalibrate_classes(log_prob: Array, codes: Codes, weight: Array) -> Recalibration:
    """Return the correction that the labelled rows ask for.

    Args:
        log_prob: (n, C).
        codes: (n,) classes.
        weight: (n,).
    """
    thin = slice(None, None, -(-len(codes) // MOST_ROWS))
    log_prob, codes, weight = log_prob[thin], codes[thin], weight[thin]
    rows, classes = log_prob.shape
    labelled = np.bincount(codes, weights=weight, minlength=classes)
    at = np.append(np.zeros(classes), 1.0)  # shifts, then the slope
    own = np.arange(rows), codes

    def loss(point: Array) -> tuple[float, Array]:
        scores = _log_softmax(point[-1] * log_prob, point[:-1])
        centre = np.append(np.zeros(classes), 1.0)
        return float(-(weight * scores[own]).sum() + PRECISION / 2 * ((point - centre) ** 2).sum()), scores

    value, scores = loss(at)
    for _ in range(STEPS):
        prob = np.exp(scores)
        weighted = prob * weight[:, None]
        mean = (prob * log_prob).sum(1)
        gradient = np.append(
            weighted.sum(0) - labelled, (weight * (mean - log_prob[own])).sum()
        ) + PRECISION * np.append(at[:-1], at[-1] - 1)
        hessian = np.zeros((classes + 1, classes + 1))
        hessian[:-1, :-1] = np.diag(weighted.sum(0)) - weighted.T @ prob
        deviation = log_prob - mean[:, None]
        hessian[:-1, -1] = hessian[-1, :-1] = (weighted * deviation).sum(0)
        hessian[-1, -1] = (weighted * deviation**2).sum()
        hessian += PRECISION * np.eye(classes + 1)
        step = np.linalg.solve(hessian, gradient)
        gain, length = float(step @ gradient), 1.0
        if gain < TOLERANCE:
            break
        while True:
            point = at - length * step
            point[-1] = max(point[-1], LEAST_SLOPE)
            after, scores = loss(point)
            if after <= value or length < 1e-4:
                break
            length /= 2
        at, value = point, after
    return Recalibration(at[-1], at[:-1])


def recalibrate_labels(probability: Array, labels: Codes, weight: Array) -> Recalibration:
    """Return the correction for each label; a label that all rows or none have gets none.

    Args:
        probability: (n, L).
        labels: (n, L) of 0 and 1.
        weight: (n,).
    """
    x = log_odds(probability)
    slope, shift = np.ones(x.shape[1]), np.zeros(x.shape[1])
    w = weight[:, None]

    def loss(slope: Array, shift: Array) -> Array:
        score = slope * x + shift
        fit = (w * (np.logaddexp(0.0, score) - labels * score)).sum(0)
        return np.asarray(fit + PRECISION / 2 * ((slope - 1) ** 2 + shift**2))

    value = loss(slope, shift)
    for _ in range(STEPS):
        p = expit(slope * x + shift)
        error, curve = w * (p - labels), w * p * (1 - p)
        g0 = error.sum(0) + PRECISION * shift
        g1 = (error * x).sum(0) + PRECISION * (slope - 1)
        h00 = curve.sum(0) + PRECISION
        h01 = (curve * x).sum(0)
        h11 = (curve * x**2).sum(0) + PRECISION
        determinant = h00 * h11 - h01**2
        step0, step1 = (h11 * g0 - h01 * g1) / determinant, (h00 * g1 - h01 * g0) / determinant
        gain = step0 * g0 + step1 * g1
        if (gain < TOLERANCE).all():
            break
        length = np.ones_like(gain)
        while True:
            tried = np.maximum(slope - length * step1, LEAST_SLOPE), shift - length * step0
            after = loss(*tried)
            worse = (after > value) & (length >= 1e-4)
            if not worse.any():
                break
            length = np.where(worse, length / 2, length)
        (slope, shift), value = tried, after
    share = (w * labels).sum(0) / weight.sum()
    known = (share > 0) & (share < 1)
    return Recalibration(np.where(known, slope, 1.0), np.where(known, shift, 0.0))
