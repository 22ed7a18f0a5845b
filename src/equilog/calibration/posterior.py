"""What the other sets of a pool make of the posterior: the mean share of the gradient that a set keeps."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from equilog.calibration.correction import Correction
from equilog.core.inner import INNERS, Inner
from equilog.ops import log_one_plus


def log_mean_share(log_share: Callable[[Tensor, Tensor], Tensor], log_prob: Tensor, log_others: Tensor) -> Tensor:
    """Return log E[share] (..., C) from log p (..., C) and draws of log O, (C,) or (K, C): a draw at a time."""
    draws = log_others.reshape(-1, *[1] * (log_prob.dim() - 1), log_prob.shape[-1])
    # K copies of the scores at once would be the largest tensor in the program.
    total = log_prob.new_full(log_prob.shape, -math.inf)
    for draw in draws:
        total = torch.logaddexp(total, log_share(log_prob, draw))
    return total - math.log(len(draws))


def posterior_scores(log_prob: Tensor, log_others: Tensor, inner: Inner = INNERS["odds"]) -> Tensor:
    """Return log p - log E[share] from log p (..., C) and draws of log O, (C,) or (K, C)."""
    return log_prob - log_mean_share(inner.log_share, log_prob, log_others)


def label_posterior_scores(logits: Tensor, log_others: Tensor) -> Tensor:
    """Return the log odds of a label's posterior from scaled logits x and draws (K, 2) of log O.

    P(yes) e^{-x} E[1 / (1 + O+ + e^{-x})] = P(no) e^{x} E[1 / (1 + O- + e^{x})], O+ and O- being what the other labels
    of a pool add to the positives' and the negatives' log.
    """
    kept_yes = kept_no = logits.new_full(logits.shape, -math.inf)
    for yes, no in log_one_plus(log_others):
        kept_yes = torch.logaddexp(kept_yes, -torch.logaddexp(yes, -logits))
        kept_no = torch.logaddexp(kept_no, -torch.logaddexp(no, logits))
    return 2.0 * logits + kept_no - kept_yes


def class_correction(inner: Inner, log_others: Tensor) -> Correction | None:
    """Return what is added to log-probabilities for the posterior, from draws of log O (K, C); None where it is 0."""
    if inner.separate or (not inner.gentle and bool((log_others == -math.inf).all())):
        return None
    most = log_others.nan_to_num(neginf=0.0, posinf=0.0).amax(0).clamp(min=0.0)

    def function(x: Tensor) -> Tensor:
        log_prob = -torch.expm1(x) if inner.name == "nll" else x
        return -log_mean_share(inner.log_share, log_prob, log_others)

    if inner.name == "nll":  # log(O - log p + 1) is smooth in log(1 - log p)
        return Correction.of(function, torch.zeros_like(most), most + _MARGIN, of_log_one_less=True)
    return Correction.of(function, -most - _MARGIN, torch.zeros_like(most))


_MARGIN = 9.0
"""So far beyond the class mass nothing of it is seen: a part in ten thousand."""


def label_correction(log_others: Tensor) -> Correction:
    """Return what is added to scaled logits for the posterior of labels, from draws of log O (K, 2): one for all."""
    most = log_one_plus(log_others).nan_to_num(posinf=0.0).amax(0) + _MARGIN
    return Correction.of(lambda x: label_posterior_scores(x, log_others) - x, -most[:1], most[1:])
