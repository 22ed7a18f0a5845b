"""What a model is worth once one number, chosen on validation rows, says how readily it names the rare classes.

A loss may win by ordering better, or by no more than where it draws the line. With the line drawn for each loss by the
same rule, only the first is left.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from equilog.baselines.registry import Task as Kind
from equilog.baselines.threshold import thresholds
from equilog.calibration import Calibration
from equilog.compare.judge.metrics import METRICS, Outcome
from equilog.decisions.metrics import Table, metrics

Decide = Callable[[Tensor], Tensor]

STRENGTHS = torch.linspace(-0.5, 1.5, 21).tolist()
"""Tried powers of the class frequencies that the posterior is divided by: 0 decides by the posterior itself, 1 as if
all classes were equally frequent."""


def tuned(
    kind: Kind,
    metric: str,
    calibration: Calibration,
    class_count: Tensor,
    valid: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
) -> float:
    """Return the metric on the test rows with the number that is best on the validation rows.

    For labels it is one threshold for all of them; for classes the power of their frequencies.

    Args:
        kind: "multiclass" or "multilabel".
        metric: name of a metric that looks at decisions alone.
        calibration: what the loss has made of its training rows.
        class_count: (C,) training rows of each class.
        valid: logits and target of the validation rows, (n, C) and (n,) or (n, L).
        test: the same of the test rows.
    """
    if kind == "multilabel":
        decide = _labels(metric, calibration, *valid)
    else:
        decide = _classes(metric, calibration, class_count, *valid)
    logits, target = test
    return _worth(kind, metric, target, decide(logits))


def _labels(metric: str, calibration: Calibration, logits: Tensor, target: Tensor) -> Decide:
    scores, positive = calibration.scores(logits), target > 0
    present = positive.any(0)
    candidates = thresholds(scores, positive)

    def table(threshold: Tensor) -> Table:
        predicted = scores > threshold
        counts = (predicted & positive, predicted, positive)
        return Table(*(count.double().mean(0)[present].numpy() for count in counts))

    worth = [float(metrics()[metric].over_labels(table(candidate))) for candidate in candidates]
    best = candidates[int(np.argmax(worth))]
    return lambda logits: (calibration.scores(logits) > best).long()


def _classes(metric: str, calibration: Calibration, class_count: Tensor, logits: Tensor, target: Tensor) -> Decide:
    count = class_count.clamp(min=1.0)
    log_prior = (count / count.sum()).log().float()

    def divided(scores: Tensor, strength: float) -> Tensor:
        return (scores - strength * log_prior).argmax(1)

    posterior = calibration.scores(logits, "posterior")
    worth = [_worth("multiclass", metric, target, divided(posterior, strength)) for strength in STRENGTHS]
    best = STRENGTHS[int(np.argmax(worth))]
    return lambda logits: divided(calibration.scores(logits, "posterior"), best)


def _worth(kind: Kind, metric: str, target: Tensor, predicted: Tensor) -> float:
    unused = np.zeros((0, 0))
    return METRICS[metric].scorers[kind](Outcome(target.numpy(), predicted.numpy(), unused, unused))
