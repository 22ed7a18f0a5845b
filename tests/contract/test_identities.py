"""What the losses are, seen from other losses: cross-entropy, the multi-label loss, convex functions, regrets."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from contract.cases import INNERS, Case, Inputs, cases, random_targets
from equilog import log_balanced_cross_entropy, multilabel_cross_entropy

# Identities hold to rounding: 1e-16 of sums of a few units.
SAME = {"rtol": 1e-12, "atol": 1e-13}


def drawn(n: int, classes: int, kind: str = "index", seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    target = random_targets(kind, (n,), classes, generator)
    return logits.requires_grad_(), target


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(7, 4), (7, 4, 3), (2, 4, 3, 2), (4,)], ids=str)
@pytest.mark.parametrize("balance", ["class", "none"])
def test_pools_of_one_set_are_cross_entropy(reduction: str, shape: tuple[int, ...], balance: str) -> None:
    """I1, in value and gradient, in every shape torch takes; ignored sets and smoothing apart."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    sets = shape[:1] + shape[2:] if len(shape) > 1 else ()
    target = torch.randint(4, sets, generator=generator)
    if sets:
        target.view(-1)[1] = -100
    ours = log_balanced_cross_entropy(logits, target, pool=1, balance=balance, reduction=reduction)
    theirs = F.cross_entropy(logits, target, reduction=reduction)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, **SAME)
    (gradient,) = torch.autograd.grad(ours.sum(), logits)
    (expected,) = torch.autograd.grad(theirs.sum(), logits)
    torch.testing.assert_close(gradient, expected, **SAME)


def test_pair_balance_of_one_set_is_a_sum_of_binary_cross_entropies() -> None:
    logits, target = drawn(6, 4)
    ours = log_balanced_cross_entropy(logits, target, pool=1, balance="pair", reduction="none")
    margins = logits.gather(1, target[:, None]) - logits
    others = F.one_hot(target, 4) == 0
    expected = (F.softplus(-margins) * others).sum(1)
    torch.testing.assert_close(ours, expected, **SAME)


def test_class_balance_is_cross_entropies_inside_logs() -> None:
    """I2: sum_j log(1 + sum_{i in j} expm1(CE_i))."""
    logits, target = drawn(20, 5)
    errors = F.cross_entropy(logits, target, reduction="none").expm1()
    expected = torch.log1p(torch.zeros(5, dtype=torch.float64).index_add(0, target, errors)).sum()
    torch.testing.assert_close(log_balanced_cross_entropy(logits, target, reduction="sum"), expected, **SAME)


@pytest.mark.parametrize("kind", ["index", "probability", "sparse"])
@pytest.mark.parametrize("balance", ["class", "pair"])
@pytest.mark.parametrize("compensation", ["weight", "offset", None])
@pytest.mark.parametrize("pool", ["batch", 1, 4])
def test_two_classes_are_the_multilabel_loss(
    kind: str, balance: str, compensation: str | None, pool: str | int
) -> None:
    """I3: x = z_1 - z_0, and R_0 = R_1 leaves nothing to compensate."""
    logits, target = drawn(9, 2, kind)
    yes = target if kind == "index" else target[:, 1]
    if kind == "index":
        yes = torch.randint(2, (9,), generator=torch.Generator().manual_seed(1))
        target = yes
    ours = log_balanced_cross_entropy(
        logits, target, balance=balance, compensation=compensation, pool=pool, scale=0.7, reduction="none"
    )
    margin = logits[:, 1] - logits[:, 0]
    theirs = multilabel_cross_entropy(margin, yes, pool=pool, scale=0.7, reduction="none")
    torch.testing.assert_close(ours, theirs, **SAME)
    (gradient,) = torch.autograd.grad(ours.sum(), logits, retain_graph=True)
    (expected,) = torch.autograd.grad(theirs.sum(), logits)
    torch.testing.assert_close(gradient, expected, **SAME)


@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize("kind", ["index", "probability", "sparse"])
def test_two_classes_are_the_labels_of_a_sample(kind: str, inner: Any) -> None:
    """m = 2 of everything: inner terms, priors and the units of the mean, a set a label, and pools by label."""
    generator = torch.Generator().manual_seed(2)
    x = (2 * torch.randn(5, 3, generator=generator, dtype=torch.float64)).requires_grad_()
    yes = torch.rand(5, 3, generator=generator, dtype=torch.float64)
    yes = (yes < 0.4).long() if kind == "index" else yes if kind == "probability" else (2 * yes - 0.5).clamp(0, 1)
    prior = torch.tensor([0.1, 0.5, 0.7], dtype=torch.float64)
    weight = torch.tensor([1.0, 0.0, 2.0, 0.5, 1.5], dtype=torch.float64)
    options: dict[str, Any] = {"inner": inner, "scale": 0.7}

    def of_classes(x: Tensor, yes: Tensor, prior: Tensor, pool: Any, weight: Tensor) -> Tensor:
        z = x + 0.8 * torch.logit(prior)
        target = yes if kind == "index" else torch.stack((1 - yes, yes), 1)
        sets = torch.stack((torch.zeros_like(z), z), 1)
        return log_balanced_cross_entropy(sets, target, pool=pool, sample_weight=weight, **options)

    for pool in ("sample", "batch", 4, "label"):
        ours = (
            of_classes(x, yes, prior, pool, weight)
            if pool != "label"
            else of_classes(x.T.reshape(-1), yes.T.reshape(-1), prior.repeat_interleave(5), 5, weight.repeat(3))
        )
        theirs = multilabel_cross_entropy(
            x, yes, pool=pool, prior=prior, prior_strength=0.8, sample_weight=weight, **options
        )
        torch.testing.assert_close(ours, theirs, **SAME)
        (gradient,) = torch.autograd.grad(ours, x)
        (expected,) = torch.autograd.grad(theirs, x)
        torch.testing.assert_close(gradient, expected, **SAME)


def test_pools_of_one_label_are_binary_cross_entropy() -> None:
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = (x > 0.2).long()
    ours = multilabel_cross_entropy(x, target, pool=1, reduction="none")
    torch.testing.assert_close(ours, F.binary_cross_entropy_with_logits(x, target.double(), reduction="none"), **SAME)


@pytest.mark.parametrize("kind", ["index", "probability"])
def test_gradient_is_cross_entropy_times_a_row_weight(kind: str) -> None:
    """I4: dL/ds_il = c (p_il S_i - q_il), q_ij = t_ij / (A_j p_ij), S_i = sum_j q_ij."""
    scale = 0.6
    logits, target = drawn(12, 4, kind)
    loss = log_balanced_cross_entropy(logits, target, scale=scale, compensation=None, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, logits)
    t = F.one_hot(target, 4).double() if kind == "index" else target
    p = (scale * logits.detach()).softmax(1)
    mass = 1 + (t * (1 / p - 1)).sum(0)
    q = t / (mass * p)
    torch.testing.assert_close(gradient, scale * (p * q.sum(1, keepdim=True) - q), **SAME)
    if kind == "index":
        weight = q.sum(1)
        # At most 1, but for the rounding of 1 + sum (1/p - 1) where a class has a single set.
        assert ((weight > 0) & (weight <= 1 + 1e-12)).all()
        (plain,) = torch.autograd.grad(F.cross_entropy(scale * logits, target, reduction="sum"), logits)
        torch.testing.assert_close(gradient, weight[:, None] * plain, **SAME)


@pytest.mark.parametrize("case", [case for case in cases(multilabel=False) if "divergence" not in case.id])
def test_gradient_is_bounded_whatever_the_logits(case: Case) -> None:
    """I5: a log's sets have weights that add up to less than 1, and each moves two probabilities at most.

    So the sum of |dL/ds| is at most 2 scale for every log, times what the log is multiplied with.
    """
    inputs = case.inputs()
    inputs = inputs.with_logits(1e3 * inputs.logits)
    row = case.in_a_row(inputs)
    classes = row.logits.shape[1]
    pools = len(row.options["pool"].unique())
    balance = row.options.get("balance", "class")
    blocks = len(balance.unique()) if isinstance(balance, Tensor) else {"pair": classes, "none": 1}.get(balance)
    logs = pools * (classes if blocks is None else blocks**2)
    weight = row.options.get("weight")
    # The compensation's weights have mean 1, so together they count for as many logs as there are.
    most = 1.0 if weight is None else float(weight.max()) * (classes if "soft" in case.tags else 1)
    bound = 2 * row.options.get("scale", 1.0) * logs * most
    assert float(case.gradient(inputs, reduction="sum").abs().sum()) <= bound * (1 + 1e-12)


@pytest.mark.parametrize("case", cases("convex"))
def test_convex_in_the_logits(case: Case) -> None:
    """I6, at the middle between random points."""
    inputs = case.inputs()
    generator = torch.Generator().manual_seed(1)
    for size in (0.1, 1.0, 10.0):
        one, two = (size * torch.randn(inputs.logits.shape, generator=generator).double() for _ in range(2))
        middle = case.loss(inputs.with_logits((one + two) / 2))
        ends = (case.loss(inputs.with_logits(one)) + case.loss(inputs.with_logits(two))) / 2
        assert float(middle) <= float(ends) * (1 + 1e-12)


# torch scripts its own decompositions for forward derivatives, and warns of that.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("case", cases("convex", "probability"))
def test_hessian_has_no_negative_direction(case: Case) -> None:
    """I6, of the second derivatives; zero in one direction a set, the constant that may be added to its logits."""
    inputs = case.inputs()
    size = inputs.logits.numel()
    hessian = torch.func.hessian(lambda z: case.loss(inputs.with_logits(z), reduction="sum"))(inputs.logits)
    curvature = torch.linalg.eigvalsh(hessian.reshape(size, size))
    assert float(curvature[0]) > -1e-12 * float(curvature[-1])
    if not case.multilabel:
        classes = inputs.logits.shape[1]
        weight = case.in_a_row(inputs).options.get("sample_weight", torch.ones(size // classes))
        flat = int((weight > 0).sum()) + classes * int((weight == 0).sum())
        assert float(curvature[flat - 1]) < 1e-10 * float(curvature[-1]) < float(curvature[flat])


def test_between_one_log_a_class_and_cross_entropy_stand_the_symmetric_polynomials() -> None:
    """I7: log(1 + e_1 + e_2 + ...) of each class's odds; e_1 alone is class balance, all of them cross-entropy."""
    logits, target = drawn(8, 3)
    odds = F.cross_entropy(logits, target, reduction="none").expm1()
    of_class = [odds[target == j] for j in range(3)]
    first = sum(torch.log1p(x.sum()) for x in of_class)
    everything = sum(
        torch.log(
            1
            + sum(torch.stack([chosen.prod() for chosen in _choices(x, order)]).sum() for order in range(1, len(x) + 1))
        )
        for x in of_class
        if len(x)
    )
    torch.testing.assert_close(log_balanced_cross_entropy(logits, target, reduction="sum"), first, **SAME)
    torch.testing.assert_close(F.cross_entropy(logits, target, reduction="sum"), everything, **SAME)
    torch.testing.assert_close(log_balanced_cross_entropy(logits, target, pool=1, reduction="sum"), everything, **SAME)


def _choices(values: Tensor, order: int) -> list[Tensor]:
    return [values[list(chosen)] for chosen in itertools.combinations(range(len(values)), order)]


def test_general_form_with_the_log_odds_is_class_balance() -> None:
    """I8: sum_j log(1 + sum_i t_ij exp(-f(s_i)_j)) with f the log odds in favour of j."""
    logits, target = drawn(7, 4, "probability")
    p = logits.softmax(1)
    favour = (p / (1 - p)).log()
    expected = torch.log1p((target * (-favour).exp()).sum(0)).sum()
    loss = log_balanced_cross_entropy(logits, target, compensation=None, reduction="sum")
    torch.testing.assert_close(loss, expected, **SAME)


def test_ten_times_the_sets_count_like_a_log() -> None:
    """What the package is for: repeating a class's sets adds a log of the factor, not the factor."""
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    target = torch.tensor([0, 1])
    many = torch.cat([logits, logits[:1].expand(9, 2)]), torch.cat([target, target[:1].expand(9)])
    before, after = (log_balanced_cross_entropy(*sets, reduction="sum") for sets in ((logits, target), many))
    assert float(after - before) == pytest.approx(math.log(11) - math.log(2), rel=1e-14)


def test_wrong_signs_of_peers_are_not_ours() -> None:
    """Sparse multi-label by log(1 - exp) is negative at logits of 12 and has the wrong sign at 20."""
    for size in (12.0, 20.0, 80.0):
        x = torch.tensor([[size, -size, -size]], requires_grad=True)
        loss = multilabel_cross_entropy(x, torch.tensor([[1, 0, 0]]), reduction="sum")
        assert loss.item() == pytest.approx(math.log1p(math.exp(-size)) + math.log1p(2 * math.exp(-size)), rel=1e-5)
        loss.backward()
        assert x.grad is not None
        assert (x.grad.sign() == torch.tensor([[-1.0, 1.0, 1.0]])).all()


def test_half_a_label_at_extreme_logits_costs() -> None:
    """Masking with 1e12 makes a soft label of 0.5 free; the formula does not."""
    for size in (30.0, -30.0, 1e4):
        x = torch.tensor([[size]], dtype=torch.float64)
        expected = abs(size) + math.log(0.5) + 0.5 * math.exp(-abs(size))
        loss = multilabel_cross_entropy(x, torch.tensor([[0.5]]), reduction="sum")
        assert float(loss) == pytest.approx(expected, rel=1e-12)


def test_weighted_mean_is_the_same_for_index_and_one_hot() -> None:
    logits, target = drawn(9, 4)
    weight = torch.tensor([0.1, 1.0, 2.0, 3.0])
    one_hot = F.one_hot(target, 4).double()
    inputs = Inputs(logits, target, {})
    assert torch.allclose(
        log_balanced_cross_entropy(inputs.logits, target, weight=weight, pool=3),
        log_balanced_cross_entropy(inputs.logits, one_hot, weight=weight, pool=3),
        rtol=1e-13,
    )
