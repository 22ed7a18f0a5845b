"""Blocks of labels add up to their pools, in value and gradient, and leave little behind."""

import pytest
import torch
from torch import Tensor

from equilog import multilabel_cross_entropy
from equilog.ops import LabelSums, dispatch, pooled_label_terms
from equilog.ops.label_terms import chunked
from ops.memory import Largest


@pytest.mark.parametrize("pool", [1, 3, 8, 21])
@pytest.mark.parametrize("inner", ["nll", "power", "divergence"])
def test_blocks_of_few_labels_are_the_formula(inner: str, pool: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of several pools, of one, and of a part of one."""
    monkeypatch.setattr(chunked, "_MOST", 8)
    generator = torch.Generator().manual_seed(0)
    logits, target = (torch.randn(21, generator=generator, dtype=torch.float64) for _ in range(2))
    target = target.clamp(0, 1)
    weight = torch.rand(21, generator=generator, dtype=torch.float64).round(decimals=1)
    weight[:3] = 0.0
    logits[1] = torch.nan
    upstream = torch.randn(-(-21 // pool), 2, generator=generator, dtype=torch.float64)

    def outcome(way: str) -> tuple[Tensor, Tensor]:
        x = logits.clone().requires_grad_()
        with dispatch.only(way):
            sums = pooled_label_terms(x, target, weight, LabelSums(pool, 0.7, inner))[0]
            (gradient,) = torch.autograd.grad(sums, x, upstream)
        return sums.detach(), gradient

    for found, expected in zip(outcome("chunked"), outcome("reference"), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_many_labels_leave_nothing_of_their_size_but_the_gradient() -> None:
    """Of hard labels, of which nothing is compensated."""
    n = 2**20
    x, target = torch.zeros(n, requires_grad=True), torch.zeros(n, dtype=torch.bool)
    with Largest(4 * n, x, target) as largest:
        multilabel_cross_entropy(x, target, inner="nll").backward()
    assert largest.made == [4 * n]
