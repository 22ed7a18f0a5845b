"""The scale of the mean: wherever cross-entropy or binary cross-entropy trains, so do the losses at the same rate.

What holds of the sum of |gradient| over all logits, whatever these are:

    2 * scale                   class balance of "odds" and "power" with any compensation, pair, none and blocks, hard
                                or soft; and "nll" of hard targets
    2 * scale * max w_j         "nll" of soft targets, w_j being the weights that compensate them
    2 * scale * sum v / units   "divergence", v being the weights of the sets, times the largest class weight: 2 * scale
                                where sets are samples, without class weights
    scale * max(1, pos_weight)  labels, hard or soft, each of which is one logit; times max w_j and sum v / units
                                likewise

The linear forms and those of cross-entropies have the gradient of the logits under the mean, by their own tests.
"""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from contract.cases import IGNORED, Case, Inputs, cases
from contract.test_invariance import calls
from equilog import (
    LogBalancedCrossEntropyLoss,
    MultiLabelCrossEntropyLoss,
    class_mass,
    log_balanced_cross_entropy,
    log_balanced_from_cross_entropy,
    multilabel_cross_entropy,
)
from ranks import run_ranks

# Of sums of fifty numbers, each rounded at 1e-16 of itself.
SAME = {"rtol": 1e-12, "atol": 1e-14}
ROUNDING = 1e-11


def adversarial(case: Case, inputs: Inputs) -> Iterator[Inputs]:
    """The case's logits from small to saturated, all wrong, all right, level, and each set sure of one class."""
    logits = inputs.logits
    for size in (0.05, 1.0, 30.0):
        yield inputs.with_logits(size * logits)
    yield inputs.with_logits(torch.zeros_like(logits))
    if case.multilabel:
        towards = inputs.target.double() - 0.5
    else:
        best = inputs.target.argmax(1) if inputs.target.is_floating_point() else inputs.target.clamp(min=0)
        towards = F.one_hot(best, logits.shape[1]).movedim(-1, 1).double()
    for size in (-40.0, -3.0, 3.0, 40.0):
        yield inputs.with_logits(logits + size * towards)
    number = torch.arange(len(logits))
    sure = 40.0 * F.one_hot(
        number % logits.shape[-1 if case.multilabel else 1], logits.shape[-1 if case.multilabel else 1]
    )
    yield inputs.with_logits(logits + (sure[0] if logits.dim() == 1 else _of_rows(sure, logits, case.multilabel)))


def _of_rows(sure: Tensor, logits: Tensor, multilabel: bool) -> Tensor:
    """One row a sample, over its positions."""
    between = (1,) * (logits.dim() - 2)
    return sure.reshape(len(sure), *between, -1) if multilabel else sure.reshape(len(sure), -1, *between)


def most_gradient(case: Case, inputs: Inputs) -> float:
    """The bound that this module states of the sum of |gradient|."""
    options = inputs.options
    scale = options.get("scale", 1.0)
    inner = options.get("inner", "odds")
    if case.multilabel:
        most = scale * max(1.0, options.get("pos_weight") or 1.0)
        if inner == "nll":
            most *= float(case.expected(inputs).heaviest)
        if inner == "divergence":
            kept = case.in_a_row(inputs).options
            weight = torch.ones(inputs.logits.numel(), dtype=torch.float64)
            for name in ("sample_weight", "mask", "weight of labels"):
                weight = weight * kept.get(name, 1.0)
            most *= float(weight.sum()) / float(sum(case.expected(inputs).units))
        return most
    if inner in ("odds", "power") or (inner == "nll" and "hard" in case.tags):
        return 2 * scale
    expected = case.expected(inputs)
    if inner == "nll":
        return 2 * scale * float(expected.heaviest)
    row = case.in_a_row(inputs)
    kept = row.options.get("sample_weight", torch.ones(len(row.logits)))
    if not row.target.is_floating_point():
        kept = torch.where(row.target == IGNORED, 0.0, kept)
    largest = 1.0 if options.get("weight") is None else float(options["weight"].max())
    return 2 * scale * largest * float(kept.sum()) / float(sum(expected.units))


@pytest.mark.parametrize("case", cases())
def test_gradients_of_the_mean_are_bounded_whatever_the_logits(case: Case) -> None:
    for seed in range(2):
        for inputs in adversarial(case, case.inputs(seed)):
            found = float(case.gradient(inputs).abs().sum())
            assert found <= most_gradient(case, inputs) * (1 + ROUNDING)


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(inputs=calls(), size=st.sampled_from([1.0, 10.0]))
def test_gradients_of_the_mean_are_bounded_in_any_call_of_the_odds(inputs: Inputs, size: float) -> None:
    """Classes left out, sets ignored and weighted, pools of any filling, one class alone."""
    options: dict[str, Any] = inputs.options | {"inner": "odds"}
    logits = (size * inputs.logits).requires_grad_()
    (gradient,) = torch.autograd.grad(log_balanced_cross_entropy(logits, inputs.target, **options), logits)
    assert float(gradient.abs().sum()) <= 2 * options["scale"] * (1 + ROUNDING)


def test_the_bounds_are_reached() -> None:
    """By sets that are all wrong, in pools of one: the scale of the mean is no less than cross-entropy's."""
    target = torch.arange(6) % 3
    wrong = (-40.0 * F.one_hot(target, 3)).double().requires_grad_()
    for balance in ("class", "none"):
        (gradient,) = torch.autograd.grad(log_balanced_cross_entropy(wrong, target, pool=1, balance=balance), wrong)
        assert float(gradient.abs().sum()) == pytest.approx(2, rel=1e-12)
    labels = F.one_hot(target, 3)
    x = (-40.0 * (2.0 * labels - 1)).double().requires_grad_()
    for pool in ("sample", 1):
        (gradient,) = torch.autograd.grad(multilabel_cross_entropy(x, labels, pool=pool), x)
        assert float(gradient.abs().sum()) == pytest.approx(1, rel=1e-12)


def is_one_set_a_sample(case: Case) -> bool:
    return case.inputs().target.dim() == 1


@pytest.mark.parametrize(
    "case", [case for case in cases("hard", multilabel=False) if is_one_set_a_sample(case.values[0])]
)
def test_no_row_has_more_gradient_than_by_cross_entropys_mean(case: Case) -> None:
    """Hard targets, a sample being one set; a light row counts as one at most: its log saturates no sooner.

    By torch's mean a row has weight v_i c_y / sum v c, of class weights c; here no more than max(v_i, 1) c_y / sum v c.
    "divergence" charges every class for what it takes, so there the largest class weight is in the place of c_y.
    """
    for seed in range(2):
        for inputs in adversarial(case, case.inputs(seed)):
            options, classes = inputs.options, inputs.logits.shape[1]
            of_class = options.get("weight", torch.ones(classes, dtype=torch.float64))
            kept = inputs.target != options.get("ignore_index", IGNORED)
            target = inputs.target.clamp(min=0)
            weight = torch.where(kept, options.get("sample_weight", torch.ones(len(target)).double()), 0.0)
            scores = inputs.logits
            if options.get("prior") is not None:
                scores = scores + options.get("prior_strength", 1.0) * options["prior"].log()
            p = (options.get("scale", 1.0) * scores).softmax(1)
            of_cross_entropy = options.get("scale", 1.0) * (p - F.one_hot(target, classes)).abs().sum(1)
            most = torch.full_like(weight, float(of_class.max())) if "divergence" in case.name else of_class[target]
            share = torch.where(weight > 0, weight.clamp(min=1.0), 0.0) * most / (weight * of_class[target]).sum()
            rows = case.gradient(inputs).abs().sum(1)
            assert (rows <= share * of_cross_entropy * (1 + ROUNDING) + 1e-15).all()


@st.composite
def hard_calls(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, int]:
    """Logits of any saturation in any shape, targets some of them ignored, class weights, and the index to ignore."""
    sets = draw(st.lists(st.integers(1, 4), min_size=0, max_size=3))
    classes = draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shape = (*sets[:1], classes, *sets[1:])
    logits = draw(st.sampled_from([0.1, 3.0, 100.0])) * torch.randn(shape, generator=generator).double()
    target = torch.randint(classes, sets, generator=generator)
    ignored = draw(st.sampled_from([IGNORED, 255]))
    if sets and draw(st.booleans()):
        target[torch.rand(sets, generator=generator) < 0.3] = ignored
    return logits.requires_grad_(), target, 0.1 + torch.rand(classes, generator=generator).double(), ignored


@settings(max_examples=100, derandomize=True, deadline=None, database=None)
@given(call=hard_calls(), weighted=st.booleans(), balance=st.sampled_from(["class", "none"]))
def test_pools_of_one_are_torchs_cross_entropy(
    call: tuple[Tensor, Tensor, Tensor, int], weighted: bool, balance: str
) -> None:
    """In value and gradient, with class weights and ignored sets; where all are ignored torch has NaN, and we 0."""
    logits, target, weight, ignored = call
    options: dict[str, Any] = {"weight": weight if weighted else None, "ignore_index": ignored}
    ours = log_balanced_cross_entropy(logits, target, pool=1, balance="class" if weighted else balance, **options)
    (gradient,) = torch.autograd.grad(ours, logits)
    if (target == ignored).all():
        assert ours == 0
        assert not gradient.any()
        return
    theirs = F.cross_entropy(logits, target, **options)
    (expected,) = torch.autograd.grad(theirs, logits)
    torch.testing.assert_close(ours, theirs, **SAME)
    torch.testing.assert_close(gradient, expected, **SAME)
    if target.dim() != 1:
        return
    losses = F.cross_entropy(logits, target, reduction="none", ignore_index=ignored)
    of_losses = log_balanced_from_cross_entropy(losses, target, logits.shape[1], pool=1, **options)
    torch.testing.assert_close(of_losses, theirs, **SAME)


@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    size=st.sampled_from([0.1, 3.0, 100.0]),
    pos_weight=st.sampled_from([None, 0.3, 4.0]),
    seed=st.integers(0, 2**31),
)
def test_pools_of_one_label_are_torchs_binary_cross_entropy(
    shape: list[int], size: float, pos_weight: float | None, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = (size * torch.randn(shape, generator=generator).double()).requires_grad_()
    target = torch.randint(2, shape, generator=generator)
    ours = multilabel_cross_entropy(x, target, pool=1, pos_weight=pos_weight)
    factor = None if pos_weight is None else torch.tensor(pos_weight, dtype=torch.float64)
    theirs = F.binary_cross_entropy_with_logits(x, target.double(), pos_weight=factor)
    torch.testing.assert_close(ours, theirs, **SAME)
    torch.testing.assert_close(*(torch.autograd.grad(loss, x)[0] for loss in (ours, theirs)), **SAME)


def in_two_parts(inputs: Inputs) -> tuple[Inputs, list[Inputs]] | None:
    """The inputs and two parts of them, whose pools lie within a part or span both; None where there are none such."""
    samples = len(inputs.logits)
    pool = inputs.options.get("pool")
    sets = inputs.target.numel()
    if inputs.target.is_floating_point() and inputs.target.shape == inputs.logits.shape and inputs.logits.dim() > 1:
        sets = inputs.logits.numel()
    for cut in range(samples // 2, samples):
        if not isinstance(pool, int) or (cut * (sets // samples)) % pool == 0:
            break
    else:
        return None
    if isinstance(pool, Tensor):  # the pools of parts are their own
        inputs = inputs.with_options(pool=torch.cat((pool[:cut], pool[cut:] + int(pool.max()) + 1)))
    parts = []
    for rows in (slice(0, cut), slice(cut, samples)):
        options = {
            name: value[rows]
            if name in ("pool", "sample_weight", "mask") and isinstance(value, Tensor) and len(value) == samples
            else value
            for name, value in inputs.options.items()
        }
        parts.append(Inputs(inputs.logits[rows], inputs.target[rows], options))
    return inputs, parts


def is_parted(case: Case) -> bool:
    return case.name != "multilabel-alone" and in_two_parts(case.inputs()) is not None  # which is one sample


PARTED = [case for case in cases() if is_parted(case.values[0])]


def outcome(case: Case, inputs: Inputs, **changes: Any) -> tuple[Tensor, Tensor]:
    logits = inputs.logits.detach().clone().requires_grad_()
    value = case.loss(inputs.with_logits(logits), **changes)
    return value.detach(), torch.autograd.grad(value, logits)[0]


@pytest.mark.parametrize("case", PARTED)
def test_parts_have_the_mean_of_the_whole(case: Case) -> None:
    """Micro-batches, which exchange no more than their class masses."""
    inputs, parts = in_two_parts(case.inputs())
    value, gradient = outcome(case, inputs)
    masses = [class_mass(part.logits, part.target, loss=case.function, **part.options) for part in parts]
    whole = masses[0].merge(masses[1])
    outcomes = [outcome(case, part, class_mass=whole) for part in parts]
    torch.testing.assert_close(torch.cat([share for _, share in outcomes]), gradient, **SAME)
    if whole.layout.spans:
        for of_part, _ in outcomes:
            torch.testing.assert_close(of_part, value, **SAME)
    else:
        torch.testing.assert_close(outcomes[0][0] + outcomes[1][0], value, **SAME)


def of_a_rank(rank: int) -> dict[str, tuple[Tensor, Tensor]]:
    found = {}
    for case in (parameters.values[0] for parameters in PARTED):
        _, parts = in_two_parts(case.inputs())
        found[case.name] = outcome(case, parts[rank], process_group="world")
    return found


def test_ranks_have_the_mean_of_the_whole() -> None:
    """Averaged over the ranks, as data-parallel wrappers average gradients."""
    ranks = run_ranks(2, of_a_rank)
    assert len(PARTED) > 100
    for case in (parameters.values[0] for parameters in PARTED):
        value, gradient = outcome(case, in_two_parts(case.inputs())[0])
        values, gradients = zip(*(rank[case.name] for rank in ranks), strict=True)
        torch.testing.assert_close(sum(values) / 2, value, **SAME)
        torch.testing.assert_close(torch.cat(gradients) / 2, gradient, **SAME)


@pytest.mark.parametrize("options", [{}, {"balance": "pair"}, {"balance": "none"}, {"inner": "nll"}], ids=str)
def test_steps_of_a_stream_have_no_more_gradient_than_cross_entropy(options: dict[str, Any]) -> None:
    """Hard rows, whatever the steps before held: easy ones and hard ones, many and few."""
    criterion = LogBalancedCrossEntropyLoss(5, pool="stream", momentum=0.8, scale=0.7, **options)
    generator = torch.Generator().manual_seed(0)
    for size, n in ((0.1, 20), (30.0, 3), (3.0, 8), (0.1, 1), (30.0, 20), (3.0, 2), (100.0, 5), (0.1, 7)):
        logits = (size * torch.randn(n, 5, generator=generator).double()).requires_grad_()
        target = torch.randint(5, (n,), generator=generator)
        (gradient,) = torch.autograd.grad(criterion(logits, target), logits)
        rows = 0.7 * ((0.7 * logits).softmax(1) - F.one_hot(target, 5)).abs().sum(1) / n
        assert (gradient.abs().sum(1) <= rows * (1 + ROUNDING)).all()


def test_steps_of_a_stream_of_labels_have_no_more_gradient_than_binary_cross_entropy() -> None:
    """Of two samples a step or more, whose logs are no more than they."""
    criterion = MultiLabelCrossEntropyLoss(pool="stream", momentum=0.8, scale=0.7)
    generator = torch.Generator().manual_seed(0)
    for size, n in ((0.1, 20), (30.0, 3), (3.0, 8), (30.0, 20), (3.0, 2), (100.0, 5), (0.1, 7)):
        x = (size * torch.randn(n, 5, generator=generator).double()).requires_grad_()
        target = torch.rand(n, 5, generator=generator)
        (gradient,) = torch.autograd.grad(criterion(x, target), x)
        assert float(gradient.abs().sum()) <= 0.7 * (1 + ROUNDING)


@pytest.mark.parametrize("classes", [3, 50])
@pytest.mark.parametrize("compensation", ["weight", "offset", None])
def test_soft_targets_that_are_nearly_certain_keep_the_bound(classes: int, compensation: Any) -> None:
    """Of few sets between two classes each and many classes: where weights that compensate would reach sqrt(C) / 2."""
    n = 1 + math.isqrt(classes)
    target = torch.zeros(n, classes, dtype=torch.float64)
    target[:, 0] = target[torch.arange(n), 1 + torch.arange(n) % (classes - 1)] = 0.5
    worst = 0.0
    for size in (-40.0, 40.0):
        logits = torch.zeros(n, classes, dtype=torch.float64)
        logits[:, 0] = size
        logits.requires_grad_()
        loss = log_balanced_cross_entropy(logits, target, compensation=compensation)
        worst = max(worst, float(torch.autograd.grad(loss, logits)[0].abs().sum()))
    assert worst <= 2 * (1 + ROUNDING)
