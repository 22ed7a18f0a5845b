"""The chunked sums of odds of the CPU against the formula: chunks' and pools' borders, limits, derivatives."""

import pytest
import torch
from torch import Tensor

from equilog import log_balanced_cross_entropy
from equilog.ops import pooled_class_log_odds
from equilog.ops.soft_odds import chunked, reference


def drawn(n: int, classes: int = 5, size: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, targets with a 0 and a 1 among them, and log weights with an ignored set."""
    generator = torch.Generator().manual_seed(n + classes)
    z = size * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    target = (2 * torch.randn(n, classes, generator=generator, dtype=torch.float64)).softmax(1)
    target[n // 2] = torch.nn.functional.one_hot(torch.tensor(1), classes)
    log_weight = torch.randn(n, generator=generator, dtype=torch.float64)
    log_weight[n // 3] = -torch.inf
    return z.requires_grad_(), target, log_weight


@pytest.mark.parametrize("size", [3.0, 1e3, 1e5])
@pytest.mark.parametrize("pool", [11, 1, 2, 4, 5, 20])
@pytest.mark.parametrize("rows", [1, 3, 4, 100])
def test_borders_of_chunks_and_pools_do_not_show(
    rows: int, pool: int, size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With scores close to each other, and so far apart that the formula in logarithms must step in."""
    z, target, log_weight = drawn(11, size=size)
    monkeypatch.setattr(chunked, "_CHUNK_BYTES", rows * 5 * z.element_size())
    found = pooled_class_log_odds(z, target, log_weight, pool, False)[0]
    expected = reference.log_sums(z, target, log_weight, pool)
    # Scores of 1e5 are themselves rounded to 1e-11.
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15 * size)
    upstream = expected.detach().sigmoid() * torch.linspace(-1, 1, 5, dtype=torch.float64)  # as through log(1 + X)
    torch.testing.assert_close(
        torch.autograd.grad(found, z, upstream)[0],
        torch.autograd.grad(expected, z, upstream)[0],
        rtol=1e-11,
        atol=1e-14 * size,
    )


@pytest.mark.parametrize("apart", [0.0, 5.0, 15.0, 50.0, 80.0, 200.0])
def test_float32_at_the_border_of_what_is_safe(apart: float) -> None:
    """Confident sets whose odds are far below the last digit of 1, and wrong ones whose odds nearly overflow."""
    right = torch.tensor([[apart, 0.0, -apart / 2]], dtype=torch.float64)
    z = torch.cat([right, -right, right.flip(1)])
    target = torch.tensor([[1.0, 0.0, 0.0], [0.2, 0.5, 0.3], [0.0, 1e-9, 1.0]], dtype=torch.float64)
    zero = torch.zeros(3)
    low, high = z.float().requires_grad_(), z.requires_grad_()
    found = pooled_class_log_odds(low, target.float(), zero, 1, False)[0]
    expected = reference.log_sums(high, target.float().double(), zero.double(), 1)
    mass, exact = (torch.nn.functional.softplus(sums) for sums in (found, expected))  # the log of 1 + the sum
    torch.testing.assert_close(mass.double(), exact, rtol=2e-6, atol=1e-12)
    slope, expected_slope = torch.autograd.grad(mass.sum(), low)[0], torch.autograd.grad(exact.sum(), high)[0]
    torch.testing.assert_close(slope.double(), expected_slope, rtol=1e-5, atol=1e-7)


@pytest.mark.filterwarnings("ignore:.torch.jit.script(_method)?. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("pool", [11, 4])
def test_compiled(pool: int) -> None:
    torch.compiler.reset()

    def log_sums(z: Tensor, target: Tensor, log_weight: Tensor) -> Tensor:
        return pooled_class_log_odds(z, target, log_weight, pool, False)[0]

    compiled = torch.compile(log_sums, backend="aot_eager")
    for size in (3.0, 1e3):
        given = drawn(11, size=size)
        found, expected = compiled(*given), log_sums(*given)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
        upstream = expected.detach().sigmoid()
        gradients = (torch.autograd.grad(sums, given[0], upstream)[0] for sums in (found, expected))
        torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-13)


def test_classes_left_out_and_nan() -> None:
    z, target, log_weight = drawn(6)
    left_out = z.detach().clone()
    left_out[:, 4] = -torch.inf
    target[:, 4] = 0.0
    left_out.requires_grad_()
    found = pooled_class_log_odds(left_out, target, log_weight, 3, False)[0]
    kept = pooled_class_log_odds(left_out[:, :4], target[:, :4], log_weight, 3, False)[0]
    torch.testing.assert_close(found[:, :4], kept)
    assert (found[:, 4] == -torch.inf).all()
    gradient = torch.autograd.grad(found[:, :4].sum(), left_out)[0]
    assert gradient.isfinite().all()
    bad = z.detach().clone()
    bad[0, 0] = torch.nan
    sums = pooled_class_log_odds(bad, target, log_weight, 3, False)[0]
    assert sums[0].isnan().any()
    assert not sums[1].isnan().any()


def test_scores_changed_in_between_are_an_error() -> None:
    z, target, _ = drawn(5)
    scores, log_weight = z * 1.0, torch.zeros(5, dtype=torch.float64)
    sums = pooled_class_log_odds(scores, target, log_weight, 5, False)[0]
    with torch.no_grad():
        scores += 1.0
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        sums.sum().backward()


def test_rows_that_are_no_table_of_their_own() -> None:
    """Classes come before positions; a probability too small for its inverse has the gradient go by logarithms."""
    logits = torch.zeros(1, 3, 8, dtype=torch.float64)
    logits[0, 0, 0] = 800.0
    logits.requires_grad_()
    target = torch.full((1, 3, 8), 1 / 3, dtype=torch.float64)
    log_balanced_cross_entropy(logits, target, pool=4, reduction="sum").backward()
    copied = logits.detach().movedim(1, -1).reshape(8, 3).requires_grad_()
    log_balanced_cross_entropy(copied, target.movedim(1, -1).reshape(8, 3), pool=4, reduction="sum").backward()
    assert logits.grad is not None
    assert copied.grad is not None
    torch.testing.assert_close(logits.grad.movedim(1, -1).reshape(8, 3), copied.grad, rtol=1e-14, atol=0)
    assert logits.grad.isfinite().all()
