"""What trained scores mean: labels are drawn from known probabilities, scores trained, and the probabilities recovered.

Every row of a small table is equally likely, so every pool of rows is too, and the expected loss over all random pools
is a plain mean over all of them: nothing here is left to chance until `calibrate` draws its own pools.
"""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from equilog import (
    LogBalancedCrossEntropyLoss,
    MultiLabelCrossEntropyLoss,
    class_mass,
    log_balanced_cross_entropy,
    multilabel_cross_entropy,
    probabilities,
)
from equilog.calibration.posterior import label_posterior_scores, posterior_scores
from equilog.core.inner import INNERS

# Rows of (context, class): class 0 is frequent, and the classes overlap in both contexts.
CONTEXT = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
LABEL = torch.tensor([0, 0, 0, 1, 0, 0, 1, 2])
POSTERIOR = torch.tensor([[3, 1, 0], [2, 1, 1]]).double() / 4

CONTEXTS, CLASSES = POSTERIOR.shape

# The last step of Newton's method leaves less than its square.
EXACT = 1e-8
# What other sets make of a score is kept at 48 knots with cubics in between, in float32 where no logits are there.
INTERPOLATED = 1e-7


def newton(loss: Callable[[Tensor], Tensor], start: Tensor, there: Tensor | None = None) -> Tensor:
    """Free scores at a minimum, of a convex loss the only one; minus infinity where `there` is False."""

    def value(scores: Tensor) -> Tensor:
        return loss(scores if there is None else torch.where(there, scores, -torch.inf))

    scores = start
    for _ in range(40):
        gradient = torch.autograd.functional.jacobian(value, scores).reshape(-1)
        hessian = torch.autograd.functional.hessian(value, scores).reshape(len(gradient), -1)
        curvature, directions = torch.linalg.eigh(hessian)
        flat = curvature.abs() <= 1e-10 * curvature.abs().max()
        along = torch.where(flat, 0.0, directions.T @ gradient / curvature.abs())  # downhill where it curves down
        step = (directions @ along).reshape(scores.shape)
        size, now = 1.0, value(scores)
        while size > 1e-6 and value(scores - size * step) > now + 1e-13 * now.abs():
            size /= 2
        scores = scores - size * step
        if float(step.abs().max()) < 1e-10:
            break
    assert float(step.abs().max()) < 1e-7  # the next error is its square
    return scores if there is None else torch.where(there, scores, -torch.inf)


def all_pools(rows: int, size: int) -> tuple[Tensor, Tensor]:
    """Every ordered pool of rows drawn with replacement: rows in a row, and the pool of each."""
    index = torch.tensor(list(itertools.product(range(rows), repeat=size)))
    return index.reshape(-1), torch.arange(len(index)).repeat_interleave(size)


def trained_on_all_pools(size: int, *, scale: float = 1.0, inner: Any = "odds") -> Tensor:
    index, pool = all_pools(len(LABEL), size)
    return newton(
        lambda z: log_balanced_cross_entropy(z[CONTEXT[index]], LABEL[index], pool=pool, scale=scale, inner=inner),
        torch.zeros_like(POSTERIOR),
        POSTERIOR > 0,
    )


def log_others(scores: Tensor, size: int, scale: float = 1.0, inner: Any = "odds") -> Tensor:
    """Log of what the other size - 1 sets of a pool add to each class, for every way to fill them."""
    index, pool = all_pools(len(LABEL), size - 1)
    terms = F.cross_entropy(scale * scores[CONTEXT], LABEL, reduction="none")
    if inner == "odds":
        terms = terms.expm1()
    table = torch.zeros(int(pool.max()) + 1, CLASSES, dtype=torch.float64)
    return table.index_put((pool, LABEL[index]), terms[index], accumulate=True).log()


@pytest.mark.parametrize("inner", ["odds", "nll"])
@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_posterior_of_finite_pools_is_exact(size: int, scale: float, inner: str) -> None:
    """P(j | x) E[1 / (1 + O_j p_j)] is proportional to p_j; for nll, P(j | x) E[1 / (1 + O_j - log p_j)]."""
    scores = trained_on_all_pools(size, scale=scale, inner=inner)
    others = log_others(scores, size, scale, inner)
    found = posterior_scores((scale * scores).log_softmax(1), others, INNERS[inner]).softmax(1)
    assert float((found - POSTERIOR).abs().max()) < EXACT
    # Neither cross-entropy's link nor that of large pools would do.
    for link in (1, 2):
        assert float(((link * scale * scores).softmax(1) - POSTERIOR).abs().max()) > 0.01


def test_posterior_of_pools_of_one_is_softmax() -> None:
    scores = trained_on_all_pools(1)
    assert float((scores.softmax(1) - POSTERIOR).abs().max()) < EXACT
    assert float((probabilities(scores, pool_size=1, kind="posterior") - POSTERIOR).abs().max()) < EXACT


def test_posterior_of_nll_in_pools_of_one_is_known_without_calibration() -> None:
    """p (1 - log p), normalised: a pool of one costs log(1 + cross-entropy). The bare scores say too much."""
    scores = trained_on_all_pools(1, inner="nll")
    criterion = LogBalancedCrossEntropyLoss(pool=1, inner="nll")
    for kind in ("posterior", "balanced"):
        assert float((criterion.probabilities(scores, kind) - POSTERIOR).abs().max()) < INTERPOLATED
    found = probabilities(scores, inner="nll", pool_size=1, kind="posterior")
    assert float((found - POSTERIOR).abs().max()) < EXACT
    assert float((scores.softmax(1) - POSTERIOR).abs().max()) > 0.05
    calibration = criterion.calibrate(scores[CONTEXT], LABEL)
    assert float((calibration.probabilities(scores, "posterior") - POSTERIOR).abs().max()) < INTERPOLATED


@pytest.mark.parametrize("with_prior", [False, True])
@pytest.mark.parametrize("inner", ["nll", "divergence"])
def test_public_probabilities_of_gentle_terms_in_a_full_batch(inner: Any, with_prior: bool) -> None:
    """nll: p_j A_j. Divergence: p_j whatever the mass, since each class's terms are least at the posterior."""
    prior = torch.tensor([5.0, 2.0, 1.0], dtype=torch.float64) if with_prior else None
    options: dict[str, Any] = {"prior": prior, "scale": 0.7, "inner": inner}
    scores = newton(
        lambda z: log_balanced_cross_entropy(z[CONTEXT], LABEL, **options), torch.zeros_like(POSTERIOR), POSTERIOR > 0
    )
    mass = class_mass(scores[CONTEXT], LABEL, **options).log_mass
    found = probabilities(scores, **options, log_class_mass=mass, kind="posterior")
    assert float((found - POSTERIOR).abs().max()) < EXACT
    without_mass = probabilities(scores, **options, kind="posterior")
    off = float((without_mass - POSTERIOR).abs().max())
    assert off < EXACT if inner == "divergence" else off > 0.05


def test_public_probabilities_of_bounded_pools_of_nll() -> None:
    """p_j (1 + O_j - log p_j), O_j = (A_j - 1)(1 - 1/q); the link is 1."""
    logits = torch.tensor([[1.0, -0.5, 0.2], [0.0, 2.0, -1.0]], dtype=torch.float64)
    mass, size = torch.tensor([5.0, 2.0, 1.5], dtype=torch.float64), 8
    p = logits.softmax(1)
    expected = p * (1 + (mass - 1) * (1 - 1 / size) - p.log())
    found = probabilities(logits, inner="nll", pool_size=size, log_class_mass=mass.log(), kind="posterior")
    torch.testing.assert_close(found, expected / expected.sum(1, keepdim=True), rtol=1e-13, atol=0)
    for inner in ("nll", "divergence"):
        found = probabilities(logits, inner=inner, pool_size=size, temperature=1.5)
        torch.testing.assert_close(found, (logits / 1.5).softmax(1), rtol=1e-13, atol=0)


@pytest.mark.parametrize("with_prior", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_public_probabilities_recover_the_posterior_of_a_full_batch(with_prior: bool, scale: float) -> None:
    """One pool of 80,000 sets, as eight rows of weight 10,000 each: the class mass is put back."""
    prior = torch.tensor([5.0, 2.0, 1.0], dtype=torch.float64) if with_prior else None
    weight = torch.full((8,), 1e4, dtype=torch.float64)
    options = {"prior": prior, "scale": scale, "sample_weight": weight}
    scores = newton(
        lambda z: log_balanced_cross_entropy(z[CONTEXT], LABEL, **options), torch.zeros_like(POSTERIOR), POSTERIOR > 0
    )
    mass = class_mass(scores[CONTEXT], LABEL, **options).log_mass
    found = probabilities(scores, scale=scale, prior=prior, log_class_mass=mass, kind="posterior")
    assert float((found - POSTERIOR).abs().max()) < 1e-6
    without_mass = probabilities(scores, scale=scale, prior=prior, kind="posterior")
    assert float((without_mass - POSTERIOR).abs().max()) > 0.05


def test_public_probabilities_of_bounded_pools() -> None:
    """p_j (1 + O_j p_j), of which a pool's other sets make (A_j - 1)(1 - 1/q); without a mass, the link 2 - 1/q."""
    logits = torch.tensor([[1.0, -0.5, 0.2], [0.0, 2.0, -1.0]], dtype=torch.float64)
    mass, size = torch.tensor([5.0, 2.0, 1.5], dtype=torch.float64), 8
    p = (0.7 * logits).softmax(1)
    expected = p * (1 + (mass - 1) * (1 - 1 / size) * p)
    found = probabilities(logits, scale=0.7, pool_size=size, log_class_mass=mass.log(), kind="posterior")
    torch.testing.assert_close(found, expected / expected.sum(1, keepdim=True), rtol=1e-13, atol=0)
    for kind in ("balanced", "posterior"):
        found = probabilities(logits, scale=0.7, pool_size=size, temperature=1.5, kind=kind)
        torch.testing.assert_close(found, ((2 - 1 / size) * 0.7 * logits / 1.5).softmax(1), rtol=1e-13, atol=0)


def in_random_pools(sets: int) -> Tensor:
    """Rows of the table in a random order, each as often as every other."""
    order = torch.randperm(sets, generator=torch.Generator().manual_seed(0))
    return (torch.arange(sets) % len(LABEL))[order]


# Pools as trained and as drawn by `calibrate` are both samples of all pools there could be: of thousands, so what
# they hold differs by some hundredths, and a posterior of 1/2 by less.
SAMPLED = 0.02


@pytest.mark.parametrize("prior", [None, torch.tensor([5.0, 2.0, 1.0])], ids=["no prior", "prior"])
@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 2.0, 4.0])], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("ignored", [0.0, 0.5], ids=["all kept", "half ignored"])
@pytest.mark.parametrize("pool", [1, 4, 16, "sample", "batch"])
def test_calibrated_posterior(pool: int | str, prior: Tensor | None, weight: Tensor | None, ignored: float) -> None:
    """Trained on thousands of random pools, then told by `calibrate` what a pool holds."""
    index = in_random_pools(8192)
    context, label = CONTEXT[index], LABEL[index]
    label = torch.where(torch.rand(len(label), generator=torch.Generator().manual_seed(1)) < ignored, -100, label)
    if pool == "sample":
        context, label = context.reshape(-1, 4), label.reshape(-1, 4)
    criterion = LogBalancedCrossEntropyLoss(pool=pool, prior=prior, weight=weight)

    def logits(scores: Tensor) -> Tensor:
        return scores[context].movedim(-1, 1)

    scores = newton(lambda z: criterion(logits(z), label), torch.zeros_like(POSTERIOR), POSTERIOR > 0)
    size = int((label >= 0).sum()) if pool == "batch" else None
    calibration = criterion.calibrate(logits(scores), label, pool_size=size)
    found = calibration.probabilities(scores, "posterior")
    seen = torch.zeros(2, 3, dtype=torch.float64)
    seen.index_put_((context[label >= 0], label[label >= 0]), torch.ones((), dtype=torch.float64), accumulate=True)
    expected = seen / seen.sum(1, keepdim=True)
    assert float((found - expected).abs().max()) < (1e-6 if pool == 1 else SAMPLED)


@pytest.mark.parametrize("prior", [None, torch.tensor([5.0, 2.0, 1.0])], ids=["no prior", "prior"])
@pytest.mark.parametrize(
    ("inner", "pool", "off"),
    [("nll", 4, SAMPLED), ("nll", 16, SAMPLED), ("divergence", "batch", 1e-6), ("divergence", 256, SAMPLED)],
)
@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 2.0, 4.0])], ids=["unweighted", "weighted"])
def test_calibrated_posterior_of_gentle_terms(
    inner: Any, pool: Any, off: float, prior: Tensor | None, weight: Tensor | None
) -> None:
    index = in_random_pools(8192)
    criterion = LogBalancedCrossEntropyLoss(pool=pool, inner=inner, prior=prior, weight=weight)
    scores = newton(lambda z: criterion(z[CONTEXT[index]], LABEL[index]), torch.zeros_like(POSTERIOR), POSTERIOR > 0)
    calibration = criterion.calibrate(scores[CONTEXT[index]], LABEL[index], pool_size=len(index))
    posterior = calibration.probabilities(scores, "posterior")
    assert float((posterior - POSTERIOR).abs().max()) < off
    if prior is not None and weight is None:  # a prior balances, and is taken off
        balanced = posterior / prior
        found = calibration.probabilities(scores, "balanced")
        torch.testing.assert_close(found, balanced / balanced.sum(1, keepdim=True), rtol=1e-6, atol=1e-12)
    elif prior is None and inner == "divergence":  # which balances nothing at its answer
        torch.testing.assert_close(calibration.probabilities(scores, "balanced"), posterior, rtol=1e-13, atol=0)


def test_divergence_in_small_pools_is_too_sure_by_a_measured_amount() -> None:
    """softmax(z) is its posterior in large pools alone: off by a few hundredths in pools of 16, a tenth in pools of 1.

    In between the formula is P_j = g_j (a_j - l), a_j = E[1/(1 + O_j + p_j)], b_j = E[1/(1 + O_j - log p_j - 1 + p_j)],
    g_j = p_j / (a_j p_j + b_j (1 - p_j)) and l such that they add up to 1: exact, but for scores that are not at the
    minimum it may be negative, so `calibrate` leaves it out.
    """
    context = torch.tensor([0] * 10 + [1] * 10)
    label = torch.tensor([0] * 7 + [1] * 2 + [2] + [0] * 2 + [1] * 5 + [2] * 3)
    truth = torch.tensor([[7, 2, 1], [2, 5, 3]]).double() / 10
    off = []
    for size in (1, 2, 3):
        index, pool = all_pools(20, size)
        scores = newton(
            lambda z, i=index, q=pool: log_balanced_cross_entropy(z[context[i]], label[i], pool=q, inner="divergence"),
            truth.log(),
        )
        p = scores.softmax(1)
        off.append(float((p - truth).abs().max()))
        others = torch.zeros(1, 3, dtype=torch.float64)
        if size > 1:
            index, pool = all_pools(20, size - 1)
            own = F.one_hot(label, 3).bool()
            terms = torch.where(own, p[context] - p[context].log() - 1, p[context])
            others = torch.zeros(int(pool.max()) + 1, 3, dtype=torch.float64).index_add(0, pool, terms[index])
        without = (1 / (1 + others[:, None] + p)).mean(0)
        within = (1 / (others[:, None] + p - p.log())).mean(0)
        gain = p / (without * p + within * (1 - p))
        level = ((gain * without).sum(1, keepdim=True) - 1) / gain.sum(1, keepdim=True)
        assert float((gain * (without - level) - truth).abs().max()) < EXACT
    assert 0.2 > off[0] > off[1] > off[2] > 0.1


# Labels of (context, yes or no): context 0 is mostly no, context 1 half and half.
YES = torch.tensor([0, 0, 0, 1, 0, 0, 1, 1])
RATE = torch.tensor([0.25, 0.5], dtype=torch.float64)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_posterior_of_labels_in_finite_pools_is_exact(size: int) -> None:
    index, pool = all_pools(8, size)
    scores = newton(
        lambda x: multilabel_cross_entropy(x[CONTEXT[index]], YES[index], pool=pool), torch.zeros_like(RATE)
    )
    x = scores[CONTEXT]
    others = torch.full((1, 2), -torch.inf, dtype=torch.float64)
    if size > 1:
        index, pool = all_pools(8, size - 1)
        sums = torch.zeros(int(pool.max()) + 1, 2, dtype=torch.float64)
        threat = torch.where(YES == 1, -x, x).exp()
        others = sums.index_put((pool, 1 - YES[index]), threat[index], accumulate=True).log()
    found = label_posterior_scores(scores, others).sigmoid()
    assert float((found - RATE).abs().max()) < EXACT


LABEL_PRIOR = torch.tensor([0.2, 0.4, 0.6, 0.1])


@pytest.mark.parametrize(
    ("inner", "pool", "prior"),
    [
        *(("odds", pool, None) for pool in (1, 4, 16, "sample", "batch")),
        *(("odds", pool, LABEL_PRIOR) for pool in (1, 16, "label")),
        *(("nll", pool, LABEL_PRIOR) for pool in (1, 16, "label")),
        ("divergence", "label", LABEL_PRIOR),
    ],
)
@pytest.mark.parametrize("pos_weight", [None, 3.0])
def test_calibrated_posterior_of_labels(
    pos_weight: float | None, inner: Any, pool: int | str, prior: Tensor | None
) -> None:
    """Four labels of their own scores. Balanced scores are those of the posterior with the prior taken off, no more."""
    index = in_random_pools(8192).reshape(-1, 4)
    context, yes = CONTEXT[index], YES[index]
    criterion = MultiLabelCrossEntropyLoss(pool=pool, inner=inner, prior=prior, pos_weight=pos_weight)

    def logits(scores: Tensor) -> Tensor:
        return scores.gather(0, context)

    start = torch.zeros(2, 4, dtype=torch.float64)
    scores = newton(lambda x: criterion(logits(x), yes), start)
    size = {"batch": context.numel(), "label": len(context)}.get(pool) if isinstance(pool, str) else None
    calibration = criterion.calibrate(logits(scores), yes, pool_size=size)
    seen = start.scatter_add(0, context, yes.double()) / start.scatter_add(0, context, torch.ones_like(yes).double())
    found = calibration.probabilities(scores, "posterior")
    assert float((found - seen).abs().max()) < (1e-6 if pool == 1 or inner == "divergence" else SAMPLED)
    if prior is not None and pos_weight is None:
        balanced = torch.logit(found) - torch.logit(prior)
        torch.testing.assert_close(calibration.scores(scores, "balanced"), balanced, rtol=1e-6, atol=1e-6)
    bare = criterion.uncalibrated()
    assert torch.equal(bare.predict(scores), (scores > 0).long()) or (inner, pool) == ("nll", 1)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("pool", [1, 4])
@pytest.mark.parametrize("inner", INNERS)
def test_a_calibration_of_labels_is_that_of_two_classes(inner: Any, pool: int, soft: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(200, generator=generator, dtype=torch.float64)
    yes = torch.rand(200, generator=generator, dtype=torch.float64)
    yes = yes if soft else (yes < 0.2).long()
    options: Any = {"inner": inner, "pool": pool, "scale": 0.7, "prior_strength": 0.8}
    of_labels = MultiLabelCrossEntropyLoss(prior=[0.2], **options)
    of_classes = LogBalancedCrossEntropyLoss(prior=[0.8, 0.2], **options)

    def both(x: Tensor) -> Tensor:
        return torch.stack((torch.zeros_like(x), x), 1)

    probe = torch.linspace(-9, 9, 41, dtype=torch.float64)
    label = of_labels.calibrate(x[:, None], yes[:, None])
    choice = of_classes.calibrate(both(x), both(yes) + torch.tensor([1.0, 0]) * (1 - yes)[:, None] if soft else yes)
    for one, two, kinds in (
        (label, choice, ("balanced", "posterior")),
        (of_labels.uncalibrated(), of_classes.uncalibrated(), ("balanced",)),
    ):
        for kind in kinds:
            expected = two.scores(both(probe), kind).diff(dim=1)
            # Two splines, of a logit and of the two log-probabilities.
            torch.testing.assert_close(one.scores(probe[:, None], kind), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("balance", ["pair", "none", torch.tensor([0, 0, 1])], ids=["pair", "none", "blocks"])
def test_groupings_with_every_pair_both_ways_need_no_class_mass_in_large_pools(balance: str | Tensor) -> None:
    criterion = LogBalancedCrossEntropyLoss(balance=balance)
    table = POSTERIOR.clamp(min=0.05)
    table = table / table.sum(1, keepdim=True)
    context = torch.arange(2).repeat_interleave(3)
    label = torch.arange(3).repeat(2)
    weight = 1e8 * table.reshape(-1)
    scores = newton(lambda z: criterion(z[context], label, sample_weight=weight), torch.zeros_like(table))
    # The own odds of a set, one in 1e8, are what is left of its pool's finite size.
    assert float(((2 * scores).softmax(1) - table).abs().max()) < 1e-6


@pytest.mark.parametrize(("scale", "strength"), [(1.0, 1.0), (0.7, 0.5)])
@pytest.mark.parametrize("balance", ["class", "pair"])
@pytest.mark.parametrize("pool", ["batch", 2])
def test_soft_targets_are_their_own_posterior_and_balanced_less_the_prior(
    pool: str | int, balance: str, scale: float, strength: float
) -> None:
    """Whatever the pools; the prior comes off once, though the scores count twice."""
    target = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.9, 0.05, 0.05], [0.2, 0.6, 0.2]], dtype=torch.float64)
    prior = torch.tensor([3.0, 1.0, 1.0], dtype=torch.float64)
    criterion = LogBalancedCrossEntropyLoss(
        balance=balance, pool=pool, prior=prior, prior_strength=strength, scale=scale
    )
    scores = newton(lambda z: criterion(z, target), torch.zeros_like(target))
    calibration = criterion.calibrate(scores, target, pool_size=len(target))
    assert float((calibration.probabilities(scores, "posterior") - target).abs().max()) < EXACT
    balanced = target / prior**strength
    expected = balanced / balanced.sum(1, keepdim=True)
    assert float((calibration.probabilities(scores, "balanced") - expected).abs().max()) < EXACT


@pytest.mark.parametrize("balance", ["pair", "none", torch.tensor([0, 0, 1])], ids=["pair", "none", "blocks"])
def test_other_balances_of_index_targets_decide_by_the_bare_logits(balance: str | Tensor) -> None:
    """Also with a prior and calibrated: their factor is no more than the pool's size tells."""
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(12, 3, generator=generator), torch.randint(3, (12,), generator=generator)
    criterion = LogBalancedCrossEntropyLoss(balance=balance, prior=torch.tensor([10.0, 3.0, 1.0]))
    calibration = criterion.calibrate(logits, target, pool_size=12)
    assert criterion.predict(logits).tolist() == calibration.predict(logits).tolist() == logits.argmax(1).tolist()
    assert calibration.probabilities(logits, "posterior").argmax(1).tolist() != logits.argmax(1).tolist()


def test_nothing_to_calibrate_by_changes_little() -> None:
    """No sets, or all ignored: pools of nothing, so cross-entropy's link, and never NaN."""
    for target in (torch.zeros(0, dtype=torch.long), torch.full((5,), -100)):
        criterion = LogBalancedCrossEntropyLoss(pool=8)
        calibration = criterion.calibrate(torch.randn(len(target), 3), target)
        for kind in ("balanced", "posterior"):
            assert calibration.probabilities(torch.randn(4, 3), kind).isfinite().all()


def test_decisions_for_a_metric_are_those_of_the_rule_on_the_posterior() -> None:
    from equilog.decisions import DecisionRule

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(300, 4, generator=generator) + torch.tensor([2.0, 1.0, 0.0, -1.0])
    target = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    calibration = LogBalancedCrossEntropyLoss(pool=4).calibrate(logits, target)
    posterior = calibration.probabilities(logits, "posterior")
    costs = torch.tensor([[0.0, 1, 1, 9], [1, 0, 1, 9], [1, 1, 0, 9], [5, 5, 5, 0]])
    assert torch.equal(calibration.predict(logits, metric=costs.numpy()), (posterior @ costs).argmin(1))
    for_metric = calibration.predict(logits, metric="macro_f1")
    assert torch.equal(for_metric, DecisionRule("macro_f1").fit(posterior).predict(posterior))
    maps = logits.reshape(3, 100, 4).movedim(-1, 1)
    assert torch.equal(calibration.predict(maps, metric="macro_f1"), for_metric.reshape(3, 100))
