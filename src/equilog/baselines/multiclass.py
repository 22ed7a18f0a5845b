"""Baselines for one choice among C classes.

All take logits (N, C) or (N, C, d1, ...) and class indices (N,) or (N, d1, ...), where -100 marks a row to leave
out; those without a note also take target probabilities of the logits' shape. z is a row of logits, y its class,
p = softmax(z), n_j the number of training rows of class j, pi_j its share of them. Each returns the mean of the
values below, sum_i v_i loss_i / N in nats: v is `sample_weight` (N,), N the rows neither left out nor of weight 0.
`scores` says what the logits of a model trained so mean: the softmax of the posterior scores is p(j|x) wherever
the loss is at its minimum.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from equilog.baselines.class_counts import along_classes, clamped_counts, log_prior
from equilog.baselines.mean import weighted_mean
from equilog.calibration.base import Kind
from equilog.inputs.classes import Sets, read_sets
from equilog.inputs.options import ClassOptions
from equilog.losses.criterion import Criterion
from equilog.ops import as_compute_dtype


class MulticlassBaseline(Criterion):
    """Base class: a value for each row in `per_row`, averaged."""

    takes_probabilities: bool = True
    """Whether targets may be probabilities as well as class indices."""

    def per_row(self, logits: Tensor, sets: Sets) -> Tensor:
        """Return the loss of each row (n,) of logits (n, C) in nats."""
        raise NotImplementedError

    def forward(self, logits: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> Tensor:
        """Return the mean loss over the rows in nats, a scalar in float32, or float64 where the logits are.

        Raises TypeError or ValueError where shapes or types do not fit.
        """
        name = type(self).__name__
        if not self.takes_probabilities and target.is_floating_point():
            raise ValueError(
                f"{name}: target must be class indices, this loss is not defined for probabilities; "
                f"got {tuple(target.shape)} {target.dtype}. Indices must be integers: call target.long()."
            )
        sets = read_sets(ClassOptions(where=name), logits, target, sample_weight)
        return weighted_mean(self.per_row(sets.scores(), sets), sets.log_weight.exp())


def cross_entropy(logits: Tensor, sets: Sets, weight: Tensor | None = None) -> Tensor:
    """Return -sum_j t_j weight_j log softmax(logits)_j of each row, (n,)."""
    target = sets.probs if sets.index is None else sets.index
    assert target is not None
    return F.cross_entropy(logits, target, weight=weight, reduction="none")


class CrossEntropy(MulticlassBaseline):
    """torch's cross-entropy: -log p_y.

    >>> import torch
    >>> float(CrossEntropy()(torch.zeros(2, 4), torch.tensor([0, 3])).exp())
    4.0
    """

    def per_row(self, logits: Tensor, sets: Sets) -> Tensor:
        """Return the cross-entropy of each row, (n,)."""
        return cross_entropy(logits, sets)


class WeightedCrossEntropy(MulticlassBaseline):
    """Cross-entropy with weights inversely proportional to the class counts: -w_y log p_y, w_j = n / (C n_j).

    King & Zeng, "Logistic regression in rare events data", Political Analysis 2001; the weights are those of
    scikit-learn's class_weight="balanced". The mean is over rows, not over weights as torch's is. A class never
    seen counts as seen once.

    The minimum is p_j proportional to w_j p(j|x): the logits decide as if all classes were equally frequent, and
    z - log w is the posterior.

    Args:
        class_count: (C,) training rows of each class, or summed probabilities.

    >>> import torch
    >>> WeightedCrossEntropy(torch.tensor([90, 10])).weight
    tensor([0.5556, 5.0000])
    """

    weight: Tensor

    def __init__(self, class_count: Tensor) -> None:
        super().__init__()
        prior = log_prior(type(self).__name__, class_count).exp()
        self.register_buffer("weight", 1.0 / (len(prior) * prior))

    def per_row(self, logits: Tensor, sets: Sets) -> Tensor:
        """Return the weighted cross-entropy of each row, (n,)."""
        return cross_entropy(logits, sets, along_classes(type(self).__name__, self.weight, logits))

    def scores(self, logits: Tensor, kind: Kind = "balanced") -> Tensor:
        """Return the logits, less the log of the weights for the posterior."""
        if kind == "balanced":
            return logits
        logits = as_compute_dtype(logits)
        return logits - along_classes(type(self).__name__, self.weight.log(), logits)


class ClassBalanced(WeightedCrossEntropy):
    """Cross-entropy weighted by effective numbers: -w_y log p_y, w_j proportional to (1 - beta) / (1 - beta^n_j).

    Cui, Jia, Lin, Song & Belongie, "Class-balanced loss based on effective number of samples", CVPR 2019, with
    weights summing to C. beta = 0 is cross-entropy; beta near 1 is WeightedCrossEntropy up to a factor. The minimum
    and its meaning are those of WeightedCrossEntropy, and so is a class never seen.

    Args:
        class_count: (C,) training rows of each class, or summed probabilities.
        beta: in [0, 1); N = 1 / (1 - beta) is the number of distinct rows a class is thought to have.

    >>> import torch
    >>> ClassBalanced(torch.tensor([1000, 1000, 10])).weight.sum()
    tensor(3.)
    """

    def __init__(self, class_count: Tensor, beta: float = 0.999) -> None:
        super().__init__(class_count)
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"ClassBalanced: beta must lie in [0, 1); got {beta}.")
        weight = 1.0 / (1.0 - beta ** clamped_counts("ClassBalanced", class_count))
        self.weight = (len(weight) * weight / weight.sum()).float()


class Focal(MulticlassBaseline):
    """The focal loss: -(1 - p_y)^gamma log p_y. Takes class indices only.

    Lin, Goyal, Girshick, He & Dollár, "Focal loss for dense object detection", ICCV 2017, equation 4, here with the
    softmax of C classes. gamma = 0 is cross-entropy.

    The class that comes first at the minimum is the likeliest, but p is not p(j|x), which is proportional to
    p_j / ((1 - p_j)^gamma - gamma (1 - p_j)^(gamma - 1) p_j log p_j), whose log the posterior scores are:
    Charoenphakdee, Vongkulbhisal, Chairatanakul & Sugiyama, "On focal loss for class-posterior probability
    estimation", CVPR 2021.

    Args:
        gamma: 0 or more; how fast a row already classified well stops to count.

    >>> import torch
    >>> float((Focal()(torch.zeros(1, 2), torch.tensor([0])) / 0.25).exp())
    2.0
    """

    takes_probabilities = False

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        if not gamma >= 0.0:
            raise ValueError(f"Focal: gamma must be 0 or more; got {gamma}.")
        self.gamma = gamma

    def per_row(self, logits: Tensor, sets: Sets) -> Tensor:
        """Return the focal loss of each row, (n,)."""
        loss = cross_entropy(logits, sets)
        # 1 - p is 0 in a saturated row, where a power below 1 has no finite slope. The product with the loss has
        # slope 0 there, and so has this: the clamp stops the one factor's gradient, and the other factor is 0.
        miss = -torch.expm1(-loss.clamp(min=torch.finfo(loss.dtype).tiny))
        return miss**self.gamma * loss

    def scores(self, logits: Tensor, kind: Kind = "balanced") -> Tensor:
        """Return the logits, or for the posterior the log of the map in the class's description."""
        if kind == "balanced" or self.gamma == 0.0:
            return logits
        log_p = as_compute_dtype(logits).log_softmax(-1 if logits.dim() == 1 else 1)
        # A logarithm is taken of 1 - p below: the surest answer that the dtype tells from 1 stands for 1.
        log_p = log_p.clamp(max=-torch.finfo(log_p.dtype).eps)
        p, miss = log_p.exp(), -torch.expm1(log_p)
        return log_p - (self.gamma - 1.0) * miss.log() - (miss - self.gamma * p * log_p).log()


class GeneralizedCrossEntropy(MulticlassBaseline):
    """Between cross-entropy and the mean absolute error, for wrong labels: sum_j t_j (1 - p_j^q) / q.

    Zhang & Sabuncu, "Generalized cross entropy loss for training deep neural networks with noisy labels", NeurIPS
    2018, arXiv 1805.07836, equation 6, without its truncation. Near q = 0 it is cross-entropy; the larger q, the less
    a row counts whose label the model finds unlikely: its gradient is cross-entropy's times p_y^q.

    The minimum is p_j proportional to P(j|x)^(1 / (1 - q)), surer than the data: the posterior scores are (1 - q) z.

    Args:
        q: in (0, 1). At 1 it would be the mean absolute error, whose minimum tells the likeliest class and no more.

    >>> import torch
    >>> float(GeneralizedCrossEntropy(q=0.5)(torch.zeros(2, 4), torch.tensor([0, 3])))  # (1 - sqrt(1/4)) / 0.5
    1.0
    """

    def __init__(self, q: float = 0.7) -> None:
        super().__init__()
        if not 0.0 < q < 1.0:
            raise ValueError(f"GeneralizedCrossEntropy: q must lie in (0, 1); got {q}.")
        self.q = q

    def per_row(self, logits: Tensor, sets: Sets) -> Tensor:
        """Return the generalized cross-entropy of each row, (n,)."""
        if sets.index is not None:
            return -torch.expm1(-self.q * cross_entropy(logits, sets)) / self.q
        return -(sets.probs * torch.expm1(self.q * logits.log_softmax(1))).sum(1) / self.q

    def scores(self, logits: Tensor, kind: Kind = "balanced") -> Tensor:
        """Return the logits, times 1 - q for the posterior."""
        return logits if kind == "balanced" else (1.0 - self.q) * as_compute_dtype(logits)


class BalancedSoftmax(MulticlassBaseline):
    """Cross-entropy of the logits plus the log-prior: -log softmax(z + log pi)_y.

    Ren, Yu, Sheng, Ma, Zhao, Yi & Li, "Balanced meta-softmax for long-tailed visual recognition", NeurIPS 2020,
    arXiv 2007.10740. The bare logits decide as if all classes were equally frequent, z + log pi is the
    posterior. A class never seen counts as seen once.

    Args:
        class_count: (C,) training rows of each class, or summed probabilities.

    >>> import torch
    >>> criterion = BalancedSoftmax(torch.tensor([90, 10]))
    >>> criterion.probabilities(torch.zeros(1, 2)), criterion.probabilities(torch.zeros(1, 2), kind="posterior")
    (tensor([[0.5000, 0.5000]]), tensor([[0.9000, 0.1000]]))
    """

    log_prior: Tensor

    def __init__(self, class_count: Tensor) -> None:
        super().__init__()
        self.register_buffer("log_prior", log_prior("BalancedSoftmax", class_count))

    def per_row(self, logits: Tensor, sets: Sets) -> Tensor:
        """Return the balanced softmax of each row, (n,)."""
        return cross_entropy(logits + along_classes("BalancedSoftmax", self.log_prior, logits), sets)

    def scores(self, logits: Tensor, kind: Kind = "balanced") -> Tensor:
        """Return the logits, with the log-prior put back for the posterior."""
        if kind == "balanced":
            return logits
        logits = as_compute_dtype(logits)
        return logits + along_classes("BalancedSoftmax", self.log_prior, logits)


class LogitAdjusted(MulticlassBaseline):
    """Cross-entropy in training, the log-prior taken off afterwards: decide by z - tau log pi.

    Menon, Jayasumana, Rawat, Jain, Veit & Kumar, "Long-tail learning via logit adjustment", ICLR 2021, arXiv
    2007.07314, in its post-hoc form; its loss is BalancedSoftmax. A class never seen counts as seen once.

    Args:
        class_count: (C,) training rows of each class, or summed probabilities.
        tau: how much of the log-prior to take off; 1 stands for equally frequent classes.

    >>> import torch
    >>> criterion = LogitAdjusted(torch.tensor([90, 10]))
    >>> logits = torch.tensor([[1.0, 0.0]])
    >>> int(logits.argmax()), int(criterion.predict(logits))
    (0, 1)
    """

    log_prior: Tensor

    def __init__(self, class_count: Tensor, tau: float = 1.0) -> None:
        super().__init__()
        self.tau = tau
        self.register_buffer("log_prior", log_prior("LogitAdjusted", class_count))

    def per_row(self, logits: Tensor, sets: Sets) -> Tensor:
        """Return the cross-entropy of each row, (n,)."""
        return cross_entropy(logits, sets)

    def scores(self, logits: Tensor, kind: Kind = "balanced") -> Tensor:
        """Return the logits, less tau times the log-prior for balanced decisions."""
        if kind == "posterior":
            return logits
        logits = as_compute_dtype(logits)
        return logits - self.tau * along_classes("LogitAdjusted", self.log_prior, logits)


class LDAM(MulticlassBaseline):
    """Label-distribution-aware margins: -log softmax(scale (z - D_y e_y))_y, D_j = max_margin (min n / n_j)^(1/4).

    e_y is 1 at class y and 0 elsewhere. Cao, Wei, Gaidon, Arechiga & Ma, "Learning imbalanced datasets with
    label-distribution-aware margin loss", NeurIPS 2019, arXiv 1906.07413, without its deferred re-weighting of the
    classes. Takes class indices only. A class never seen counts as seen once.

    At the minimum p(j|x) is proportional to q_j (1 - q_j (1 - exp(-scale D_j))), q = softmax(scale z): there the
    expected loss has no gradient. The posterior scores are the log of that.

    Args:
        class_count: (C,) training rows of each class.
        max_margin: 0 or more; the margin of the rarest class, in units of the logits.
        scale: above 0; multiplies logits and margins. The paper's 30 is for a head that puts out cosines, which
            cannot grow; the logits of a plain linear layer start at the size the softmax takes and grow as they need,
            and there scale 30 starts training from answers thirty times too sure. What it takes there is a margin
            scale * D of a few nats: scale 5 with max_margin 1 serves well.

    >>> import torch
    >>> LDAM(torch.tensor([1600, 100])).margin
    tensor([0.2500, 0.5000])
    """

    takes_probabilities = False
    margin: Tensor

    def __init__(self, class_count: Tensor, max_margin: float = 0.5, scale: float = 30.0) -> None:
        super().__init__()
        if not max_margin >= 0.0 or not scale > 0.0:
            raise ValueError(
                f"LDAM: max_margin must be 0 or more and scale above 0; got max_margin={max_margin}, scale={scale}."
            )
        count = clamped_counts("LDAM", class_count)
        self.scale = scale
        self.register_buffer("margin", (max_margin * (count.min() / count) ** 0.25).float())

    def per_row(self, logits: Tensor, sets: Sets) -> Tensor:
        """Return the cross-entropy of each row (n,) with its own class's logit lowered by the margin."""
        assert sets.index is not None
        margin = along_classes("LDAM", self.margin, logits)[sets.index]
        lowered = logits.scatter_add(1, sets.index[:, None], -margin[:, None])
        return cross_entropy(self.scale * lowered, sets)

    def scores(self, logits: Tensor, kind: Kind = "balanced") -> Tensor:
        """Return the scaled logits, or for the posterior the log of the map in the class's description."""
        scaled = self.scale * as_compute_dtype(logits)
        if kind == "balanced":
            return scaled
        log_q = scaled.log_softmax(-1 if logits.dim() == 1 else 1)
        # 1 - q (1 - e^-m) as (1 - q) + q e^-m: nothing cancels where q nears 1.
        rest = (-torch.expm1(log_q)).log()
        margin = self.scale * along_classes("LDAM", self.margin, log_q)
        return log_q + torch.logaddexp(rest, log_q - margin)
