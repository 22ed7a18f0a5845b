"""One number for how sure a model is: the temperature that makes held-out targets likeliest."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def check_temperature(where: str, temperature: float) -> None:
    """Raise ValueError unless the temperature is positive."""
    if not temperature > 0:
        raise ValueError(f"{where}: temperature must be positive; got {temperature}.")


def likeliest_temperature(columns: Sequence[tuple[Tensor, Tensor, bool]], sample_weight: Tensor | None) -> float:
    """Return the one temperature that makes the targets of all columns likeliest, as `Calibration.fit_temperature`.

    Args:
        columns: of each, scores (N, C), target and whether these are yes/no labels.
        sample_weight: (N,) weight of each row, or None.
    """
    log_temperature, low, high = 0.0, math.log(_LOWEST), math.log(_HIGHEST)
    for _ in range(40):
        slope, curvature = _slope_and_curvature(columns, sample_weight, log_temperature)
        slope += log_temperature / math.log(2) ** 2
        curvature += 1 / math.log(2) ** 2
        low, high = (low, log_temperature) if slope > 0 else (log_temperature, high)
        step = log_temperature - slope / curvature if curvature > 0 else math.nan
        # Newton's step where it stays between the bounds known so far, else half of these.
        following = step if low < step < high else (low + high) / 2
        if abs(following - log_temperature) < 1e-7:
            break
        log_temperature = following
    return math.exp(log_temperature)


_LOWEST, _HIGHEST = 0.05, 20.0


def _slope_and_curvature(
    columns: Sequence[tuple[Tensor, Tensor, bool]], sample_weight: Tensor | None, log_temperature: float
) -> tuple[float, float]:
    """Return the derivatives of the summed negative log-likelihood along the log of the temperature."""
    slope = curvature = 0.0
    for scores, target, multilabel in columns:
        z = scores.double() / math.exp(log_temperature)
        if multilabel:
            p = z.sigmoid()
            first = (z * (target.to(z) - p)).sum(1)
            spread = (z * z * p * (1 - p)).sum(1)
        else:
            shifted = z - z.detach().amax(1, keepdim=True).nan_to_num()
            p = shifted.softmax(1)
            usable = torch.where(p > 0, shifted, 0.0)  # a class left out has score -inf and probability 0
            mean = (p * usable).sum(1)
            if target.is_floating_point():
                seen = (target.to(z) * usable).sum(1) - (target.to(z).sum(1) - 1) * mean
            else:
                seen = usable.gather(1, target[:, None]).squeeze(1)
            first = seen - mean
            spread = (p * usable * usable).sum(1) - mean * mean
        weight = 1.0 if sample_weight is None else sample_weight.to(z)
        # With b = 1/T and d/d log T = -b d/db: the slope is first, the curvature spread - first.
        slope += float((weight * first).sum())
        curvature += float((weight * (spread - first)).sum())
    return slope, curvature
