"""What must not change the loss: the order of sets and classes, the form of the target, how a set is left out."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from contract import reference
from contract.cases import BALANCES, CASES, IGNORED, INNERS, Case, Inputs, cases
from equilog import log_balanced_cross_entropy

# Two ways to the same sum of some fifty terms differ in the rounding of each, 1e-16 of a few units.
SAME = {"rtol": 1e-12, "atol": 1e-13}


def assert_same_loss(case: Case, one: Inputs, other: Inputs, rows: Tensor | None = None) -> None:
    """The same sum over pools, and the same gradient (of these rows of the first)."""
    torch.testing.assert_close(case.loss(one, reduction="sum"), case.loss(other, reduction="sum"), **SAME)
    gradient = case.gradient(one, reduction="sum")
    rows = torch.arange(len(gradient)) if rows is None else rows
    torch.testing.assert_close(gradient[rows], case.gradient(other, reduction="sum"), **SAME)


@pytest.mark.parametrize("case", cases())
def test_order_of_sets(case: Case) -> None:
    row = case.in_a_row(case.inputs())
    order = torch.randperm(len(row.logits), generator=torch.Generator().manual_seed(1))
    assert_same_loss(case, row, row.at(order), order)


@pytest.mark.parametrize("case", cases(multilabel=False))
def test_order_of_classes(case: Case) -> None:
    row = case.in_a_row(case.inputs())
    order = torch.randperm(row.logits.shape[1], generator=torch.Generator().manual_seed(1))
    if row.target.is_floating_point():
        target = row.target[:, order]
    else:
        target = torch.where(row.target == IGNORED, IGNORED, order.argsort()[row.target.clamp(min=0)])
    options = {
        name: value[order] if name in ("prior", "weight", "balance") and isinstance(value, Tensor) else value
        for name, value in row.options.items()
    }
    other = Inputs(row.logits[:, order], target, options)
    torch.testing.assert_close(case.loss(row), case.loss(other), **SAME)
    torch.testing.assert_close(case.gradient(row)[:, order], case.gradient(other), **SAME)


@pytest.mark.parametrize("case", [case for case in cases(multilabel=True) if "everything" not in case.id])
def test_yes_and_no_change_places(case: Case) -> None:
    """But for pos_weight, which weighs the positives."""
    inputs = case.inputs()
    prior = inputs.options.get("prior")
    options = inputs.options if prior is None else inputs.options | {"prior": 1 - prior}
    other = Inputs(-inputs.logits, 1 - inputs.target, options)
    torch.testing.assert_close(case.loss(inputs), case.loss(other), **SAME)
    torch.testing.assert_close(case.gradient(inputs), -case.gradient(other), **SAME)


WAYS_TO_IGNORE = (
    *((case, "sample_weight") for case in CASES),
    *((case, "mask") for case in CASES if case.multilabel),
    *((case, "ignore_index") for case in CASES if not case.multilabel and "index" in case.tags),
)


@pytest.mark.parametrize(
    ("case", "way"), [pytest.param(*each, id=f"{each[0].name}-{each[1]}") for each in WAYS_TO_IGNORE]
)
def test_ignored_is_deleted(case: Case, way: str) -> None:
    row = case.in_a_row(case.inputs())
    out = torch.rand(len(row.logits), generator=torch.Generator().manual_seed(2)) < 0.4
    target, options = row.target, dict(row.options)
    if way == "ignore_index":
        last = row.logits.shape[1] - 1  # as good as any: it is never a target
        options["ignore_index"] = last
        target = torch.where((target == IGNORED) | out, last, target)
    elif way == "mask":
        options["mask"] = ~out & options.get("mask", torch.tensor(True))
    else:
        options["sample_weight"] = torch.where(out, 0.0, options.get("sample_weight", torch.ones(len(out))))
    ignoring = Inputs(row.logits, target, options)
    kept = (~out).nonzero().squeeze(1)
    deleted = row.at(kept)
    assert_same_loss(case, ignoring, deleted, kept)
    assert (case.gradient(ignoring)[out] == 0).all()
    # The mean is over the pools that hold a set, so it does not know of the deleted ones either.
    torch.testing.assert_close(case.loss(ignoring), case.loss(deleted), **SAME)


@pytest.mark.parametrize("case", cases())
def test_sample_weight_two_is_the_set_twice(case: Case) -> None:
    row = case.in_a_row(case.inputs())
    n = len(row.logits)
    ones = torch.ones(n, dtype=torch.float64)
    given_weight = row.options.get("sample_weight", ones)
    row = row.with_options(sample_weight=given_weight)
    twice = torch.rand(n, generator=torch.Generator().manual_seed(3)) < 0.5
    doubled = row.with_options(sample_weight=given_weight * torch.where(twice, 2.0, 1.0))
    repeated = row.at(torch.cat([torch.arange(n), twice.nonzero().squeeze(1)]))
    torch.testing.assert_close(case.loss(doubled), case.loss(repeated), **SAME)
    gradient = case.gradient(repeated)
    summed = gradient[:n].clone()
    summed[twice] += gradient[n:]
    torch.testing.assert_close(case.gradient(doubled), summed, **SAME)


@pytest.mark.parametrize("case", cases("index", multilabel=False))
def test_one_hot_is_index(case: Case) -> None:
    row = case.in_a_row(case.inputs())
    kept = row.target != IGNORED
    one_hot = torch.nn.functional.one_hot(row.target.clamp(min=0), row.logits.shape[1]).double()
    weight = row.options.get("sample_weight", torch.ones(len(kept), dtype=torch.float64))
    soft = Inputs(row.logits, one_hot, row.options | {"sample_weight": torch.where(kept, weight, 0.0)})
    assert_same_loss(case, row, soft)


@pytest.mark.parametrize("case", cases("index", multilabel=True))
def test_multilabel_targets_of_any_dtype(case: Case) -> None:
    inputs = case.inputs()
    for dtype in (torch.bool, torch.uint8, torch.int32, torch.float32, torch.bfloat16):
        other = Inputs(inputs.logits, inputs.target.to(dtype), inputs.options)
        assert torch.equal(case.loss(inputs), case.loss(other))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_index_targets_of_any_dtype(dtype: torch.dtype) -> None:
    logits, target = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    assert torch.equal(log_balanced_cross_entropy(logits, target), log_balanced_cross_entropy(logits, target.to(dtype)))


@pytest.mark.parametrize(
    "case", [case for case in cases(multilabel=False) if "smoothing" in case.id and "ignored" not in case.id]
)
def test_smoothing_is_a_smoothed_target(case: Case) -> None:
    row = case.in_a_row(case.inputs())
    smoothing = row.options["label_smoothing"]
    classes = row.logits.shape[1]
    target = row.target
    if not target.is_floating_point():
        target = torch.nn.functional.one_hot(target, classes).double()
    smoothed = Inputs(row.logits, (1 - smoothing) * target + smoothing / classes, row.options | {"label_smoothing": 0})
    assert_same_loss(case, row, smoothed)


@pytest.mark.parametrize("case", cases(multilabel=False))
def test_a_constant_added_to_a_set_changes_nothing(case: Case) -> None:
    row = case.in_a_row(case.inputs())
    # Powers of two, so that adding them loses the same last digits everywhere: 1e3 * 1e-16 of each logit.
    shift = 1024.0 * torch.randn(len(row.logits), 1, generator=torch.Generator().manual_seed(4)).round().double()
    shifted = row.with_logits(row.logits + shift)
    torch.testing.assert_close(case.loss(row), case.loss(shifted), rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(case.gradient(row), case.gradient(shifted), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("case", [case for case in cases(multilabel=False) if "prior" in case.id])
def test_prior_may_be_counts(case: Case) -> None:
    inputs = case.inputs()
    counts = inputs.with_options(prior=1000 * inputs.options["prior"])
    assert_same_loss(case, inputs, counts)
    # and is the same as its log added by hand
    added = inputs.options["prior"].log() * inputs.options.get("prior_strength", 1.0)
    by_hand = Inputs(inputs.logits + added, inputs.target, inputs.options | {"prior": None})
    assert_same_loss(case, inputs, by_hand)


@pytest.mark.parametrize("case", cases())
def test_pools_do_not_know_of_each_other(case: Case) -> None:
    row = case.in_a_row(case.inputs())
    ids = row.options["pool"]
    per_pool = case.loss(row, reduction="none", pool=ids + 2)  # gaps in the ids are empty pools
    assert (per_pool[:2] == 0).all()
    for number in ids.unique().tolist():
        alone = row.at((ids == number).nonzero().squeeze(1))
        torch.testing.assert_close(per_pool[number + 2], case.loss(alone, reduction="sum"), **SAME)


@st.composite
def calls(draw: st.DrawFn) -> Inputs:
    """Sets with anything that may happen to them: classes left out, sets ignored, weights, pools of any filling."""
    n, classes = draw(st.integers(1, 7)), draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    logits = draw(st.sampled_from([0.1, 3.0, 100.0])) * torch.randn(n, classes, generator=generator).double()
    taking_part = torch.rand(logits.shape, generator=generator) < draw(st.sampled_from([0.5, 0.9, 1.0]))
    taking_part[torch.arange(n), torch.randint(classes, (n,), generator=generator)] = True
    if draw(st.booleans()):
        # A target without probability in a class that takes no part.
        share = torch.where(taking_part, torch.rand(logits.shape, generator=generator).double(), 0.0)
        target = share / share.sum(1, keepdim=True)
    else:
        target = torch.multinomial(taking_part.float(), 1, generator=generator).squeeze(1)
        if draw(st.booleans()):
            target[torch.rand(n, generator=generator) < 0.3] = IGNORED
    options: dict[str, Any] = {
        "pool": torch.randint(draw(st.integers(1, 4)), (n,), generator=generator),
        "balance": draw(st.sampled_from([*list(BALANCES)[:3], "blocks"])),
        "compensation": draw(st.sampled_from(["weight", "offset", None])),
        "scale": draw(st.sampled_from([1.0, 0.3, 2.0])),
        "label_smoothing": draw(st.sampled_from([0.0, 0.1])),
    }
    if options["balance"] == "class":
        options["inner"] = draw(st.sampled_from(INNERS))
    if options["balance"] == "blocks":
        options["balance"] = torch.randint(3, (classes,), generator=generator)
    if draw(st.booleans()):
        weight = torch.rand(n, generator=generator).double()
        options["sample_weight"] = torch.where(torch.rand(n, generator=generator) < 0.3, 0.0, 2 * weight)
    return Inputs(torch.where(taking_part, logits, -torch.inf), target, options)


@settings(max_examples=250, derandomize=True, deadline=None, database=None)
@given(calls())
def test_any_call_is_the_formula(inputs: Inputs) -> None:
    expected = reference.balanced(inputs.logits, inputs.target, **inputs.options)
    logits = inputs.logits.clone().requires_grad_()
    per_pool = log_balanced_cross_entropy(logits, inputs.target, reduction="none", **inputs.options)
    (gradient,) = torch.autograd.grad(per_pool.sum(), logits)
    # Logits of several hundred are rounded at 1e-13 before they meet in a difference.
    wanted = torch.tensor([float(value) for value in expected.values], dtype=torch.float64)
    torch.testing.assert_close(per_pool, wanted, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(gradient, expected.gradient, rtol=1e-9, atol=1e-12)
    mean = log_balanced_cross_entropy(inputs.logits, inputs.target, **inputs.options)
    assert float(mean) == pytest.approx(float(expected.mean), rel=1e-11, abs=1e-13)
