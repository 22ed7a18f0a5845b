"""A smooth function of a score, kept as a cubic spline."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

_KNOTS = 48


class Correction(nn.Module):
    """What the other sets of a pool make of a class's score: a smooth function of it, in one pass over the scores.

    It is an average over draws of pools, kept as its values and slopes at equally spaced knots: between them the cubic
    that has both, outside the line that goes on at the end.

    Args:
        low: (C,) the first knot.
        step: (C,) the distance of the knots.
        values: (K, C) the function at the knots.
        slopes: (K, C) its slopes there.
        of_log_one_less: 0-d bool: the knots are equally spaced in log(1 - score), else in the score.
    """

    low: Tensor
    step: Tensor
    values: Tensor
    slopes: Tensor
    of_log_one_less: Tensor

    def __init__(self, low: Tensor, step: Tensor, values: Tensor, slopes: Tensor, of_log_one_less: Tensor) -> None:
        super().__init__()
        self._coordinate = torch.log1p if bool(of_log_one_less) else None
        for name, table in {"low": low, "step": step, "values": values, "slopes": slopes}.items():
            self.register_buffer(name, table.clone())
        self.register_buffer("of_log_one_less", of_log_one_less.clone())

    @classmethod
    def of(
        cls,
        function: Callable[[Tensor], Tensor],
        low: Tensor,
        high: Tensor,
        *,
        of_log_one_less: bool = False,
        flat: bool = True,
    ) -> "Correction":
        """Return the correction that is this function of the coordinate x (K, C), each value of its own x alone.

        Flat beyond the knots, or the line that goes on; one of log(1 - score) has none below the first, and goes on.
        """
        x = low + torch.linspace(0, 1, _KNOTS, dtype=low.dtype, device=low.device)[:, None] * (high - low)
        with torch.enable_grad():
            x.requires_grad_()
            values = function(x)
            (slopes,) = torch.autograd.grad(values.sum(), x)
        if flat and not of_log_one_less:
            slopes[0] = slopes[-1] = 0.0
        return cls(low, (high - low) / (_KNOTS - 1), values.detach(), slopes, torch.tensor(of_log_one_less))

    def forward(self, scores: Tensor) -> Tensor:
        """Return the function of scores (..., C), or of scores of any shape where it is one for all."""
        low, step, values, slopes = (part.to(scores) for part in (self.low, self.step, self.values, self.slopes))
        x = scores if self._coordinate is None else self._coordinate(-scores)
        place = (x - low) / step
        last = len(values) - 1
        inside = place.clamp(0, last)
        knot = inside.detach().clamp(max=last - 1).long()
        t = inside - knot
        of_class = torch.arange(len(low), device=low.device) if len(low) > 1 else 0
        left, right = values[knot, of_class], values[knot + 1, of_class]
        out, into = slopes[knot, of_class] * step, slopes[knot + 1, of_class] * step
        change = right - left
        cubic = left + t * (out + t * ((3 * change - 2 * out - into) + t * (out + into - 2 * change)))
        # A class left out has score -inf, and minus it in the other coordinate.
        over = torch.where(place.isfinite(), place - inside, 0.0)
        return cubic + over * torch.where(over < 0, out, into)
