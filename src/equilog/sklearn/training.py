"""The training loop: batches, the validation rows after each epoch, and in the end the weights of the best epoch."""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from equilog.sklearn.adamw import AdamW
from equilog.sklearn.column_loss import ColumnLoss
from equilog.sklearn.early_stopping import EarlyStopping
from equilog.sklearn.rows import Rows

History = dict[str, list[float]]
"""{"train_loss", "valid_loss", "valid_score"}: a value an epoch, the last two only where rows are held out."""


@dataclass(frozen=True)
class Trainer:
    """A network in training; its optimizer goes on where the last call of `train` left off."""

    network: nn.Module
    loss: ColumnLoss
    optimizer: AdamW

    def train(
        self,
        rows: Rows,
        held_out: Rows | None,
        history: History,
        *,
        batch_size: int,
        epochs: int,
        stopping: EarlyStopping,
        order: torch.Generator,
        verbose: bool,
    ) -> None:
        """Train, and add each epoch to the history.

        Args:
            rows: what is trained on.
            held_out: validation rows. When `stopping` says so of the loss on them training stops, and the network
                goes back to the weights of the lowest one. Without them it takes all epochs.
            history: the epochs so far.
            batch_size: rows a step.
            epochs: most passes over the rows.
            stopping: one that has seen no epoch.
            order: what draws the order of the rows, anew each epoch.
            verbose: print a line an epoch.
        """
        best_weights = None
        for _ in range(epochs):
            history["train_loss"].append(self._train_epoch(rows.batches(batch_size, order)))
            if held_out is not None:
                valid_loss, valid_score = self._validate(held_out, batch_size)
                history["valid_loss"].append(valid_loss)
                history["valid_score"].append(valid_score)
                if stopping.is_lowest(valid_loss):
                    best_weights = copy.deepcopy(self.network.state_dict())
            if verbose:
                print(_line(history))
            if stopping.is_over:
                break
        if best_weights is not None:
            self.network.load_state_dict(best_weights)

    def _train_epoch(self, batches: Iterable[Rows]) -> float:
        """Return the mean loss over the rows, each by the weights its batch was computed with."""
        self.network.train()
        self.loss.train()
        losses, sizes = [], []
        for batch in batches:
            self.optimizer.zero_grad()
            loss: Tensor = self.loss(self.network(batch.features), batch.target, batch.weight)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            losses.append(loss.item())
            sizes.append(len(batch))
        return float(np.average(losses, weights=sizes))

    @torch.no_grad()
    def _validate(self, held_out: Rows, batch_size: int) -> tuple[float, float]:
        """Return the mean loss and the score of the validation rows."""
        self.network.eval()
        self.loss.eval()
        logits, losses, sizes = [], [], []
        for batch in held_out.batches(batch_size):
            logits.append(self.network(batch.features))
            losses.append(float(self.loss(logits[-1], batch.target, batch.weight)))
            sizes.append(len(batch))
        return float(np.average(losses, weights=sizes)), self.loss.score(torch.cat(logits), held_out.target)


def _line(history: History) -> str:
    """Return the last epoch in words."""

    def parts() -> Iterator[str]:
        yield f"epoch {len(history['train_loss'])}"
        for name, values in history.items():
            if values:
                yield f"{name} {values[-1]:.4f}"

    return "  ".join(parts())
