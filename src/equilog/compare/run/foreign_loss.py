"""Any loss of torch's form as a criterion."""

import inspect
from typing import Any

from torch import Tensor, nn

from equilog.baselines.registry import Task
from equilog.compare.errors import DataError
from equilog.compare.run.imported import imported
from equilog.losses.criterion import Criterion


class ForeignLoss(Criterion):
    """A module or function (logits, target) -> scalar, whose logits are taken as they are.

    Targets are as torch's losses have them: class numbers (N,) int64, labels (N, L) or probabilities (N, C) float32.
    """

    def __init__(self, loss: Any, *, multilabel: bool) -> None:
        super().__init__()
        self.multilabel = multilabel
        self.loss = loss

    def forward(self, logits: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> Tensor:
        """Return the loss; the comparison weights no rows, so weights are not handed on."""
        del sample_weight
        value: Tensor = self.loss(logits, target)
        return value


def loss_from(path: str, task: Task) -> Criterion:
    """Return the criterion that an import path names: a criterion or module, its class, or a function.

    Raises:
        DataError: it is none of these, or its class cannot be called without arguments.
    """
    loss = imported(path, "--losses")
    if inspect.isclass(loss):
        try:
            loss = loss()
        except TypeError as error:
            raise DataError(
                f"--losses {path} cannot be made without arguments ({error}). Name an instance, or a function of "
                "logits and target."
            ) from error
    if isinstance(loss, Criterion):
        return loss
    if not isinstance(loss, nn.Module) and not callable(loss):
        raise DataError(f"--losses {path} must be a torch module or a function of logits and target; got {loss!r:.60}.")
    return ForeignLoss(loss, multilabel=task == "multilabel")
