"""Balanced decisions are balanced whatever the pool: prior and class mass together must not overshoot."""

import pytest
import torch
from torch import Tensor

from equilog import LogBalancedCrossEntropyLoss

RATE = torch.tensor([[0.90, 0.08, 0.02], [0.70, 0.10, 0.20], [0.50, 0.45, 0.05]], dtype=torch.float64)
"""P(class | context) of three contexts, equally frequent, whose classes overlap."""
ROWS = 30_000


@pytest.fixture(scope="module")
def drawn() -> tuple[Tensor, Tensor]:
    """Contexts (n,) and labels (n,) that have exactly the rates above."""
    count = (RATE * ROWS / 3).round().long()
    context = torch.arange(3).repeat_interleave(count.sum(1))
    label = torch.cat([torch.arange(3).repeat_interleave(row) for row in count])
    order = torch.randperm(len(label), generator=torch.Generator().manual_seed(0))
    return context[order], label[order]


@pytest.mark.parametrize("pool", [16, "batch"])
def test_trained_scores_with_a_prior_decide_by_the_posterior_over_the_prior(
    pool: int | str, drawn: tuple[Tensor, Tensor]
) -> None:
    context, label = drawn
    prior = torch.bincount(label).double()
    criterion = LogBalancedCrossEntropyLoss(pool=pool, prior=prior)
    scores = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([scores], max_iter=300, tolerance_grad=1e-13, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = criterion(scores[context], label)
        loss.backward()
        return loss

    optimizer.step(closure)
    logits = scores.detach()
    calibration = criterion.calibrate(logits[context], label)

    balanced = RATE / prior * prior.mean()
    balanced = balanced / balanced.sum(1, keepdim=True)
    # One order of 30,000 rows is a sample of all pools of 16 there could be: a percent, not digits.
    assert (calibration.probabilities(logits, "balanced") - balanced).abs().max() < 0.02
    assert (calibration.probabilities(logits, "posterior") - RATE).abs().max() < 0.02
    assert calibration.predict(logits).tolist() == balanced.argmax(1).tolist()
    # The bare logits alone overshoot: that is what there is to correct.
    bare = criterion.probabilities(logits)
    assert (bare - balanced).abs().max() > (0.1 if pool == "batch" else 0.0)
