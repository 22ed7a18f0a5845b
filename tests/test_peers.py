"""The losses of other authors: what their papers say of them, and what every loss here must withstand."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor
from torch.nn import functional as F

from equilog.criterion import Criterion
from equilog.peers import (
    LDAM,
    Asymmetric,
    BalancedSoftmax,
    BinaryCrossEntropy,
    ClassBalanced,
    CrossEntropy,
    Focal,
    GeneralizedCrossEntropy,
    LogitAdjusted,
    TunedThreshold,
    TwoWay,
    WeightedCrossEntropy,
)
from equilog.registry import LOSSES, TargetCounts, Task, losses_for

COUNT = torch.tensor([100, 30, 7])

MULTICLASS: dict[str, Criterion] = {
    "cross-entropy": CrossEntropy(),
    "weighted": WeightedCrossEntropy(COUNT),
    "class-balanced": ClassBalanced(COUNT, beta=0.9),
    "focal": Focal(),
    "focal, gamma below 1": Focal(gamma=0.5),
    "generalized": GeneralizedCrossEntropy(),
    "balanced softmax": BalancedSoftmax(COUNT),
    "logit-adjusted": LogitAdjusted(COUNT, tau=0.5),
    "ldam": LDAM(COUNT, max_margin=2.0, scale=1.5),
    "ldam, paper": LDAM(COUNT),
}
BY_LABEL: dict[str, Criterion] = {
    "binary cross-entropy": BinaryCrossEntropy(),
    "tuned threshold": TunedThreshold(),
    "asymmetric": Asymmetric(),
    "asymmetric, no clip": Asymmetric(clip=0.0),
    "asymmetric, gammas below 1": Asymmetric(gamma_neg=0.5, gamma_pos=0.5),
    "asymmetric, gammas below 1, no clip": Asymmetric(gamma_neg=0.5, gamma_pos=0.5, clip=0.0),
    "asymmetric, gammas 0": Asymmetric(gamma_neg=0.0, gamma_pos=0.0),
}
MULTILABEL = BY_LABEL | {"two-way": TwoWay()}

each_multiclass = pytest.mark.parametrize("criterion", MULTICLASS.values(), ids=MULTICLASS.keys())
each_by_label = pytest.mark.parametrize("criterion", BY_LABEL.values(), ids=BY_LABEL.keys())
each_peer = pytest.mark.parametrize(
    "criterion", [*MULTICLASS.values(), *MULTILABEL.values()], ids=[*MULTICLASS.keys(), *MULTILABEL.keys()]
)


def batch(criterion: Criterion, rows: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Float64 logits of three classes or labels with targets that fit."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    shape, choices = ((rows, 3), 2) if criterion.multilabel else ((rows,), 3)
    return logits, torch.randint(choices, shape, generator=generator)


# --- what every peer withstands


@each_peer
def test_gradient_is_that_of_the_value(criterion):
    logits, target = batch(criterion)
    weight = torch.rand(len(logits), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda z: criterion(z, target, sample_weight=weight), logits.requires_grad_(), raise_exception=True
    )


@each_peer
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_extreme_logits_give_finite_values_gradients_and_scores(criterion, dtype):
    rows = torch.tensor(list(itertools.product([-1e4, -30.0, 0.0, 30.0, 1e4], repeat=3)), dtype=dtype)
    choices = list(itertools.product([0, 1], repeat=3)) if criterion.multilabel else [0, 1, 2]
    for choice in choices:
        logits = rows.clone().requires_grad_()
        target = torch.tensor(choice).expand(len(rows), *torch.tensor(choice).shape)
        value = criterion(logits, target)
        value.backward()
        assert value.isfinite()
        assert logits.grad.isfinite().all()
    for kind in ("balanced", "posterior"):
        assert criterion.scores(rows, kind).isfinite().all()
        assert criterion.probabilities(rows, kind).isfinite().all()


@each_peer
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(criterion, dtype):
    logits, target = batch(criterion)
    halved = logits.to(dtype).requires_grad_()
    exact = halved.detach().double().requires_grad_()
    value, expected = criterion(halved, target), criterion(exact, target)
    value.backward()
    expected.backward()
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)  # float32 arithmetic
    assert halved.grad.dtype == dtype
    step = torch.finfo(dtype).eps  # the gradient is rounded once, to the type of the logits
    torch.testing.assert_close(halved.grad.double(), exact.grad, rtol=step, atol=1e-6)


@each_peer
def test_row_of_weight_0_is_no_row(criterion):
    logits, target = batch(criterion)
    weight = torch.ones(len(logits), dtype=torch.float64)
    weight[[1, 4]] = 0.0
    kept = weight > 0
    spoilt = torch.where(kept[:, None], logits, torch.nan).requires_grad_()
    value = criterion(spoilt, target, sample_weight=weight)
    value.backward()
    torch.testing.assert_close(value, criterion(logits[kept], target[kept]))
    assert (spoilt.grad[~kept] == 0).all()


@pytest.mark.parametrize(
    "criterion", [*MULTICLASS.values(), *BY_LABEL.values()], ids=[*MULTICLASS.keys(), *BY_LABEL.keys()]
)
def test_row_of_weight_2_is_the_row_twice_but_for_the_number_of_rows(criterion):
    logits, target = batch(criterion)
    weight = torch.tensor([1.0, 2, 1, 1, 2, 1, 1, 1], dtype=torch.float64)
    twice = weight.long()
    value = criterion(logits, target, sample_weight=weight)
    repeated = criterion(logits.repeat_interleave(twice, 0), target.repeat_interleave(twice, 0))
    torch.testing.assert_close(8 * value, 10 * repeated)


@each_peer
def test_nothing_to_learn_from_is_0_with_gradient_0(criterion):
    logits, target = batch(criterion)
    for rows, weight in ((slice(0), None), (slice(None), torch.zeros(8))):
        z = logits[rows].clone().requires_grad_()
        value = criterion(z, target[rows], sample_weight=weight)
        value.backward()
        assert value == 0
        assert (z.grad == 0).all()


@each_multiclass
def test_posterior_scores_are_where_the_expected_loss_has_no_gradient(criterion):
    logits, _ = batch(criterion)
    prob = criterion.probabilities(logits, kind="posterior")
    every_class = torch.arange(3).repeat(len(logits))
    z = logits.clone().requires_grad_()
    criterion(z.repeat_interleave(3, 0), every_class, sample_weight=prob.flatten()).backward()
    # Priors, weights and margins are kept in float32.
    torch.testing.assert_close(z.grad, torch.zeros_like(z), rtol=0, atol=1e-6)


@each_by_label
def test_posterior_scores_of_labels_are_where_the_expected_loss_has_no_gradient(criterion):
    z = torch.linspace(-2.5, 6.0, 40, dtype=torch.float64)[:, None].requires_grad_()
    prob = criterion.probabilities(z.detach(), kind="posterior")
    criterion(z, prob).backward()
    torch.testing.assert_close(z.grad, torch.zeros_like(z), rtol=0, atol=1e-9)


@each_by_label
def test_posterior_of_a_label_rises_with_its_logit(criterion):
    logits = torch.linspace(-30.0, 30.0, 500, dtype=torch.float64)
    assert (criterion.scores(logits, "posterior").diff() > 0).all()


# --- one choice among classes


@each_multiclass
def test_ignored_row_is_a_deleted_row(criterion):
    logits, target = batch(criterion)
    ignored = target.clone()
    ignored[[0, 5]] = -100
    kept = ignored != -100
    torch.testing.assert_close(criterion(logits, ignored), criterion(logits[kept], target[kept]))


@each_multiclass
def test_positions_are_rows(criterion):
    logits, target = batch(criterion, rows=12)
    images, pixels = logits.reshape(2, 2, 3, 3).movedim(-1, 1), target.reshape(2, 2, 3)
    torch.testing.assert_close(criterion(images, pixels), criterion(logits, target))
    for kind in ("balanced", "posterior"):
        expected = criterion.probabilities(logits, kind).reshape(2, 2, 3, 3).movedim(-1, 1)
        torch.testing.assert_close(criterion.probabilities(images, kind), expected)
        torch.testing.assert_close(criterion.probabilities(logits[0], kind), criterion.probabilities(logits, kind)[0])
    assert torch.equal(criterion.predict(images), criterion.predict(logits).reshape(2, 2, 3))


@each_multiclass
def test_one_hot_target_is_its_index_or_refused(criterion):
    logits, target = batch(criterion)
    one_hot = F.one_hot(target, 3).double()
    if isinstance(criterion, Focal | LDAM):
        with pytest.raises(ValueError, match=r"target must be class indices.*got \(8, 3\) torch\.float64"):
            criterion(logits, one_hot)
    else:
        torch.testing.assert_close(criterion(logits, one_hot), criterion(logits, target))


@pytest.mark.parametrize(
    "same",
    [
        WeightedCrossEntropy(torch.tensor([20, 20, 20])),
        ClassBalanced(torch.tensor([20, 20, 20])),
        ClassBalanced(COUNT, beta=0.0),
        Focal(gamma=0.0),
        BalancedSoftmax(torch.tensor([20, 20, 20])),
        LogitAdjusted(COUNT),
        LDAM(COUNT, max_margin=0.0, scale=1.0),
    ],
    ids=["equal counts", "equal counts", "beta 0", "gamma 0", "uniform prior", "in training", "no margin"],
)
def test_reduces_to_cross_entropy(same):
    logits, target = batch(same)
    torch.testing.assert_close(same(logits, target), F.cross_entropy(logits, target), rtol=1e-6, atol=0)


def test_weights_are_scikit_learns():
    rows = torch.repeat_interleave(torch.arange(3), COUNT).numpy()
    expected = torch.from_numpy(compute_class_weight("balanced", classes=np.arange(3), y=rows)).float()
    torch.testing.assert_close(WeightedCrossEntropy(COUNT).weight, expected)


def test_class_balanced_weights_are_inverse_effective_numbers():
    beta = 0.99
    effective = [sum(beta**k for k in range(n)) for n in COUNT.tolist()]  # 1 + beta + beta^2 + ...
    inverse = torch.tensor([1 / number for number in effective])
    torch.testing.assert_close(ClassBalanced(COUNT, beta).weight, 3 * inverse / inverse.sum())


def test_weighted_cross_entropy_weighs_each_class_and_divides_by_rows():
    criterion = WeightedCrossEntropy(COUNT)
    logits, target = batch(criterion)
    per_row = F.cross_entropy(logits, target, reduction="none")
    expected = sum(float(criterion.weight[j]) * float(row) for j, row in zip(target, per_row, strict=True)) / 8
    assert float(criterion(logits, target)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_is_its_formula(gamma):
    criterion = Focal(gamma)
    logits, target = batch(criterion)
    prob = logits.softmax(1)[torch.arange(8), target].tolist()
    expected = sum(-((1 - p) ** gamma) * math.log(p) for p in prob) / 8
    assert float(criterion(logits, target)) == pytest.approx(expected, rel=1e-12)


def test_focal_posterior_keeps_the_order_of_the_classes():
    logits, _ = batch(Focal(), rows=200)
    assert torch.equal(Focal().scores(logits, "posterior").argsort(1), logits.argsort(1))


@pytest.mark.parametrize("q", [0.1, 0.7])
def test_generalized_cross_entropy_is_its_formula(q):
    criterion = GeneralizedCrossEntropy(q)
    logits, target = batch(criterion)
    prob = logits.softmax(1)[torch.arange(8), target].tolist()
    assert float(criterion(logits, target)) == pytest.approx(sum((1 - p**q) / q for p in prob) / 8, rel=1e-12)


def test_generalized_cross_entropy_nears_cross_entropy_as_q_falls():
    logits, target = batch(CrossEntropy())
    expected = F.cross_entropy(logits, target)
    # (1 - p^q) / q = -log p - q (log p)^2 / 2 + ...; -log p is below 10 here
    torch.testing.assert_close(GeneralizedCrossEntropy(1e-9)(logits, target), expected, rtol=0, atol=5e-8)


def test_generalized_cross_entropy_weighs_cross_entropys_gradient_by_the_chance_of_the_label():
    criterion = GeneralizedCrossEntropy(0.7)
    logits, target = batch(criterion)
    z = logits.requires_grad_()
    (gradient,) = torch.autograd.grad(criterion(z, target), z)
    (plain,) = torch.autograd.grad(F.cross_entropy(z, target), z)
    weight = z.detach().softmax(1)[torch.arange(8), target] ** 0.7
    torch.testing.assert_close(gradient, weight[:, None] * plain)


def test_balanced_softmax_is_cross_entropy_of_logits_plus_log_counts():
    criterion = BalancedSoftmax(COUNT)
    logits, target = batch(criterion)
    expected = F.cross_entropy(logits + COUNT.double().log(), target)
    torch.testing.assert_close(criterion(logits, target), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        criterion.probabilities(logits, "posterior"), (logits + COUNT.double().log()).softmax(1), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0])
def test_logit_adjustment_takes_tau_log_prior_off_the_decision(tau):
    criterion = LogitAdjusted(COUNT, tau)
    logits, _ = batch(criterion, rows=200)
    assert torch.equal(criterion.predict(logits), (logits - tau * COUNT.double().log()).argmax(1))
    torch.testing.assert_close(criterion.probabilities(logits, "posterior"), logits.softmax(1))


def test_ldam_margins_fall_with_the_fourth_root_of_the_count():
    margin = LDAM(COUNT, max_margin=0.5).margin.tolist()
    assert max(margin) == pytest.approx(0.5)
    assert [m * n**0.25 for m, n in zip(margin, COUNT.tolist(), strict=True)] == pytest.approx(
        [0.5 * 7**0.25] * 3, rel=1e-6
    )


def test_ldam_lowers_the_true_classs_logit_by_its_margin_and_scales():
    criterion = LDAM(COUNT, max_margin=0.7, scale=3.0)
    logits, target = batch(criterion)
    expected = 0.0
    for row, y in zip(logits.tolist(), target.tolist(), strict=True):
        margin = 0.7 * (7 / COUNT.tolist()[y]) ** 0.25
        scaled = [3.0 * (z - margin * (k == y)) for k, z in enumerate(row)]
        expected += math.log(sum(map(math.exp, scaled))) - scaled[y]
    assert float(criterion(logits, target)) == pytest.approx(expected / 8, rel=1e-6)


@pytest.mark.parametrize("peer", [WeightedCrossEntropy, ClassBalanced, BalancedSoftmax, LogitAdjusted, LDAM])
def test_class_never_seen_counts_as_seen_once(peer):
    logits, target = batch(CrossEntropy())
    unseen, once = peer(torch.tensor([50, 10, 0])), peer(torch.tensor([50, 10, 1]))
    assert unseen(logits, target).isfinite()
    assert unseen(logits, target) == once(logits, target)
    for kind in ("balanced", "posterior"):
        assert torch.equal(unseen.probabilities(logits, kind), once.probabilities(logits, kind))


@pytest.mark.parametrize("peer", [WeightedCrossEntropy, ClassBalanced, BalancedSoftmax, LogitAdjusted, LDAM])
@pytest.mark.parametrize(
    ("count", "message"),
    [
        ([[5, 5]], r"class_count must be \(C,\).*got shape \(1, 2\)"),
        ([5, -1], r"class_count must hold finite counts, 0 or more; got \[5\.0, -1\.0\]"),
        ([5, math.nan], "class_count must hold finite counts"),
    ],
)
def test_bad_counts_are_refused(peer, count, message):
    with pytest.raises(ValueError, match=f"{peer.__name__}: {message}"):
        peer(torch.tensor(count))


@pytest.mark.parametrize("peer", [WeightedCrossEntropy, ClassBalanced, BalancedSoftmax, LDAM])
def test_counts_of_other_classes_than_the_logits_are_refused(peer):
    with pytest.raises(ValueError, match=rf"{peer.__name__}: class_count held 1 classes, but logits \(8, 3\) have 3"):
        peer(torch.tensor([5]))(*batch(CrossEntropy()))


@pytest.mark.parametrize(
    "build",
    [
        lambda: Focal(gamma=-1.0),
        lambda: GeneralizedCrossEntropy(q=0.0),
        lambda: GeneralizedCrossEntropy(q=1.0),
        lambda: ClassBalanced(COUNT, beta=1.0),
        lambda: LDAM(COUNT, scale=0.0),
        lambda: LDAM(COUNT, max_margin=math.nan),
        lambda: Asymmetric(gamma_neg=-1.0),
        lambda: Asymmetric(clip=1.0),
        lambda: TwoWay(positive_temperature=0.0),
    ],
)
def test_impossible_settings_are_refused(build):
    with pytest.raises(ValueError, match="must"):
        build()


@pytest.mark.parametrize("peer", [WeightedCrossEntropy, ClassBalanced, BalancedSoftmax, LogitAdjusted, LDAM])
def test_what_the_counts_gave_is_saved_with_the_model(peer):
    logits, target = batch(CrossEntropy())
    saved, other = peer(COUNT), peer(torch.tensor([5, 5, 5]))
    other.load_state_dict(saved.state_dict())
    assert other(logits, target) == saved(logits, target)
    for kind in ("balanced", "posterior"):
        assert torch.equal(other.scores(logits, kind), saved.scores(logits, kind))


# --- separate labels


@pytest.mark.parametrize("same", [BinaryCrossEntropy(), Asymmetric(gamma_neg=0.0, gamma_pos=0.0, clip=0.0)])
def test_reduces_to_binary_cross_entropy(same):
    logits, target = batch(same)
    soft = torch.rand(8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for t in (target, target.bool(), soft):
        expected = F.binary_cross_entropy_with_logits(logits, t.double())
        torch.testing.assert_close(same(logits, t), expected)


def test_tuned_threshold_is_the_best_for_macro_f1_and_leaves_the_posterior():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 5, generator=generator, dtype=torch.float64)
    target = (logits + torch.randn(200, 5, generator=generator) > torch.tensor([0.5, 1.0, 1.5, 2.0, 9.0])).long()
    assert target[:, 4].sum() == 0
    criterion = TunedThreshold()
    criterion.observe(logits, target)

    def macro_f1(threshold):
        return f1_score(target[:, :4], (logits[:, :4] > threshold).long(), average="macro")

    chosen = f1_score(target[:, :4], criterion.predict(logits)[:, :4], average="macro")
    # Between the candidates lie a few rows each, so that a finer search gains little.
    assert chosen > max(macro_f1(threshold) for threshold in torch.linspace(-2, 2, 100)) - 0.01
    assert chosen > macro_f1(0.0) + 0.02
    assert torch.equal(criterion.probabilities(logits, "posterior"), logits.sigmoid())


@pytest.mark.parametrize(("gamma_neg", "gamma_pos", "clip"), [(4, 1, 0.05), (2, 0, 0.2), (0, 0, 0.2), (0.5, 0.5, 0.0)])
def test_asymmetric_is_its_formula(gamma_neg, gamma_pos, clip):
    criterion = Asymmetric(gamma_neg, gamma_pos, clip)
    logits, target = batch(criterion)
    expected = 0.0
    for x, t in zip(logits.flatten().tolist(), target.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-x))
        shifted = max(p - clip, 0.0)
        expected -= (1 - p) ** gamma_pos * math.log(p) if t else shifted**gamma_neg * math.log(1 - shifted)
    assert float(criterion(logits, target)) == pytest.approx(expected / 24, rel=1e-9)


def test_asymmetric_lets_negatives_below_the_clip_off():
    clip = 0.05
    below = torch.tensor([[math.log(clip / (1 - clip)) - 0.01]], requires_grad=True)
    value = Asymmetric(clip=clip)(below, torch.tensor([[0]]))
    value.backward()
    assert value == 0
    assert below.grad == 0


def two_way_by_loops(logits, target, temperatures):
    """Sum over the rows, rows counted, mean over the labels: the paper's formula in plain Python."""

    def compared(scores, positive):
        threat, support = (
            temperature
            * math.log(
                sum(math.exp(sign * x / temperature) for x, p in zip(scores, positive, strict=True) if p == is_positive)
            )
            for is_positive, sign, temperature in ((0, 1, temperatures[1]), (1, -1, temperatures[0]))
        )
        return math.log1p(math.exp(threat + support))

    def each(matrix, targets):
        pairs = [(row, t) for row, t in zip(matrix.tolist(), targets.tolist(), strict=True) if 1 in t]
        return [compared(row, t) if 0 in t else 0.0 for row, t in pairs]

    rows, labels = each(logits, target), each(logits.T, target.T)
    return sum(rows), len(rows), sum(labels) / len(labels)


@pytest.mark.parametrize("temperatures", [(4.0, 1.0), (1.0, 1.0), (2.0, 3.0)])
def test_two_way_is_its_formula(temperatures):
    criterion = TwoWay(*temperatures)
    for seed in range(5):
        logits, target = batch(criterion, rows=6, seed=seed)
        target[0], target[1] = 0, 1
        if seed > 2:
            target[:, seed - 3] = seed - 3  # a label of negatives only, one of positives only
        rows, n, labels = two_way_by_loops(logits, target, temperatures)
        assert float(criterion(logits, target)) == pytest.approx(rows / n + labels, rel=1e-12)


def test_two_way_row_of_weight_2_is_the_row_twice_but_for_the_number_of_rows():
    criterion = TwoWay()
    logits, target = batch(criterion)
    assert target.any(1).all()
    weight = torch.tensor([1.0, 2, 1, 1, 3, 1, 1, 1], dtype=torch.float64)
    repeat = weight.long()
    rows, n, labels = two_way_by_loops(
        logits.repeat_interleave(repeat, 0), target.repeat_interleave(repeat, 0), (4.0, 1.0)
    )
    assert n == 11
    assert float(criterion(logits, target, sample_weight=weight)) == pytest.approx(rows / 8 + labels, rel=1e-12)


def test_two_way_of_one_positive_and_one_negative_is_softplus_of_their_difference():
    logits = torch.tensor([[0.3, -1.2]], dtype=torch.float64)
    # The row compares the two; each label has one row only, so nothing to compare.
    value = TwoWay()(logits, torch.tensor([[1, 0]]))
    torch.testing.assert_close(value, F.softplus(logits[0, 1] - logits[0, 0]))


def test_two_way_does_not_see_a_shift_of_all_logits():
    logits, target = batch(TwoWay())
    torch.testing.assert_close(TwoWay()(logits + 5.0, target), TwoWay()(logits, target))


@pytest.mark.parametrize("label", [0, 1])
def test_two_way_without_a_pair_to_compare_is_0_with_gradient_0(label):
    logits = batch(TwoWay())[0].requires_grad_()
    value = TwoWay()(logits, torch.full((8, 3), label))
    value.backward()
    assert value == 0
    assert (logits.grad == 0).all()


def test_two_way_wants_rows_of_labels():
    with pytest.raises(ValueError, match=r"TwoWay: logits must be \(N, L\).*got \(2, 3, 4\)"):
        TwoWay()(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))


# --- the registry


@pytest.mark.parametrize(
    ("name", "task"), [(entry.name, task) for entry in LOSSES.values() for task in sorted(entry.tasks)]
)
def test_every_entry_builds_trains_and_predicts(name, task: Task):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(60, 4, generator=generator).requires_grad_()
    match task:
        case "multiclass":
            target = torch.multinomial(torch.tensor([0.7, 0.2, 0.06, 0.04]), 60, replacement=True, generator=generator)
            count = torch.bincount(target, minlength=4).double()
        case "soft":
            target = torch.randn(60, 4, generator=generator).softmax(1)
            count = target.double().sum(0)
        case "multilabel":
            target = (torch.rand(60, 4, generator=generator) < 0.3).long()
            count = target.double().sum(0)
    criterion = LOSSES[name].build(TargetCounts(class_count=count, rows=60))
    assert name in losses_for(task)
    assert criterion.multilabel == (task == "multilabel")

    value = criterion(logits, target, sample_weight=torch.ones(60))
    assert value.shape == ()
    value.backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad != 0).any()

    trained = (logits - 1e-2 * logits.grad / logits.grad.abs().max()).detach()
    assert criterion(trained, target) < criterion(logits, target)
    criterion.observe(trained, target)
    for kind in ("balanced", "posterior"):
        prob = criterion.probabilities(trained, kind)
        assert prob.shape == (60, 4)
        assert ((prob >= 0) & (prob <= 1)).all()
        if not criterion.multilabel:
            torch.testing.assert_close(prob.sum(1), torch.ones(60))
    prob = criterion.probabilities(trained)
    decided = (prob > 0.5).long() if criterion.multilabel else prob.argmax(1)
    assert torch.equal(criterion.predict(trained), decided)
