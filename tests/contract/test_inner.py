"""The gentler inner terms: what they are on hard targets, how they behave at their answer, and what nll does not do."""

import math

import pytest
import torch
from mpmath import mp, mpf
from torch import Tensor
from torch.func import grad, hessian
from torch.nn import functional as F

from contract.cases import GENTLE, random_targets
from contract.test_answers import FOUND, minimise, soft_targets
from equilog import log_balanced_cross_entropy

SAME = {"rtol": 1e-12, "atol": 1e-14}  # rounding of sums of a few units

# torch scripts parts of its own second derivatives, and warns of that.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script(_method)?. is deprecated:DeprecationWarning")


def drawn(n: int = 12, classes: int = 4, kind: str = "index", seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return logits, random_targets(kind, (n,), classes, generator)


def test_nll_of_hard_targets_is_the_log_of_pooled_cross_entropy() -> None:
    logits, target = drawn()
    errors = F.cross_entropy(logits, target, reduction="none")
    expected = torch.log1p(torch.zeros(4, dtype=torch.float64).index_add(0, target, errors)).sum()
    loss = log_balanced_cross_entropy(logits, target, inner="nll", reduction="sum")
    torch.testing.assert_close(loss, expected, **SAME)


def test_a_pool_of_one_nll_is_the_log_of_cross_entropy_and_not_cross_entropy() -> None:
    logits, target = drawn()
    errors = F.cross_entropy(logits, target, reduction="none")
    found = log_balanced_cross_entropy(logits, target, inner="nll", pool=1, reduction="none")
    torch.testing.assert_close(found, torch.log1p(errors), **SAME)
    assert float((errors - found).min()) > 0


def test_divergence_of_hard_targets_charges_every_class_for_what_it_takes() -> None:
    logits, target = drawn()
    p = logits.softmax(1)
    own = F.one_hot(target, 4).bool()
    expected = torch.log1p(torch.where(own, -p.log() - 1 + p, p).sum(0)).sum()
    loss = log_balanced_cross_entropy(logits, target, inner="divergence", reduction="sum")
    torch.testing.assert_close(loss, expected, **SAME)


@pytest.mark.parametrize("compensation", ["weight", "offset", None])
def test_compensation_has_no_effect_on_divergence(compensation: str | None) -> None:
    logits, target = drawn(kind="probability")
    loss = log_balanced_cross_entropy(logits, target, inner="divergence", compensation=compensation)
    torch.testing.assert_close(loss, log_balanced_cross_entropy(logits, target, inner="divergence"), rtol=0, atol=0)


def test_divergence_is_answered_exactly_whatever_the_weights() -> None:
    """Of sets and of classes: each term is least at t by itself."""
    target = soft_targets()
    generator = torch.Generator().manual_seed(0)
    options = {
        "sample_weight": 0.1 + 5 * torch.rand(8, generator=generator, dtype=torch.float64),
        "weight": 0.1 + torch.rand(4, generator=generator, dtype=torch.float64),
    }
    scores = minimise(lambda z: log_balanced_cross_entropy(z, target, inner="divergence", **options), target.shape)
    assert float((scores.softmax(1) - target).abs().max()) < FOUND


@pytest.mark.parametrize("compensation", ["weight", "offset"])
def test_nll_in_pools_of_one_is_answered_exactly(compensation: str) -> None:
    """There 1 + H_j >= t_j (1 - log t_j), the condition under which the answer is the only minimum."""
    target = soft_targets()
    scores = minimise(
        lambda z: log_balanced_cross_entropy(z, target, inner="nll", compensation=compensation, pool=1), target.shape
    )
    assert float((scores.softmax(1) - target).abs().max()) < FOUND


def curvature_at_the_answer(target: Tensor, weight: Tensor, compensation: str = "weight") -> Tensor:
    """Eigenvalues of nll's second derivatives at softmax(z) = t, the smallest first, without the flat directions."""
    options = {"inner": "nll", "sample_weight": weight, "compensation": compensation, "reduction": "sum"}
    second = hessian(lambda z: log_balanced_cross_entropy(z, target, **options))(target.log())
    values = torch.linalg.eigvalsh(second.reshape(target.numel(), -1))
    flat = values.abs().argsort()[: len(target)]  # a constant added to a set
    return values[[i for i in range(len(values)) if i not in flat]]


@pytest.mark.parametrize("compensation", ["weight", "offset"])
def test_nll_is_least_nearby_where_no_class_weighs_more_than_its_entropy(compensation: str) -> None:
    """1 + H_j >= sum_i v_i t_ij for every class, as with probabilities below 1/e in a pool of any size."""
    generator = torch.Generator().manual_seed(0)
    target = (0.5 * torch.rand(6, 5, generator=generator, dtype=torch.float64)).softmax(1)
    assert float(target.max()) < math.exp(-1)
    weight = torch.full((6,), 1000.0, dtype=torch.float64)
    assert float(curvature_at_the_answer(target, weight, compensation)[0]) > 1e-3


def test_nll_may_answer_another_class_where_one_outweighs_the_rest() -> None:
    """A hundred sets of (0.9, 0.1): the answer is a saddle, and giving up class 0 is cheaper than saying 0.9."""
    target = torch.tensor([[0.9, 0.1]], dtype=torch.float64)
    weight = torch.tensor([100.0], dtype=torch.float64)
    assert float(curvature_at_the_answer(target, weight)[0]) < -0.1
    at_answer, given_up = (
        log_balanced_cross_entropy(p.log(), target, inner="nll", sample_weight=weight, reduction="sum")
        for p in (target, torch.tensor([[0.01, 0.99]], dtype=torch.float64))
    )
    assert float(given_up) < float(at_answer) - 2
    # Divergence asks for 0.9, whatever the weight.
    loss = log_balanced_cross_entropy(target.log(), target, inner="divergence", sample_weight=weight)
    assert float(loss) == pytest.approx(0, abs=1e-28)  # of differences of 1e-16, squared


@pytest.mark.parametrize("kind", ["probability", "sparse", "index"])
@pytest.mark.parametrize("pool", ["batch", 1, 4])
def test_gradients_of_gentle_terms_are_bounded(kind: str, pool: str | int) -> None:
    """nll: sum |dL/ds| <= 2 scale a log; divergence: scale sqrt(2 n) a log of n sets; whatever the logits."""
    n, classes, scale = 64, 4, 0.7
    _, target = drawn(n, classes, kind)
    size = {"batch": n, 1: 1, 4: 4}[pool]
    for seed in range(3):
        for spread in (0.1, 1.0, 30.0, 1e4):
            logits = spread * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed)).double()
            for inner, of_a_log in (("nll", 2.0), ("divergence", math.sqrt(2 * size))):
                found = grad(
                    lambda z, inner=inner: log_balanced_cross_entropy(
                        z, target, inner=inner, pool=pool, scale=scale, reduction="sum"
                    )
                )(logits)
                assert float(found.abs().sum()) <= of_a_log * scale * classes * (n // size) * (1 + 1e-12)


def test_divergence_at_its_answer_has_no_gradient_and_the_curvature_of_cross_entropy() -> None:
    """Where every term is exactly 0, and its log minus infinity: diag(t) - t t' a set, as sum_j log(1 + small)."""
    target = torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]], dtype=torch.float64)
    z = target.log()
    for pool in ("batch", 1):

        def loss(z: Tensor, pool: str | int = pool) -> Tensor:
            return log_balanced_cross_entropy(z, z.detach().softmax(1), inner="divergence", pool=pool, reduction="sum")

        assert float(loss(z)) < 1e-30
        assert float(grad(loss)(z).abs().max()) < 1e-15
        expected = torch.block_diag(*(torch.diag(t) - torch.outer(t, t) for t in target))
        torch.testing.assert_close(hessian(loss)(z).reshape(6, 6), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", ["probability", "certain"])
def test_gradients_are_finite_at_the_answer(kind: str, dtype: torch.dtype) -> None:
    target = torch.eye(3, dtype=dtype) if kind == "certain" else torch.full((3, 3), 1 / 3, dtype=dtype)
    at_answer = target.log().clamp(min=-800).requires_grad_()  # far enough for a probability of exactly 1
    for inner in GENTLE:
        for given in (target, torch.arange(3)) if kind == "certain" else (target,):
            loss = log_balanced_cross_entropy(at_answer, given, inner=inner)
            (first,) = torch.autograd.grad(loss, at_answer)
            assert first.isfinite().all()
            assert float(first.abs().max()) < 1e-6
            second = hessian(lambda z, t=given, i=inner: log_balanced_cross_entropy(z, t, inner=i))(at_answer.detach())
            assert second.isfinite().all()


@pytest.mark.parametrize("share", [1e-300, 1e-8, 0.3, 0.999, 1 - 1e-10])
def test_divergence_keeps_its_digits_near_its_answer(share: float) -> None:
    """Far smaller than its parts: as many digits as log p - log t has, times two for the square."""
    target = torch.tensor([[share, 1 - share]], dtype=torch.float64)
    for change in (1e-12, 1e-8, 1e-4, 0.2, 0.3, 0.9, 1.1, 5.0, 400.0):
        for sign in (-1, 1):
            logits = torch.tensor([[math.log(share / (1 - share)) + sign * change, 0.0]], dtype=torch.float64)
            with mp.workdps(400):
                odds = mp.exp(mpf(logits[0, 0].item()))
                p = (odds / (1 + odds), 1 / (1 + odds))
                t = [mpf(value) for value in target[0].tolist()]
                exact = mp.fsum(mp.log1p(a * mp.log(a / b) - a + b) for a, b in zip(t, p, strict=True))
                moved = max(abs(mp.log(b / a)) for a, b in zip(t, p, strict=True))
                rounding = 4e-16 * (1 + abs(logits[0, 0].item())) / float(moved)
            found = log_balanced_cross_entropy(logits, target, inner="divergence").item()
            # A gap of 0 is 1e-246, so that it has derivatives.
            assert found == pytest.approx(float(exact), rel=1e-13 + 2 * rounding, abs=1e-245)


def test_divergence_of_a_share_next_to_nothing_is_the_probability() -> None:
    """p / t overflows, p does not."""
    p = torch.tensor([3.0, 0.0], dtype=torch.float64).softmax(0)
    target = torch.tensor([[1e-310, 1.0]], dtype=torch.float64)
    expected = torch.log1p(p[0]) + torch.log1p(p[1] - 1 - p[1].log())
    torch.testing.assert_close(log_balanced_cross_entropy(p.log()[None], target, inner="divergence"), expected, **SAME)


def test_nll_keeps_its_digits_where_it_is_small() -> None:
    """As -log p itself, of which log(1 + .) is the same where it is below 1e-16."""
    for gap in (10.0, 14.0, 20.0, 30.0, 39.9, 40.1, 60.0, 500.0):
        logits = torch.tensor([[gap, 0.0, 0.0]], dtype=torch.float64)
        with mp.workdps(400):
            exact = float(mp.log1p(mp.log1p(2 * mp.exp(-mpf(gap)))))
        found = log_balanced_cross_entropy(logits, torch.tensor([0]), inner="nll").item()
        assert found == pytest.approx(exact, rel=1e-13)
