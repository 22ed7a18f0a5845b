"""The computations that several checks or figures share. Float64, fixed seeds, a second or less each."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.functional import hessian

from equilog import article
from equilog.calibration import probabilities
from equilog.calibration.posterior import posterior_scores
from equilog.core.inner import INNERS
from equilog.inputs.options import InnerName
from equilog.losses.class_mass import class_mass
from equilog.losses.multiclass import log_balanced_cross_entropy

Loss = Callable[[Tensor, Tensor], Tensor]
"""Takes logits (n, C) and targets, gives a scalar."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one core: the problems are small, and sums then add up in the same order everywhere."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def largest(difference: Tensor) -> float:
    """Return the largest absolute value."""
    return difference.abs().max().item()


def random_logits(n: int, classes: int, *, size: float = 1.0, seed: int = 0) -> Tensor:
    """Return normal logits (n, C)."""
    return size * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_labels(n: int, classes: int, *, seed: int = 0) -> Tensor:
    """Return class indices (n,) in which class j is about 1 / (j + 1) as frequent as class 0."""
    frequency = 1.0 / torch.arange(1, classes + 1, dtype=torch.float64)
    return torch.multinomial(frequency, n, replacement=True, generator=torch.Generator().manual_seed(seed))


def random_probabilities(n: int, classes: int, *, seed: int = 0) -> Tensor:
    """Return target probabilities (n, C) whose classes are of unequal total."""
    logits = random_logits(n, classes, size=1.5, seed=seed + 1000)
    return (logits - torch.arange(classes) * 0.5).softmax(1)


def curvature_of(loss: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    """Return the second derivatives (K, K) at a point of K numbers in any shape."""
    second: Tensor = hessian(loss, point)  # type: ignore[no-untyped-call]
    return second.reshape(point.numel(), point.numel())


def minimised(loss: Callable[[Tensor], Tensor], start: Tensor, below: float = -math.inf) -> Tensor:
    """Return where a smooth function is smallest nearby, or where it first falls below a value, by Newton's method.

    Of a convex function that is its minimum. Where another curves down, the step goes down as well.
    """
    point = start
    for _ in range(100):
        value, gradient = loss(point), torch.func.grad(loss)(point).flatten()
        if value < below:
            break
        curvature, directions = torch.linalg.eigh(curvature_of(loss, point))
        # A constant added to a set's scores changes nothing: those directions have no curvature, and no step.
        flat = curvature.abs() <= 1e-10 * curvature.abs().max()
        length_along = torch.where(flat, 0.0, 1.0 / torch.where(flat, 1.0, curvature.abs()))
        step = -(directions @ (length_along * (directions.T @ gradient)))
        decrease = -(gradient @ step)
        if not decrease > 1e-25:
            break
        length = 1.0
        allowed = value + 1e-13 * (1.0 + value.abs())  # rounding of the value is no reason to shorten a step
        while length > 1e-10 and loss(point + length * step.view_as(point)) > allowed - 0.1 * length * decrease:
            length /= 2
        point = point + length * step.view_as(point)
    return point


def soft_answer(loss: Loss, target: Tensor, *, seed: int = 7) -> Tensor:
    """Return the scores (n, C) at which a loss of probability targets is smallest, from a random start."""
    return minimised(lambda s: loss(s, target), random_logits(*target.shape, seed=seed))


def loss_by_class_size(loss: Loss, sizes: list[int]) -> Tensor:
    """Return what a class of each size costs when its sets are equally hard, drawn from the same logits."""
    logits = random_logits(max(sizes), 3)
    return torch.stack([loss(logits[:size], torch.zeros(size, dtype=torch.int64)) for size in sizes])


def truncation(orders: list[int], n: int = 60) -> Tensor:
    """Return the truncated loss of one batch at each order."""
    logits, target = random_logits(n, 3), random_labels(n, 3)
    return torch.stack([article.truncated(logits, target, order) for order in orders])


@dataclass(frozen=True)
class LinearFit:
    """A linear classifier of points in the plane, trained until its loss said that all is well."""

    points: Tensor
    """(n, 2)."""
    labels: Tensor
    """(n,)."""
    weights: Tensor
    """(3, C), the last row the bias."""
    loss: float
    """The loss reached."""

    def predict(self, points: Tensor) -> Tensor:
        """Return the class with the largest score at points (k, 2)."""
        return (with_bias(points) @ self.weights).argmax(1)

    @property
    def wrong(self) -> int:
        """Number of training points whose largest score is another class's."""
        return int((self.predict(self.points) != self.labels).sum())


def with_bias(points: Tensor) -> Tensor:
    """Return points (k, 2) with a 1 behind them, (k, 3)."""
    return torch.cat((points, torch.ones(len(points), 1, dtype=points.dtype)), 1)


def separable_fit(loss: Loss) -> LinearFit:
    """Train on six separable classes round a circle, of 300 and 5 points in turn, until the loss is below 0.1.

    The loss of the article's first kind is above log 2 as long as any point is on the wrong side.
    """
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(6).repeat_interleave(torch.tensor([300, 5] * 3))
    angle = labels * (2 * math.pi / 6)
    noise = 0.3 * torch.rand(len(labels), 2, generator=generator, dtype=torch.float64) - 0.15
    points = torch.stack((angle.cos(), angle.sin()), 1) + noise
    inputs = with_bias(points)
    weights = minimised(lambda w: loss(inputs @ w, labels), torch.zeros(3, 6, dtype=torch.float64), below=0.1)
    return LinearFit(points, labels, weights, loss(inputs @ weights, labels).item())


@dataclass(frozen=True)
class PooledAnswer:
    """Two kinds of features, four classes: the posterior, and what training with pools of one size answers."""

    posterior: Tensor
    """(2, 4) the true P(class | features)."""
    bare: Tensor
    """(2, 4) softmax of the trained scores times the balanced link: the posterior as it looks uncorrected."""
    recovered: Tensor
    """(2, 4) the posterior computed from the trained scores."""


_TENTHS = torch.tensor([[6, 2, 1, 1], [3, 1, 2, 4]])


def pooled_answer(pool_size: int, inner: InnerName = "odds") -> PooledAnswer:
    """Minimise the expected loss over all pools of this many sets, exactly: every pool there is, once each.

    A set is one of 20 equally likely pairs of features and class.
    """
    truth = _TENTHS.double() / 10
    features = torch.arange(2).repeat_interleave(10)
    labels = torch.arange(4).repeat(2).repeat_interleave(_TENTHS.flatten())
    atoms = torch.arange(20)
    pools = torch.cartesian_prod(*[atoms] * pool_size).flatten()
    scores = minimised(
        lambda s: log_balanced_cross_entropy(
            s[features[pools]], labels[pools], pool=pool_size, inner=inner, reduction="sum"
        ),
        torch.zeros(2, 4, dtype=torch.float64),
    )
    log_prob = scores.log_softmax(1)
    if pool_size == 1:
        log_others = torch.full((1, 4), -torch.inf, dtype=torch.float64)
    else:
        others = torch.cartesian_prod(*[atoms] * (pool_size - 1)).reshape(-1, pool_size - 1)
        of_truth = log_prob[features[others], labels[others]][..., None]
        terms = (-of_truth).expm1() if inner == "odds" else -of_truth
        log_others = (terms * torch.nn.functional.one_hot(labels[others], 4)).sum(1).log()
    bare = probabilities(scores, pool_size=pool_size, inner=inner)
    return PooledAnswer(truth, bare, posterior_scores(log_prob, log_others, INNERS[inner]).softmax(1))


def full_batch_answer(draws: int = 200_000, inner: InnerName = "odds") -> PooledAnswer:
    """Train on one pool of this many sampled labels, with a free score for each kind of features and class."""
    drawn = torch.multinomial(
        _TENTHS.double().flatten(), draws, replacement=True, generator=torch.Generator().manual_seed(0)
    )
    count = drawn.bincount(minlength=8).double()
    features, labels = torch.arange(2).repeat_interleave(4), torch.arange(4).repeat(2)

    def loss(s: Tensor) -> Tensor:
        return log_balanced_cross_entropy(s[features], labels, sample_weight=count, inner=inner, reduction="sum")

    scores = minimised(loss, torch.zeros(2, 4, dtype=torch.float64))
    log_mass = class_mass(scores[features], labels, sample_weight=count, inner=inner).log_mass
    frequency = count.reshape(2, 4) / count.reshape(2, 4).sum(1, keepdim=True)
    recovered = probabilities(scores, inner=inner, log_class_mass=log_mass, kind="posterior")
    return PooledAnswer(frequency, probabilities(scores, inner=inner), recovered)
