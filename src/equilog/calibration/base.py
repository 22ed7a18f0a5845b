"""What every calibration does: scores -> probabilities and decisions."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from equilog.calibration.temperature import check_temperature, likeliest_temperature
from equilog.inputs.classes import classes_last

Kind = Literal["balanced", "posterior"]
"""Which probabilities: as the loss decides ("balanced") or of the data as drawn ("posterior")."""


def check_kind(where: str, kind: str) -> None:
    """Raise ValueError unless `kind` is one of `Kind`."""
    if kind not in ("balanced", "posterior"):
        raise ValueError(f'{where}: kind must be "balanced" or "posterior"; got {kind!r}.')


class Calibration(nn.Module):
    r"""Probabilities and decisions of a model's logits: what `criterion.calibrate(logits, target)` returns.

    A loss that adds a prior to the logits, weights the classes or couples the rows moves what the bare logits mean.
    Here that is undone: `scores` are such that their softmax (sigmoid for yes/no labels) is the probability. Without
    parameters; the buffers have fixed shapes and are saved and loaded as any module's are. It can be exported with the
    model.
    """

    multilabel: bool
    """Whether the entries of a row of logits are separate yes/no labels rather than one choice."""
    temperature: Tensor
    """0-d, what the scores are divided by: 1, or what `fit_temperature` has found."""

    def __init__(self, multilabel: bool) -> None:
        super().__init__()
        self.multilabel = multilabel
        self.register_buffer("temperature", torch.ones(()))

    def raw_scores(self, logits: Tensor, kind: Kind) -> Tensor:
        """Return the scores at temperature 1."""
        raise NotImplementedError

    def scores(self, logits: Tensor, kind: Kind = "balanced") -> Tensor:
        """Return scores of the logits' shape (N, C, ...) whose softmax (or sigmoid) is the probability of this kind.

        Raises:
            ValueError: an unknown kind.
            RuntimeError: the posterior is asked for and not known; says what to call.
        """
        check_kind(type(self).__name__, kind)
        scores = self.raw_scores(logits, kind)
        return scores / self.temperature.to(scores)

    def probabilities(self, logits: Tensor, kind: Kind = "balanced", temperature: float = 1.0) -> Tensor:
        """Return probabilities of the logits' shape: softmax over dimension 1, or sigmoid for yes/no labels.

        `temperature` divides the scores once more; above 1 it makes the probabilities less sure and never changes which
        class comes first.
        """
        check_temperature(type(self).__name__, temperature)
        scores = self.scores(logits, kind) / temperature
        return scores.sigmoid() if self.multilabel else scores.softmax(-1 if scores.dim() == 1 else 1)

    def predict(self, logits: Tensor, metric: Any = None) -> Tensor:
        """Return the class index with the largest balanced score (N, ...), or 0/1 for each yes/no label.

        With a `metric` (a name, a cost matrix or a function, as of `equilog.decisions.DecisionRule`, which needs the
        sklearn extra) the decisions are those that are best for it by the posterior of these rows, taken together.
        """
        if metric is not None:
            from equilog.decisions import DecisionRule

            posterior = self.probabilities(logits.detach(), "posterior")
            rows = posterior if self.multilabel else classes_last(posterior)
            table = rows.reshape(-1, rows.shape[-1])
            labels: Tensor = DecisionRule(metric, multilabel=self.multilabel).fit(table).predict(table)
            return labels.reshape(rows.shape if self.multilabel else rows.shape[:-1])
        scores = self.scores(logits)
        if self.multilabel:
            return (scores > 0).to(torch.int64)
        return scores.argmax(-1 if scores.dim() == 1 else 1)

    def forward(self, logits: Tensor) -> Tensor:
        """Return the balanced probabilities, for export."""
        return self.probabilities(logits)

    @torch.no_grad()
    def fit_temperature(
        self, logits: Tensor, target: Tensor, *, sample_weight: Tensor | None = None, kind: Kind = "posterior"
    ) -> float:
        r"""Divide the scores by the temperature that makes held-out targets likeliest, and return it.

        It minimises $\sum_i v_i \, (-\log p_T(y_i \mid x_i)) + (\log_2 T)^2 / 2$. The last term is a normal prior with
        a factor of two as its standard deviation: without it a few rows, all classified rightly, would drive T to 0.

        Args:
            logits: (N, C) of rows that the model was not trained on.
            target: (N,) class indices, or probabilities or yes/no labels (N, C).
            sample_weight: (N,) weight of each row.
            kind: the probabilities to fit; which class comes first does not depend on it.
        """
        scores = self.raw_scores(logits, kind)
        temperature = likeliest_temperature([(scores, target, self.multilabel)], sample_weight)
        self.temperature.fill_(temperature)
        return temperature
