"""Closed forms against an independent minimiser, on random and adversarial targets."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from equilog import log_balanced_cross_entropy, multilabel_cross_entropy
from equilog.optimum import (
    class_mass,
    minimum,
    multilabel_minimum,
    multilabel_regret,
    multilabel_scores,
    regret,
    scores,
)
from equilog.verify.experiments import one_thread


@pytest.fixture(autouse=True, scope="module")
def _on_one_core() -> Iterator[None]:
    """Thousands of tiny problems: threads would only wait for each other."""
    with one_thread():
        yield


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "class, no compensation": {"compensation": None},
    "class, weight": {"compensation": "weight"},
    "class, offset": {"compensation": "offset"},
    "pair": {"balance": "pair"},
    "none": {"balance": "none"},
    "blocks": {"balance": torch.arange(6) // 2},
    "divergence": {"inner": "divergence"},
    "divergence, pools of 3": {"inner": "divergence", "compensation": None, "pool": 3},
    "nll, pools of 1": {"inner": "nll", "pool": 1},
    "nll, offset, pools of 1": {"inner": "nll", "compensation": "offset", "pool": 1},
    "class, no compensation, pools of 3": {"compensation": None, "pool": 3},
    "class, weight, pools of 3": {"compensation": "weight", "pool": 3},
    "class, no compensation, given pools": {"compensation": None, "pool": torch.arange(40) % 3},
}
CONFIGURED = pytest.mark.parametrize("name", CONFIGURATIONS)


def options(name: str, n: int, classes: int) -> dict[str, Any]:
    """Cut the tensors of a configuration to a problem's size."""
    chosen = dict(CONFIGURATIONS[name])
    if isinstance(chosen.get("balance"), Tensor):
        chosen["balance"] = chosen["balance"][:classes]
    if isinstance(chosen.get("pool"), Tensor):
        chosen["pool"] = chosen["pool"][:n]
    return chosen


def dirichlet(n: int, classes: int, concentration: float, seed: int) -> Tensor:
    drawn = np.random.default_rng(seed).gamma(concentration, size=(n, classes)) + 1e-300
    return torch.from_numpy(drawn / drawn.sum(1, keepdims=True))


@st.composite
def targets(draw: st.DrawFn) -> Tensor:
    """Random rows, some made adversarial: certain, with zeros, repeated, all but certain, in separate groups."""
    n, classes = draw(st.integers(1, 8)), draw(st.integers(2, 6))
    concentration = draw(st.sampled_from([0.1, 1.0, 30.0]))
    table = dirichlet(n, classes, concentration, draw(st.integers(0, 2**20)))
    for row in range(n):
        spoiled = draw(st.sampled_from(["no", "no", "zeros", "certain", "repeated", "nearly", "apart"]))
        label = draw(st.integers(0, classes - 1))
        if spoiled == "zeros":
            table[row, [k for k in range(classes) if k != label and draw(st.booleans())]] = 0.0
        elif spoiled == "certain":
            table[row] = torch.eye(classes, dtype=torch.float64)[label]
        elif spoiled == "repeated":
            table[row] = table[0]
        elif spoiled == "nearly":
            table[row] = 1e-13
            table[row, label] = 1.0
        elif spoiled == "apart":  # classes below the middle and above it never meet
            table[row, : classes // 2] = 0.0
        table[row] += (table[row].sum() == 0) * torch.eye(classes, dtype=torch.float64)[label]
        table[row] /= table[row].sum()
    return table


def lowest_by_scipy(target: Tensor, settings: dict[str, Any], seed: int = 0) -> tuple[float, Tensor]:
    """Return the smallest loss and its scores, with a class of target 0 left out of its set."""
    taking_part = target > 0

    def table(x: np.ndarray) -> Tensor:
        full = torch.full(target.shape, -torch.inf, dtype=torch.float64)
        return full.masked_scatter(taking_part, torch.from_numpy(x))

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        free = torch.from_numpy(x.copy()).requires_grad_()
        full = torch.full(target.shape, -torch.inf, dtype=torch.float64).masked_scatter(taking_part, free)
        value = log_balanced_cross_entropy(full, target, reduction="sum", **settings)
        value.backward()
        return value.item(), free.grad.numpy()

    start = np.random.default_rng(seed).normal(size=int(taking_part.sum()))
    options = {"maxiter": 2000, "maxfun": 4000, "maxcor": 30, "ftol": 1e-16, "gtol": 1e-11}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
    return float(found.fun), table(found.x)


@CONFIGURED
@settings(max_examples=8, deadline=None, derandomize=True)
@given(target=targets())
def test_no_minimiser_gets_below_the_closed_form_and_a_good_one_reaches_it(name: str, target: Tensor) -> None:
    chosen = options(name, *target.shape)
    least = minimum(target, reduction="sum", **chosen).item()
    found, _ = lowest_by_scipy(target, chosen)
    assert found >= least - 1e-11 * (1 + least)  # rounding of a sum of logs
    # A class with a share of 1e-13 moves the loss by its root, which the minimiser hardly feels.
    assert found <= least + 1e-6


@CONFIGURED
@settings(max_examples=20, deadline=None, derandomize=True)
@given(target=targets())
def test_the_gradient_vanishes_at_the_closed_form(name: str, target: Tensor) -> None:
    chosen = options(name, *target.shape)
    free = scores(target, **chosen).nan_to_num(neginf=0.0).requires_grad_()
    best = free.masked_fill(target == 0, -torch.inf)
    (gradient,) = torch.autograd.grad(log_balanced_cross_entropy(best, target, reduction="sum", **chosen), free)
    assert gradient.abs().max() < 1e-12  # every entry is a difference of two numbers in [0, 1]


@CONFIGURED
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_an_independent_minimiser_finds_the_same_answer(name: str, scale: float) -> None:
    target = dirichlet(7, 5, 1.0, seed=3)
    chosen = {**options(name, 7, 5), "scale": scale}
    _, found = lowest_by_scipy(target, chosen)
    link = 1 if "inner" in chosen else 2
    answers = [(link * scale * s).softmax(1) for s in (found, scores(target, **chosen))]
    if chosen.get("compensation", "weight") is not None or link == 1:
        torch.testing.assert_close(answers[1], target, rtol=1e-13, atol=0)
    torch.testing.assert_close(*answers, rtol=0, atol=1e-6)  # L-BFGS stops where the loss no longer changes


@CONFIGURED
@settings(max_examples=20, deadline=None, derandomize=True)
@given(target=targets(), seed=st.integers(0, 2**20), size=st.sampled_from([0.0, 0.1, 3.0, 1e4]))
def test_regret_is_zero_at_the_scores_and_positive_elsewhere(name: str, target: Tensor, seed: int, size: float) -> None:
    chosen = options(name, *target.shape)
    generator = torch.Generator().manual_seed(seed)
    best = scores(target, **chosen)
    shifted = best + torch.randn(len(target), 1, generator=generator, dtype=torch.float64)
    assert regret(best, target, **chosen) == 0
    assert regret(shifted, target, **chosen) < 1e-13 * (1 + minimum(target, **chosen))
    moved = best.nan_to_num(neginf=-50.0) + size * torch.randn(target.shape, generator=generator, dtype=torch.float64)
    assert regret(moved, target, **chosen) >= 0
    if 0 < size < 1e4:  # further out a certain target can be met to the last digit
        assert regret(moved, target, **chosen) > 0


@CONFIGURED
def test_regret_of_each_pool_adds_up(name: str) -> None:
    target, chosen = dirichlet(9, 6, 1.0, seed=1), options(name, 9, 6)
    logits = torch.zeros(9, 6)
    each = regret(logits, target, reduction="none", **chosen)
    assert (each > 0).all()
    torch.testing.assert_close(each.sum(), regret(logits, target, reduction="sum", **chosen))
    # The mean divides the regret by what it divides the loss by.
    total, mean = (log_balanced_cross_entropy(logits.double(), target, reduction=r, **chosen) for r in ("sum", "mean"))
    torch.testing.assert_close(each.sum() / regret(logits, target, **chosen), total / mean)


def test_regret_has_the_gradient_of_the_loss() -> None:
    target = dirichlet(5, 3, 1.0, seed=2)
    logits = torch.randn(5, 3, dtype=torch.float64, generator=torch.manual_seed(0)).requires_grad_()
    of_regret, of_loss = (
        torch.autograd.grad(loss(logits, target), logits)[0] for loss in (regret, log_balanced_cross_entropy)
    )
    torch.testing.assert_close(of_regret, of_loss, rtol=0, atol=0)


def test_nll_has_an_answer_that_is_not_always_the_least() -> None:
    """The value there is sum_j w_j log(1 + H_j), or C log(1 + max H); scores may be found below it."""
    target = dirichlet(40, 5, 1.0, seed=3)
    entropy = -(target * target.log()).sum(0)
    weight = (1 + entropy) / (1 + entropy).mean()
    expected = {"weight": (weight * (1 + entropy).log()).sum(), "offset": 5 * (1 + entropy.max()).log()}
    for compensation, value in expected.items():
        chosen = {"inner": "nll", "compensation": compensation}
        torch.testing.assert_close(minimum(target, reduction="sum", **chosen), value, rtol=1e-12, atol=0)
        assert regret(scores(target, **chosen), target, **chosen) == 0
    heavy = torch.tensor([[0.9, 0.1]], dtype=torch.float64).repeat(100, 1)
    given_up = torch.tensor([[0.01, 0.99]], dtype=torch.float64).log().repeat(100, 1)
    assert regret(given_up, heavy, inner="nll", reduction="sum") < -2
    with pytest.raises(ValueError, match='scores: inner "nll" without compensation has no closed form'):
        scores(target, inner="nll", compensation=None)


def test_class_indices_leave_no_minimum() -> None:
    logits, target = torch.zeros(4, 3, dtype=torch.float64), torch.tensor([0, 1, 1, 2])
    assert regret(logits, target) == log_balanced_cross_entropy(logits, target)
    certain = torch.nn.functional.one_hot(target, 3).double()
    assert minimum(certain) == 0
    assert scores(certain).isfinite().sum() == 4


@settings(max_examples=40, deadline=None, derandomize=True)
@given(target=targets())
def test_closed_forms_of_the_minimum(target: Tensor) -> None:
    root = target.sqrt()
    left = (root * (root.sum(1, keepdim=True) - root)).sum(0)
    weight = (1 + left) / (1 + left).mean()
    expected = {
        "weight": (weight * (1 + left).log()).sum(),
        "offset": target.shape[1] * (1 + left.max()).log(),
        None: class_mass(target).log().sum(),
    }
    for compensation, value in expected.items():
        found = minimum(target, compensation=compensation, reduction="sum").item()
        assert found == pytest.approx(value.item(), rel=1e-12, abs=1e-14)


def equation_error(target: Tensor) -> float:
    """How far the class mass is from solving its equation, relative."""
    root = target.sqrt()
    meeting = (root.T @ root).fill_diagonal_(0.0)
    u = class_mass(target).rsqrt()
    return float((u * (u + meeting @ u) - 1).abs().max())


@pytest.mark.parametrize(
    ("n", "classes"), [(1, 2), (1, 1000), (100_000, 2), (100_000, 20), (1_000, 300), pytest.param(500, 1000)]
)
@pytest.mark.parametrize("concentration", [1.0, 0.01])
def test_class_mass_solves_its_equation_at_every_size(n: int, classes: int, concentration: float) -> None:
    assert equation_error(dirichlet(n, classes, concentration, seed=0)) < 1e-11  # of sums of 1000 terms near 1


def chain(classes: int) -> Tensor:
    """Set i is undecided between classes i and i + 1 only."""
    return 0.5 * (torch.eye(classes - 1, classes) + torch.eye(classes - 1, classes + 1)[:, 1:]).double()


def star(n: int, classes: int) -> Tensor:
    """Every set is undecided between class 0 and one other."""
    table = torch.zeros(n, classes, dtype=torch.float64)
    table[:, 0] = table[torch.arange(n), 1 + torch.arange(n) % (classes - 1)] = 0.5
    return table


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(chain(200), id="chain"),
        pytest.param(chain(100).repeat_interleave(torch.arange(1, 100), 0), id="uneven chain"),
        pytest.param(star(50_000, 50), id="star"),
        pytest.param(torch.cat((star(50_000, 4)[:, :2].repeat(1, 2) / 2, star(2, 4))), id="two almost separate groups"),
        pytest.param(torch.full((1000, 3), 1e-14).double() + torch.tensor([1.0, 0, 0]).double(), id="all but certain"),
        pytest.param(torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 1e-200, 1]]).double(), id="apart, denormal roots"),
        pytest.param(1e6 * dirichlet(10, 4, 1.0, seed=0), id="heavy sets"),
    ],
)
def test_class_mass_solves_its_equation_on_adversarial_targets(target: Tensor) -> None:
    assert equation_error(target) < 1e-11


def test_class_mass_is_the_mass_the_loss_builds_at_its_optimum() -> None:
    target = dirichlet(30, 4, 0.5, seed=4)
    odds = 1 / scores(target, compensation=None).softmax(1) - 1
    torch.testing.assert_close(class_mass(target), 1 + (target * odds).sum(0), rtol=1e-12, atol=0)


def test_a_row_that_sums_to_two_is_the_set_twice() -> None:
    target = dirichlet(6, 3, 1.0, seed=5)
    twice = torch.cat((target, target[:2]))
    heavy = target * torch.tensor([2.0, 2, 1, 1, 1, 1])[:, None]
    torch.testing.assert_close(class_mass(heavy), class_mass(twice), rtol=1e-13, atol=0)


def test_class_mass_says_when_it_could_not_be_solved() -> None:
    with pytest.raises(RuntimeError, match=r"class_mass: not solved after 2 Newton steps: .* off 1 by up to \d"):
        class_mass(chain(100).repeat_interleave(torch.arange(1, 100), 0), max_iterations=2)


def test_no_sets_have_no_minimum_and_no_mass() -> None:
    nothing = torch.zeros(0, 3, dtype=torch.float64)
    assert class_mass(nothing).tolist() == [1, 1, 1]
    assert minimum(nothing) == 0
    assert scores(nothing, compensation=None).shape == (0, 3)


@pytest.mark.parametrize("function", [class_mass, scores, minimum])
def test_targets_must_be_probabilities(function: Any) -> None:
    name = "class_mass" if function is class_mass else "scores"
    with pytest.raises(TypeError, match=rf"{name}: target must be a tensor of \(n, C\) .* got \(2,\) torch.int64"):
        function(torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=rf"{name}: target probabilities must"):
        function(torch.tensor([[1.5, -0.5]]))


def test_scores_want_rows_that_sum_to_one() -> None:
    with pytest.raises(ValueError, match="scores: target probabilities must sum to 1 over the classes; one set sums"):
        scores(torch.tensor([[0.7, 0.7]]))


@pytest.mark.parametrize("pool", ["sample", "batch", "label", 5])
@settings(max_examples=24, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**20), spoil=st.booleans(), inner=st.sampled_from(["odds", "nll", "power", "divergence"]))
def test_multilabel_closed_form_is_the_minimum(pool: str | int, seed: int, spoil: bool, inner: Any) -> None:
    """Of "odds" and "divergence"; of "nll" and "power", which are not convex, where the gradient is 0."""
    generator = np.random.default_rng(seed)
    target = torch.from_numpy(generator.beta(0.7, 0.7, size=(3, 4)))
    if spoil:
        target[0, :2] = torch.tensor([0.0, 1.0])
    certain = (target == 0) | (target == 1)
    options: dict[str, Any] = {"pool": pool, "inner": inner}
    scores = multilabel_scores(target, inner=inner, scale=0.5)
    free = scores.masked_fill(certain, 0.0).requires_grad_()
    best = torch.where(certain, scores, free)
    (gradient,) = torch.autograd.grad(multilabel_cross_entropy(best, target, scale=0.5, **options), free)
    assert gradient.abs().max() < 1e-14
    assert abs(multilabel_regret(scores, target, scale=0.5, **options)) < 1e-14
    if inner != "nll":
        assert multilabel_regret(torch.from_numpy(generator.normal(size=(3, 4))), target, **options) > 0
    both = torch.stack((target, 1 - target))
    terms = {
        "odds": (target * (1 - target)).sqrt().expand(2, 3, 4),
        "nll": torch.special.entr(both),
        "power": 1 - both**both,
        "divergence": torch.zeros_like(both),
    }[inner]
    by_pool = {"sample": [4, 4, 4], "batch": [12], "label": [3, 3, 3, 3], 5: [5, 5, 2]}[pool]
    terms = terms.mT if pool == "label" else terms
    left = 1 + torch.stack([part.sum(1) for part in terms.reshape(2, 12).split(by_pool, 1)])
    expected = (left / left.mean(1, keepdim=True) * left.log()).sum()
    least = multilabel_minimum(target, reduction="sum", **options).item()
    assert least == pytest.approx(expected.item(), rel=1e-12, abs=1e-14)


SPARSE = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=torch.float64)


@CONFIGURED
def test_the_mean_of_the_minimum_is_below_that_of_finite_scores_nearby(name: str) -> None:
    """Where targets are 0 the best scores are infinite, and hold something in fewer logs than any finite ones."""
    chosen = options(name, 3, 3)
    nearby = scores(SPARSE, **chosen).clamp(min=-30.0)
    loss = log_balanced_cross_entropy(nearby, SPARSE, **chosen)
    least = minimum(SPARSE, **chosen)
    assert 0 <= loss - least < 1e-8  # of terms exp(-30)
    torch.testing.assert_close(regret(nearby, SPARSE, **chosen), (loss - least).clamp(min=0), rtol=1e-6, atol=1e-15)
    assert regret(scores(SPARSE, **chosen), SPARSE, **chosen) == 0


@pytest.mark.parametrize("pool", ["sample", "batch", 2])
def test_the_mean_of_the_multilabel_minimum_is_that_of_finite_scores_nearby(pool: str | int) -> None:
    for inner in ("odds", "nll"):
        best = multilabel_scores(SPARSE, inner=inner)
        loss = multilabel_cross_entropy(best.clamp(-30.0, 30.0), SPARSE, inner=inner, pool=pool)
        least = multilabel_minimum(SPARSE, inner=inner, pool=pool)
        assert 0 <= loss - least < 1e-8
        assert multilabel_regret(best, SPARSE, inner=inner, pool=pool) == 0
