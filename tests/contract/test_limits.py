"""Where there is nothing, or too much: empty calls, ignored sets, classes left out, infinities and NaN."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from contract.cases import IGNORED, POOLS, Case, Inputs, cases
from equilog import class_mass, log_balanced_cross_entropy, multilabel_class_mass, multilabel_cross_entropy
from equilog.core.inner import INNERS

SAME = {"rtol": 1e-12, "atol": 1e-13}  # sums of the same terms, each rounded once

BALANCES = ["class", "pair", "none", torch.tensor([2, 0, 0, 7])]


def nothing_kept(case: Case) -> Inputs:
    """The case's inputs with every set ignored, and NaN in all of them."""
    inputs = case.inputs()
    empty = inputs.with_logits(torch.full_like(inputs.logits, torch.nan))
    if case.multilabel:
        return empty.with_options(mask=torch.zeros(inputs.logits.shape, dtype=torch.bool))
    if inputs.target.is_floating_point():
        return empty.with_options(sample_weight=torch.zeros(len(inputs.logits)))
    return Inputs(empty.logits, torch.full_like(inputs.target, IGNORED), inputs.options)


@pytest.mark.parametrize("case", cases())
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_everything_ignored_is_zero(case: Case, reduction: str) -> None:
    inputs = nothing_kept(case)
    assert (case.loss(inputs, reduction=reduction) == 0).all()
    assert (case.gradient(inputs, reduction="sum") == 0).all()
    assert (case.gradient(inputs) == 0).all()


@pytest.mark.parametrize("case", cases())
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_no_sets_are_zero(case: Case, reduction: str) -> None:
    inputs = case.inputs()
    options = {
        name: value[:0] if name in ("sample_weight", "mask", "pool") and isinstance(value, Tensor) else value
        for name, value in inputs.options.items()
    }
    if case.multilabel and inputs.logits.dim() == 1:
        options.pop("weight", None)
    empty = Inputs(inputs.logits[:0], inputs.target[:0], options)
    loss = case.loss(empty, reduction=reduction)
    assert (loss == 0).all()
    assert loss.dim() == 0 or reduction == "none"
    assert case.gradient(empty, reduction="sum").shape == empty.logits.shape


@pytest.mark.parametrize("kind", ["index", "probability"])
@pytest.mark.parametrize("pool", [None, "sample", "batch", 1, 3])
def test_samples_without_positions_are_empty_pools(kind: str, pool: str | int | None) -> None:
    logits = torch.zeros(3, 4, 0)
    target = torch.zeros(3, 0, dtype=torch.long) if kind == "index" else torch.zeros(3, 4, 0)
    per_pool = log_balanced_cross_entropy(logits, target, pool=pool, reduction="none")
    expected = {None: (3,), "sample": (3,), "batch": (1,), 1: (3, 0), 3: (0,)}[pool]
    assert per_pool.shape == expected
    assert (per_pool == 0).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("case", cases())
def test_nothing_leaks_from_an_ignored_set(case: Case, value: float) -> None:
    row = case.in_a_row(case.inputs())
    weight = row.options.get("sample_weight", torch.ones(len(row.logits))).clone()
    weight[2] = 0.0
    clean = row.with_options(sample_weight=weight)
    logits, target = row.logits.clone(), row.target.clone()
    logits[2] = value
    if target.is_floating_point():
        target[2] = torch.nan
    dirty = Inputs(logits, target, clean.options)
    torch.testing.assert_close(case.loss(dirty), case.loss(clean), rtol=0, atol=0)
    torch.testing.assert_close(case.gradient(dirty), case.gradient(clean), rtol=0, atol=0)


def test_nothing_leaks_from_an_ignored_set_into_what_is_counted() -> None:
    values = torch.tensor([[0.25, 0.75], [torch.nan, torch.nan]])
    weight = torch.tensor([2.0, 0.0])
    assert class_mass(values, values, sample_weight=weight).class_count.tolist() == [0.5, 1.5]
    assert multilabel_class_mass(values, values, sample_weight=weight).class_count.tolist() == [2.0, 2.0]
    masked = multilabel_class_mass(values, values, mask=torch.tensor([[True], [False]]))
    assert masked.class_count.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("case", cases())
def test_nan_stays_nan_in_its_pool_alone(case: Case) -> None:
    row = case.in_a_row(case.inputs())
    ids = torch.arange(len(row.logits)) % 2
    kept = torch.nonzero(case.gradient(row, reduction="sum").reshape(len(ids), -1).abs().sum(1)).squeeze(1)
    hit = int(kept[kept % 2 == 0][0])
    row = row.with_options(pool=ids)
    before = case.loss(row, reduction="none")
    logits = row.logits.clone()
    logits.view(len(ids), -1)[hit, -1] = torch.nan
    after = case.loss(row.with_logits(logits), reduction="none")
    assert after[0].isnan()
    assert after[1] == before[1]
    assert case.loss(row.with_logits(logits)).isnan()


@pytest.mark.parametrize("kind", ["index", "probability"])
@pytest.mark.parametrize(
    ("balance", "inner"),
    [*((balance, "odds") for balance in BALANCES), ("class", "nll"), ("class", "divergence")],
    ids=["class", "pair", "none", "blocks", "nll", "divergence"],
)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_class_at_minus_infinity_is_deleted(kind: str, balance: str | Tensor, inner: Any, smoothing: float) -> None:
    """Also from what smoothing spreads over. (Compensation compares classes, so it has a test of its own.)"""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 4, generator=generator, dtype=torch.float64)
    stays = torch.tensor([0, 1, 3])
    target = torch.randint(2, (8,), generator=generator)
    if kind == "probability":
        target = torch.rand(8, 4, generator=generator, dtype=torch.float64)
        target[:, 2] = 0.0
        target = target / target.sum(1, keepdim=True)
    without = logits.clone()
    without[:, 2] = -torch.inf
    without.requires_grad_()
    kept = logits[:, stays].requires_grad_()
    target_left = target if kind == "index" else target[:, stays]
    balance_left = balance[stays] if isinstance(balance, Tensor) else balance
    excluded = log_balanced_cross_entropy(
        without, target, balance=balance, inner=inner, compensation=None, label_smoothing=smoothing, reduction="sum"
    )
    deleted = log_balanced_cross_entropy(
        kept,
        target_left,
        balance=balance_left,
        inner=inner,
        compensation=None,
        label_smoothing=smoothing,
        reduction="sum",
    )
    torch.testing.assert_close(excluded, deleted, **SAME)
    (gradient,) = torch.autograd.grad(excluded, without)
    (expected,) = torch.autograd.grad(deleted, kept)
    torch.testing.assert_close(gradient[:, stays], expected, **SAME)
    assert (gradient[:, 2] == 0).all()


@pytest.mark.parametrize("compensation", ["weight", "offset"])
def test_a_class_absent_everywhere_counts_in_the_compensation_alone(compensation: str) -> None:
    """It has R = 0 in the mean of "weight", which scales the loss of the rest, and an offset max R in "offset"."""
    target = torch.tensor([[0.7, 0.3], [0.2, 0.8], [0.5, 0.5]], dtype=torch.float64)
    logits = torch.tensor([[1.0, -1.0], [0.5, 0.0], [0.3, 2.0]], dtype=torch.float64)
    absent = torch.full((3, 1), -torch.inf, dtype=torch.float64)
    none = torch.zeros(3, 1, dtype=torch.float64)
    options = {"compensation": compensation, "reduction": "sum"}
    excluded = log_balanced_cross_entropy(torch.cat([logits, absent], 1), torch.cat([target, none], 1), **options)
    deleted = log_balanced_cross_entropy(logits, target, **options)
    root = target.sqrt()
    left = (root * (root.sum(1, keepdim=True) - root)).sum(0)
    if compensation == "weight":
        expected = deleted * (1 + left.mean()) / (1 + left.sum() / 3)
    else:
        expected = deleted + torch.log1p(left.max())
    torch.testing.assert_close(excluded, expected, **SAME)


@pytest.mark.parametrize("balance", BALANCES, ids=["class", "pair", "none", "blocks"])
@pytest.mark.parametrize("kind", ["index", "probability"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_set_with_one_class_left_is_free(balance: str | Tensor, kind: str, smoothing: float) -> None:
    logits = torch.full((2, 4), -torch.inf, dtype=torch.float64)
    logits[0, 1], logits[1] = 3.0, torch.tensor([0.0, 1.0, 2.0, 3.0])
    logits.requires_grad_()
    target = torch.tensor([1, 2])
    if kind == "probability":
        target = torch.nn.functional.one_hot(target, 4).double()
    options: dict[str, Any] = {"balance": balance, "label_smoothing": smoothing, "reduction": "sum"}
    both = log_balanced_cross_entropy(logits, target, **options)
    (gradient,) = torch.autograd.grad(both, logits)
    alone = log_balanced_cross_entropy(logits[1:], target[1:], **options)
    torch.testing.assert_close(both, alone, **SAME)
    assert (gradient[0] == 0).all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("balance", "inner"),
    [*((balance, "odds") for balance in BALANCES), ("class", "nll"), ("class", "divergence")],
    ids=["class", "pair", "none", "blocks", "nll", "divergence"],
)
@pytest.mark.parametrize("kind", ["index", "probability"])
@pytest.mark.parametrize("left", [3, 2, 1, 0])
def test_a_target_at_minus_infinity_costs_infinity(balance: str | Tensor, inner: Any, kind: str, left: int) -> None:
    logits = torch.full((2, 4), -torch.inf)
    logits[0, 1 : 1 + left], logits[1] = 0.0, torch.arange(4.0)
    target = torch.tensor([0, 2])
    if kind == "probability":
        target = torch.nn.functional.one_hot(target, 4).float()
    assert log_balanced_cross_entropy(logits, target, balance=balance, inner=inner) == torch.inf
    with pytest.raises(ValueError, match="-inf"):
        log_balanced_cross_entropy(logits, target, balance=balance, inner=inner, validate=True)


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_labels_at_infinite_logits_on_the_right_side_are_free(pool: int | str | None) -> None:
    x = torch.tensor([[torch.inf, -torch.inf, 0.5]], requires_grad=True)
    target = torch.tensor([[1, 0, 1]])
    ids = torch.tensor([[0, 1, 0]]) if pool == "ids" else pool or "sample"
    loss = multilabel_cross_entropy(x, target, pool=ids, reduction="sum")
    assert loss.item() == pytest.approx(math.log1p(math.exp(-0.5)), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, x)
    assert gradient[0, :2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("label", [4, 100, -1, -101, 2**40])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_an_index_out_of_range_is_an_error(label: int, smoothing: float) -> None:
    target = torch.tensor([0, label, 2])
    with pytest.raises(ValueError, match=rf"target holds class {label}, but there are 4 classes, 0 to 3"):
        log_balanced_cross_entropy(torch.zeros(3, 4), target, label_smoothing=smoothing)
    # An ignored set may hold anything.
    weight = torch.tensor([1.0, 0.0, 1.0])
    if label == -1:
        log_balanced_cross_entropy(torch.zeros(3, 4), target, ignore_index=-1, sample_weight=weight)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_an_index_out_of_range_is_nan_where_nobody_looks(smoothing: float) -> None:
    """As on a GPU, where looking would be a wait: in vmap no value can be looked at."""
    targets = torch.tensor([[0, 4, 2], [0, 1, 2], [0, -1, 2], [0, IGNORED, 2]])
    losses = torch.func.vmap(
        lambda target: log_balanced_cross_entropy(torch.zeros(3, 4), target, label_smoothing=smoothing)
    )(targets)
    assert losses.isnan().tolist() == [True, False, True, False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("smallest", [0.0, 1e-45, 1e-38, 1e-8])
def test_tiny_probabilities_have_finite_gradients(dtype: torch.dtype, smallest: float) -> None:
    """Of logits and of targets, through the softmax of a teacher too."""
    target = torch.tensor([[smallest, 1 - smallest, 0.0], [0.5, 0.5, 0.0]]).to(dtype).requires_grad_()
    logits = torch.tensor([[5.0, -3.0, 0.0], [0.0, 0.0, 0.0]], dtype=dtype, requires_grad=True)
    for options in ({"balance": "pair"}, {"balance": "none"}, *({"inner": inner} for inner in INNERS)):
        loss = log_balanced_cross_entropy(logits, target, **options)
        for gradient in torch.autograd.grad(loss, (logits, target)):
            assert gradient.isfinite().all()


@pytest.mark.parametrize("compensation", ["weight", "offset", None])
def test_gradient_of_a_probability_target(compensation: str | None) -> None:
    """w_j (1/p_j - 1) / (D_j + A_j) with w and D held fixed, and 0 where the target is 0."""
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = torch.rand(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    target[0, 0] = target[2] = 0.0
    target[2, 1] = 1.0
    target = (target / target.sum(1, keepdim=True)).requires_grad_()
    loss = log_balanced_cross_entropy(logits, target, compensation=compensation, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, target)
    t = target.detach()
    odds = 1 / logits.softmax(1) - 1
    root = t.sqrt()
    left = (root * (root.sum(1, keepdim=True) - root)).sum(0)
    weight = (1 + left) / (1 + left).mean() if compensation == "weight" else torch.ones(3, dtype=torch.float64)
    offset = left.max() - left if compensation == "offset" else torch.zeros(3, dtype=torch.float64)
    expected = weight * odds / (1 + offset + (t * odds).sum(0))
    torch.testing.assert_close(gradient, torch.where(t > 0, expected, 0.0), **SAME)


def test_gradient_of_a_multilabel_target() -> None:
    """exp(-x) / A+ - exp(x) / A-, each side 0 where its share of the target is."""
    x = torch.tensor([[1.0, -2.0, 0.5, 3.0]], dtype=torch.float64)
    target = torch.tensor([[0.0, 1.0, 0.3, 0.9]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(multilabel_cross_entropy(x, target, reduction="sum"), target)
    t = target.detach()
    yes = (-x).exp() / (1 + (t * (-x).exp()).sum())
    no = x.exp() / (1 + ((1 - t) * x.exp()).sum())
    torch.testing.assert_close(gradient, torch.where(t > 0, yes, 0.0) - torch.where(t < 1, no, 0.0), **SAME)


@pytest.mark.parametrize("case", cases(without="always compensated"))
def test_gradient_of_a_sample_weight(case: Case) -> None:
    """Its share of the threats: sum_i v_i dL/dv_i is the derivative of the loss when all weights grow together."""
    row = case.in_a_row(case.inputs())
    weight = row.options.get("sample_weight", torch.ones(len(row.logits), dtype=torch.float64))
    if "compensated" in case.tags:
        row = row.with_options(compensation=None)  # R grows with the weights too, but is held fixed
    weight = weight.clone().requires_grad_()
    loss = case.loss(row.with_options(sample_weight=weight), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, weight)
    step = 1e-6
    more, less = (
        case.loss(row.with_options(sample_weight=weight.detach() * (1 + sign * step)), reduction="sum")
        for sign in (1, -1)
    )
    # A central difference is off by step^2 and by rounding / step.
    assert float((gradient * weight.detach()).sum()) == pytest.approx(float((more - less) / (2 * step)), rel=1e-7)


def test_a_stopped_teacher_sends_no_nan_to_its_student() -> None:
    """A target from a softmax that underflows to denormals, with gradients on both sides."""
    teacher = torch.tensor([[0.0, -100.0, -103.0, -200.0]], requires_grad=True)
    student = torch.zeros(1, 4, requires_grad=True)
    target = teacher.softmax(1)
    assert (target > 0).sum() >= 2  # denormals are there
    log_balanced_cross_entropy(student, target).backward()
    assert teacher.grad is not None
    assert student.grad is not None
    assert teacher.grad.isfinite().all()
    assert student.grad.isfinite().all()
