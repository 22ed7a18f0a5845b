"""What the other sets of a pool make of the posterior: the mean share of the gradient that a set keeps."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

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


def label_posterior_scores(logits: Tensor, log_others: Tensor, inner: Inner = INNERS["odds"]) -> Tensor:
    """Return the log odds of a label's posterior from scaled logits x (..., L) and draws (K, 2 L) of log O.

    The posterior of a choice between yes, of score x, and no, of score 0. Each label's two columns, what the other
    labels of its pool add to the positives' and the negatives' log, stand side by side; two columns are for all labels.
    """
    yes, no = log_others[:, 0::2], log_others[:, 1::2]
    if yes.shape[1] == 1:
        yes, no = (column.expand(-1, logits.shape[-1]) for column in (yes, no))
    share_of_yes = log_mean_share(inner.log_share, F.logsigmoid(logits), yes)
    share_of_no = log_mean_share(inner.log_share, F.logsigmoid(-logits), no)
    return logits + share_of_no - share_of_yes


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


def label_correction(inner: Inner, log_others: Tensor) -> Correction | None:
    """Return what is added to scaled logits for the posterior of labels, from draws of log O (K, 2 L); None for 0."""
    if not inner.gentle and bool((log_others == -math.inf).all()):
        return None
    most = log_one_plus(log_others).nan_to_num(posinf=0.0).amax(0) + _MARGIN
    return Correction.of(
        lambda x: label_posterior_scores(x, log_others, inner) - x, -most[0::2], most[1::2], flat=not inner.gentle
    )
