"""Pools by ids: of whole samples, they are what the same id for each set of a sample is."""

from typing import Any

import pytest
import torch
from torch import Tensor

from equilog import log_balanced_cross_entropy, multilabel_cross_entropy

IDS = torch.tensor([0, 3, 1, 1, 0, 3])
WEIGHT = torch.tensor([0.5, 0.0, 2.0, 1.0, 1.0, 3.0], dtype=torch.float64)
MASK = torch.arange(30).view(6, 5) % 3 != 0


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", [{}, {"sample_weight": WEIGHT}, {"mask": MASK}], ids=str)
def test_ids_of_samples_are_ids_of_their_labels(reduction: Any, options: dict[str, Any]) -> None:
    logits = drawn(6, 5)
    target = logits.detach().roll(1, 1) > 0.5
    found, expected = (
        multilabel_cross_entropy(logits, target, pool=ids, reduction=reduction, **options)
        for ids in (IDS, IDS[:, None].expand(6, 5))
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    gradients = (torch.autograd.grad(loss.sum(), logits)[0] for loss in (found, expected))
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("options", [{}, {"sample_weight": WEIGHT}, {"label_smoothing": 0.1}], ids=str)
def test_ids_of_samples_are_ids_of_their_positions(reduction: Any, options: dict[str, Any]) -> None:
    """Of which some are ignored, of one sample all."""
    logits = drawn(6, 3, 5)
    target = torch.where(MASK & (torch.arange(6) != 4)[:, None], logits.detach().argmax(1), -100)
    found, expected = (
        log_balanced_cross_entropy(logits, target, pool=ids, reduction=reduction, **options)
        for ids in (IDS, IDS[:, None].expand(6, 5))
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
