"""What every baseline must withstand."""

import itertools
import math

import pytest
import torch
from tests.baselines.cases import BY_LABEL, COUNT, MULTICLASS, batch, each_baseline, each_by_label, each_multiclass

from equilog.baselines import LDAM, Asymmetric, ClassBalanced, Focal, GeneralizedCrossEntropy, TwoWay


@each_baseline
def test_gradient_is_that_of_the_value(criterion):
    logits, target = batch(criterion)
    weight = torch.rand(len(logits), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda z: criterion(z, target, sample_weight=weight), logits.requires_grad_(), raise_exception=True
    )


@each_baseline
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


@each_baseline
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


@each_baseline
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


@each_baseline
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
