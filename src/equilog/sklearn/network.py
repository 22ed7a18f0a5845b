"""The network, the loss over its target columns, and the training loop, which is skorch's."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from skorch import NeuralNet
from skorch.callbacks import Callback, EarlyStopping
from skorch.utils import to_tensor
from torch import Tensor, nn

from equilog.criterion import Criterion
from equilog.registry import Task
from equilog.sklearn.calibration import divergence
from equilog.sklearn.ranks import SharedNetwork

Batch = tuple[Tensor, tuple[Tensor, Tensor]]
"""Features (B, d), and encoded targets (B, ...) with weights (B,)."""


def perceptron(
    n_features: int, hidden_units: Sequence[int], n_outputs: int, dropout: float, generator: torch.Generator
) -> nn.Sequential:
    """Return linear layers with ReLU and dropout between them; a linear model where there are no hidden units.

    Weights and biases are uniform within ±1/√inputs, as torch has them, but drawn from a generator of their own: that
    of the process is shared by the threads that joblib may fit in.
    """
    widths = [n_features, *hidden_units, n_outputs]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        if layers:
            layers += [nn.ReLU(), nn.Dropout(dropout)]
        linear = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
        for parameter in linear.parameters():
            nn.init.uniform_(parameter, -(inputs**-0.5), inputs**-0.5, generator=generator)
        layers.append(linear)
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class Rows:
    """Rows of data as tensors, iterated over in batches that are slices, not collated row by row."""

    features: Tensor
    target: Tensor
    weight: Tensor
    batch_size: int
    order: torch.Generator | None = None
    """What draws the order, anew each epoch; None keeps the order of the rows."""

    def __len__(self) -> int:
        return len(self.features)

    def __iter__(self) -> Iterator[Batch]:
        n = len(self)
        order = torch.arange(n) if self.order is None else torch.randperm(n, generator=self.order)
        for rows in torch.split(order, self.batch_size):
            yield self.features[rows], (self.target[rows], self.weight[rows])


class ColumnLoss(nn.Module):
    """Mean of the losses of the target columns, each on its own slice of the logits."""

    def __init__(self, task: Task, criteria: Sequence[Criterion], widths: Sequence[int]) -> None:
        super().__init__()
        self.task = task
        self.criteria = nn.ModuleList(criteria)
        self.widths = list(widths)

    def columns(self, logits: Tensor, target: Tensor) -> Iterator[tuple[Criterion, Tensor, Tensor]]:
        """Yield each column's criterion, logits (N, C) and target: codes (N,), or labels or probabilities (N, C)."""
        targets = target.unbind(1) if self.task == "multiclass" else (target,)
        yield from zip(self.criteria, torch.split(logits, self.widths, 1), targets, strict=True)

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Return the mean over columns of the loss of `logits` (N, C_1 + ... + C_k)."""
        losses = [c(slice_, t, sample_weight=weight) for c, slice_, t in self.columns(logits, target)]
        return torch.stack(losses).mean()


def column_score(task: Task, criterion: Criterion, logits: Tensor, target: Tensor) -> Tensor:
    """Return balanced accuracy (multiclass), macro-F1 (multi-label) or minus the mean KL divergence (soft)."""
    if task == "soft":
        return -divergence(criterion, logits, target).mean()
    predicted = criterion.predict(logits)
    if task == "multilabel":
        found = target.sum(0) + predicted.sum(0)
        return (2 * (target * predicted).sum(0) / found.clamp(min=1)).mean()
    classes = logits.shape[1]
    rows = torch.bincount(target, minlength=classes)
    hits = torch.bincount(target[predicted == target], minlength=classes)
    return (hits / rows)[rows > 0].mean()


class ValidationScore(Callback):  # type: ignore[misc]
    """Record the score of the validation rows, from the logits that their loss was computed from."""

    def on_epoch_begin(self, net: "Net", **kwargs: Any) -> None:
        """Forget the last epoch's logits."""
        del net, kwargs
        self.logits_: list[Tensor] = []

    def on_batch_end(self, net: "Net", training: bool, y_pred: Tensor, **kwargs: Any) -> None:
        """Keep the logits of a validation batch."""
        del net, kwargs
        if not training:
            self.logits_.append(y_pred)

    def on_epoch_end(self, net: "Net", dataset_valid: Rows | None = None, **kwargs: Any) -> None:
        """Record the mean score over columns."""
        del kwargs
        if dataset_valid is None:
            return
        loss: ColumnLoss = net.criterion_
        columns = loss.columns(torch.cat(self.logits_), dataset_valid.target)
        scores = [column_score(loss.task, *column) for column in columns]
        net.history.record("valid_score", float(torch.stack(scores).mean()))

    def on_train_end(self, net: "Net", **kwargs: Any) -> None:
        """Let the logits go, so that they are not pickled."""
        del net, kwargs
        self.logits_ = []


class Stopped(Exception):  # noqa: N818
    """Training has stopped because the validation loss no longer falls."""


class EarlyStoppingWhereHeldOut(EarlyStopping):  # type: ignore[misc]
    """skorch's early stopping, which also accepts epochs without validation rows."""

    def on_epoch_end(self, net: "Net", dataset_valid: Rows | None = None, **kwargs: Any) -> None:
        """Compare the validation loss with the best so far."""
        if dataset_valid is None:
            return
        try:
            super().on_epoch_end(net, **kwargs)
        except KeyboardInterrupt:
            # skorch stops by the exception of Ctrl-C, which must remain the user's.
            raise Stopped from None


class Net(NeuralNet):  # type: ignore[misc]
    """skorch's training loop over `Rows`, with weights in the loss and the network shared by ranks."""

    shared_: SharedNetwork | None = None
    """The network over several processes, while they train it."""

    def infer(self, x: Tensor, **fit_params: Any) -> Tensor:
        """Return the logits of a batch."""
        logits: Tensor = super().infer(x, **fit_params) if self.shared_ is None else self.shared_(x)
        return logits

    def get_loss(self, y_pred: Tensor, y_true: tuple[Tensor, Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss of a batch."""
        del args, kwargs
        target, weight = to_tensor(y_true, device=self.device)
        loss: Tensor = self.criterion_(y_pred, target, weight)
        return loss

    def get_split_datasets(self, X: tuple[Rows, Rows | None], y: None = None, **kwargs: Any) -> Any:
        """Return training and validation rows, which come split."""
        del y, kwargs
        return X

    def get_iterator(self, dataset: Rows, training: bool = False) -> Rows:
        """Return the rows, which are iterated over in batches."""
        del training
        return dataset

    def train(
        self, rows: Rows, held_out: Rows | None, epochs: int, group: dist.ProcessGroup | None = None
    ) -> list[dict[str, Any]]:
        """Train for so many epochs or until stopped early, and return the record of each.

        The ranks of a group train together; each must be given the same rows, in the same order.
        """
        before = len(self.history)
        self.notify("on_train_begin", X=rows, y=None)
        self.shared_ = None if group is None else SharedNetwork(self.module_, group)
        try:
            with contextlib.suppress(Stopped):
                self.fit_loop((rows, held_out), epochs=epochs)
        finally:
            self.shared_ = None
        self.notify("on_train_end", X=rows, y=None)
        trained: list[dict[str, Any]] = self.history[before:]
        for epoch in trained:
            # skorch keeps a record of every batch, without end where partial_fit follows a stream.
            epoch["batches"].clear()
        return trained
