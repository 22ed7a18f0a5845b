"""Baselines for separate yes/no labels: what their papers say of them."""

import math

import pytest
import torch
from tests.baselines.cases import batch
from torch.nn import functional as F

from equilog.baselines import Asymmetric, BinaryCrossEntropy, TwoWay


@pytest.mark.parametrize("same", [BinaryCrossEntropy(), Asymmetric(gamma_neg=0.0, gamma_pos=0.0, clip=0.0)])
def test_reduces_to_binary_cross_entropy(same):
    logits, target = batch(same)
    soft = torch.rand(8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for t in (target, target.bool(), soft):
        expected = F.binary_cross_entropy_with_logits(logits, t.double())
        torch.testing.assert_close(same(logits, t), expected)


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
