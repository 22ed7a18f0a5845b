"""Baselines for separate yes/no labels.

All take logits and targets (N, L), targets 0 or 1 in any dtype. x is the logit of one label, t its target,
s = sigmoid(x). `sample_weight` is (N,); a row of weight 2 is that row twice, but for the N of a mean over rows, and
a row of weight 0 is no row. Where `mask`, broadcastable to (N, L), is False, there is no label.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from equilog.baselines.mean import weighted_mean
from equilog.calibration.base import Kind
from equilog.inputs.labels import Labels, read_labels
from equilog.inputs.options import LabelOptions
from equilog.losses.criterion import Criterion
from equilog.ops import as_compute_dtype

LEAST_SHIFTED = 0.01
"""What the asymmetric loss's s_m is taken to be, where it is less, when odds are read off its slopes."""


class MultilabelBaseline(Criterion):
    """Base class: a value for each label in `per_label`, averaged over rows and labels."""

    multilabel = True

    def per_label(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each label (n,) of logits and targets (n,) in nats."""
        raise NotImplementedError

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        *,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the loss in nats, a scalar in float32, or float64 where the logits are.

        Raises TypeError or ValueError where shapes or types do not fit.
        """
        options = LabelOptions(where=type(self).__name__, index_target=False)
        labels = read_labels(options, logits, target, weight=None, sample_weight=sample_weight, mask=mask)
        return self.total(labels.by_value())

    def total(self, labels: Labels) -> Tensor:
        """Return one value for all labels."""
        logits, target, weight = labels.visible()
        return weighted_mean(self.per_label(logits, target), weight)


class BinaryCrossEntropy(MultilabelBaseline):
    """torch's binary cross-entropy: the mean over rows and labels of -t log s - (1 - t) log(1 - s).

    Targets may lie anywhere in [0, 1]. sigmoid(x) is the posterior.

    >>> import torch
    >>> float(BinaryCrossEntropy()(torch.zeros(2, 3), torch.ones(2, 3)).exp())
    2.0
    """

    def per_label(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the binary cross-entropy of each label, (n,)."""
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none")


class Asymmetric(MultilabelBaseline):
    """The asymmetric loss: the mean of -t (1 - s)^gamma_pos log s - (1 - t) s_m^gamma_neg log(1 - s_m).

    s_m = max(s - clip, 0): a negative label below the clip costs nothing. Ridnik, Ben-Baruch, Zamir, Noy, Friedman,
    Protter & Zelnik-Manor, "Asymmetric loss for multi-label classification", ICCV 2021, arXiv 2009.14119. The
    authors sum over rows and labels where we take the mean, so that gammas and clip of 0 give BinaryCrossEntropy.
    Targets may lie anywhere in [0, 1].

    At the minimum the odds of the label are the slope of the second term over that of the first, in s and without
    sign; s itself is not the probability. The posterior scores are the log of those odds. The second term has no
    slope at s <= clip, which would stand for impossible labels: s_m is not taken below 0.01 there.

    Args:
        gamma_neg: 0 or more; how fast an easy negative stops to count.
        gamma_pos: 0 or more; the same for positives.
        clip: in [0, 1); the probability up to which a negative is let off.

    >>> import torch
    >>> float(Asymmetric()(torch.full((1, 3), -4.0), torch.zeros(1, 3))) # sigmoid(-4) is below the clip
    0.0
    """

    def __init__(self, gamma_neg: float = 4.0, gamma_pos: float = 1.0, clip: float = 0.05) -> None:
        super().__init__()
        if not (gamma_neg >= 0.0 and gamma_pos >= 0.0 and 0.0 <= clip < 1.0):
            raise ValueError(
                "Asymmetric: gamma_neg and gamma_pos must be 0 or more and clip in [0, 1); "
                f"got gamma_neg={gamma_neg}, gamma_pos={gamma_pos}, clip={clip}."
            )
        self.gamma_neg, self.gamma_pos, self.clip = gamma_neg, gamma_pos, clip

    def per_label(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the asymmetric loss of each label, (n,)."""
        log_yes, log_no = F.logsigmoid(logits), F.logsigmoid(-logits)
        positive = (self.gamma_pos * log_no).exp() * log_yes
        # 1 - s_m is 1 up to the clip and has no slope there. The clamp of s_m keeps powers below 1 from having an
        # infinite slope at 0, where their product with the logarithm has none.
        shifted = (logits.sigmoid() - self.clip).clamp(min=torch.finfo(logits.dtype).tiny)
        negative = shifted**self.gamma_neg * self._log_rest(logits).clamp(max=0.0)
        return -(target * positive + (1.0 - target) * negative)

    def scores(self, logits: Tensor, kind: Kind = "balanced") -> Tensor:
        """Return the logits, or for the posterior the log of the odds in the class's description."""
        if kind == "balanced":
            return logits
        logits = as_compute_dtype(logits)
        log_yes, log_no, log_rest = F.logsigmoid(logits), F.logsigmoid(-logits), self._log_rest(logits)
        log_shifted = log_yes
        if self.clip > 0.0:
            log_shifted = (logits.sigmoid() - self.clip).clamp(min=LEAST_SHIFTED).log()
            log_rest = log_rest.clamp(max=math.log1p(-LEAST_SHIFTED))
        return _log_slope(self.gamma_neg, log_shifted, log_rest) - _log_slope(self.gamma_pos, log_no, log_yes)

    def _log_rest(self, logits: Tensor) -> Tensor:
        """Return log(1 - s + clip), which is log(1 - s_m) where s is above the clip."""
        return torch.logaddexp(F.logsigmoid(-logits), logits.new_tensor(self.clip).log())


def _log_slope(gamma: float, log_miss: Tensor, log_rest: Tensor) -> Tensor:
    """Return the log of d/du of -u^gamma log(1 - u), with log_miss = log u and log_rest = log(1 - u)."""
    log_gamma = log_rest.new_tensor(gamma).log()
    return (gamma - 1.0) * log_miss + torch.logaddexp(log_miss - log_rest, log_gamma + (-log_rest).log())


class TwoWay(MultilabelBaseline):
    """The two-way loss, sum over rows / N + sum over labels / L of softplus(T_n lse(x_n/T_n) + T_p lse(-x_p/T_p)).

    lse is log-sum-exp; x_n runs over the negatives and x_p over the positives of one row (all its labels), or of one
    label (all rows of the batch). A row or label without negatives has the value 0; one without positives is left
    out, also of N or L, as in the author's code. A target above 0 counts as positive. Kobayashi, "Two-way
    multi-label loss", CVPR 2023.

    Positives are compared with negatives only: a constant added to a row of logits leaves the row's part as it was,
    one added to a column the label's part. So the loss learns to order, and 0 as the threshold is no more than where
    the model started: choose one on held-out rows, and take sigmoid(x) for an order rather than a probability.

    Args:
        positive_temperature: T_p, above 0; the higher it is, the more all positives count rather than the worst.
        negative_temperature: T_n, above 0; likewise.

    >>> import torch
    >>> criterion, target = TwoWay(), torch.tensor([[1, 0, 0], [0, 1, 1]])
    >>> perfect = torch.where(target > 0, 100.0, -100.0)
    >>> float(criterion(perfect, target)), float(criterion(perfect + 7.0, target))
    (0.0, 0.0)
    """

    def __init__(self, positive_temperature: float = 4.0, negative_temperature: float = 1.0) -> None:
        super().__init__()
        if not (positive_temperature > 0.0 and negative_temperature > 0.0):
            raise ValueError(
                "TwoWay: positive_temperature and negative_temperature must be above 0; "
                f"got {positive_temperature} and {negative_temperature}."
            )
        self.positive_temperature, self.negative_temperature = positive_temperature, negative_temperature

    def total(self, labels: Labels) -> Tensor:
        """Return the rows' part plus the labels' part."""
        if len(labels.shape) != 2:
            raise ValueError(f"TwoWay: logits must be (N, L), one column a label; got {tuple(labels.shape)}.")
        logits, target, weight = (values.reshape(labels.shape) for values in labels.visible())
        positive, negative = (target > 0) & (weight != 0), (target <= 0) & (weight != 0)
        rows = self._compared(logits, positive, negative)
        # Within a label a row of weight v stands for v rows: log v goes into its exponent.
        columns = self._compared(logits.T, positive.T, negative.T, weight.T.log())
        row_weight = (weight * positive).amax(1)
        return weighted_mean(rows, row_weight) + weighted_mean(columns, positive.any(0).to(rows.dtype))

    def _compared(self, logits: Tensor, positive: Tensor, negative: Tensor, log_weight: Tensor | float = 0.0) -> Tensor:
        """Return for each row of logits the softplus of its positives against its negatives, 0 without a pair."""

        def pooled(scores: Tensor, mask: Tensor, temperature: float) -> Tensor:
            exponent = scores / temperature + log_weight
            return temperature * exponent.masked_fill(~mask, -torch.inf).logsumexp(1)

        against = pooled(logits, negative, self.negative_temperature)
        return F.softplus(against + pooled(-logits, positive, self.positive_temperature))
