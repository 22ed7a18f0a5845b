"""What training code may ask of a loss: its value, and what the logits of a model that it trained say."""

import copy

from torch import Tensor, nn

from equilog.calibration import Calibration
from equilog.calibration.base import Kind


class Criterion(nn.Module):
    """Base class of the losses: a value in `forward`, and in `scores` what the logits mean where the loss alone knows.

    A loss that adds a prior to the logits or weights the classes moves what the bare logits mean; `scores` undoes that,
    so that everything after it (decisions, probabilities, temperature) is the same for every loss. What only trained
    logits tell, `calibrate` finds out and gives back as a module of its own: a criterion holds what training needs.
    """

    multilabel: bool = False
    """Whether the entries of a row of logits are separate yes/no labels rather than one choice."""

    def forward(self, logits: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> Tensor:
        """Return the loss of `logits` (N, C, ...) against `target`, a scalar unless reduction is "none"."""
        raise NotImplementedError

    def scores(self, logits: Tensor, kind: Kind = "balanced") -> Tensor:
        """Return scores of the logits' shape whose softmax (or sigmoid) is the probability of this kind."""
        del kind
        return logits

    def calibrate(self, logits: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> Calibration:
        """Return what trained logits say, told by those of the training rows and their targets."""
        del logits, target, sample_weight
        return self.uncalibrated()

    def uncalibrated(self) -> Calibration:
        """Return what logits say as far as the loss alone knows."""
        return ScoresOf(self)

    def calibration_from(self, state: dict[str, Tensor]) -> Calibration:
        """Return the calibration of this loss that has this state, its `state_dict`."""
        calibration = ScoresOf(copy.deepcopy(self))
        calibration.load_state_dict(state)
        return calibration

    def probabilities(self, logits: Tensor, kind: Kind = "balanced") -> Tensor:
        """Return probabilities of the logits' shape, without a calibration.

        Raises:
            RuntimeError: the posterior, where only trained logits can tell it; `calibrate` does.
        """
        return self.uncalibrated().probabilities(logits, kind)

    def predict(self, logits: Tensor) -> Tensor:
        """Return the class index that the loss decides for (N, ...), or 0/1 for each yes/no label."""
        return self.uncalibrated().predict(logits)


class ScoresOf(Calibration):
    """The calibration of a loss whose `scores` say all there is."""

    def __init__(self, criterion: Criterion) -> None:
        super().__init__(criterion.multilabel)
        self.criterion = criterion

    def raw_scores(self, logits: Tensor, kind: Kind) -> Tensor:
        """Return the scores at temperature 1."""
        return self.criterion.scores(logits, kind)
