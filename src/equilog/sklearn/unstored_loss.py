"""What stands for a loss that was given as a module, in a network that is stored without it."""

from torch import Tensor

from equilog.calibration import Calibration
from equilog.calibration.pooled import PooledCalibration
from equilog.losses.criterion import Criterion, ScoresOf


class UnstoredLoss(Criterion):
    """A loss that predicts what the loss that trained the network did, and trains no further."""

    def __init__(self, *, multilabel: bool) -> None:
        super().__init__()
        self.multilabel = multilabel

    def forward(self, logits: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> Tensor:
        """Raise RuntimeError."""
        del logits, target, sample_weight
        raise RuntimeError(
            "LogBalancedClassifier: the loss that trained this network was a module, which is not stored with it: it "
            "predicts, and cannot be trained further. Fit a new one."
        )

    def calibration_from(self, state: dict[str, Tensor]) -> Calibration:
        """Return the calibration that `state_without_loss` gave the state of."""
        return PooledCalibration.from_state_dict(state) if "numbers" in state else super().calibration_from(state)


def state_without_loss(calibration: Calibration) -> dict[str, Tensor] | None:
    """Return all that a calibration predicts by, or None where that includes code of the loss."""
    if type(calibration) is PooledCalibration:
        return calibration.state_dict()
    if type(calibration) is ScoresOf and type(calibration.criterion).scores is Criterion.scores:
        return {"temperature": calibration.temperature}
    return None
