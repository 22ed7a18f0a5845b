"""The calibration of a loss whose sets share logs: numbers and tables that a state_dict holds."""

import torch
from torch import Tensor

from equilog.calibration.base import Calibration, Kind
from equilog.calibration.correction import Correction
from equilog.inputs.classes import classes_last, classes_second
from equilog.ops import as_compute_dtype


class PooledCalibration(Calibration):
    """The calibration of a loss whose sets share logs.

    Args:
        factor: the balanced scores are scale * factor * logits, where `taken_off` is None.
        scale: the loss's.
        shift: (C,) what the loss adds to the logits: prior_strength * log prior, of labels their log odds; or None.
        correction: what is added to the log-probabilities for the posterior; None where they are multiplied by
            `factor`.
        offset: (C,) what is added to the posterior scores at last, such as minus the log class weight; or None.
        taken_off: (C,) the balanced scores are the posterior's less this; None where they are the logits times
            `factor`.
        knows_posterior: where not, to ask for the posterior raises.
        multilabel: as of `Calibration`.
    """

    shift: Tensor | None
    offset: Tensor | None
    taken_off: Tensor | None

    def __init__(
        self,
        *,
        factor: float,
        scale: float = 1.0,
        shift: Tensor | None = None,
        correction: Correction | None = None,
        offset: Tensor | None = None,
        taken_off: Tensor | None = None,
        knows_posterior: bool = True,
        multilabel: bool = False,
    ) -> None:
        super().__init__(multilabel)
        self.factor = factor
        self.scale = scale
        self.knows_posterior = knows_posterior
        self.correction = correction
        self.register_buffer("shift", shift)
        self.register_buffer("offset", offset)
        self.register_buffer("taken_off", taken_off)
        # The same numbers once more, so that a state_dict holds all there is.
        told = [factor, scale, float(knows_posterior), float(multilabel)]
        self.register_buffer("numbers", torch.tensor(told, dtype=torch.float64))

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor]) -> "PooledCalibration":
        """Return the calibration that this is the `state_dict` of."""
        factor, scale, knows_posterior, multilabel = state["numbers"].tolist()
        tables = {name.removeprefix("correction."): table for name, table in state.items() if "correction." in name}
        calibration = cls(
            factor=factor,
            scale=scale,
            **{name: state[name].clone() if name in state else None for name in ("shift", "offset", "taken_off")},
            correction=Correction(**tables) if tables else None,
            knows_posterior=bool(knows_posterior),
            multilabel=bool(multilabel),
        )
        calibration.load_state_dict(state)
        return calibration

    def raw_scores(self, logits: Tensor, kind: Kind) -> Tensor:
        """Return the scores at temperature 1."""
        rows = as_compute_dtype(classes_last(logits))
        if kind == "balanced" and self.taken_off is None:
            scores = self.factor * self.scale * rows
        else:
            scores, offset = self._posterior(rows), self.offset
            if kind == "balanced":
                assert self.taken_off is not None
                offset = -self.taken_off
            scores = scores if offset is None else scores + offset.to(scores)
        return classes_second(scores, logits)

    def extra_repr(self) -> str:
        """Show the factor."""
        return f"factor={self.factor:.4g}, scale={self.scale:.4g}, multilabel={self.multilabel}"

    def _posterior(self, rows: Tensor) -> Tensor:
        if not self.knows_posterior:
            raise RuntimeError(
                "The posterior depends on what the sets of a pool add up to, which only trained logits tell. Call "
                "calibration = criterion.calibrate(logits, target) with those of the training rows, and then "
                'calibration.probabilities(logits, "posterior").'
            )
        rows = self.scale * (rows if self.shift is None else rows + self.shift.to(rows))
        scores = rows if self.multilabel else rows.log_softmax(-1)
        return self.factor * scores if self.correction is None else scores + self.correction(scores)
