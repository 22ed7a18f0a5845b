"""One number chosen on validation rows."""

import pytest
import torch
from benchmarks.quality.tuned import tuned

from equilog.baselines import BinaryCrossEntropy, CrossEntropy


@pytest.mark.parametrize(("metric", "strength"), [("accuracy", 0.0), ("balanced_accuracy", 1.0)])
def test_strength_is_that_of_the_metric(metric, strength):
    """Logits that are the posterior of two overlapping clouds decide best as they are for accuracy, and with the prior
    taken off for balanced accuracy."""
    generator = torch.Generator().manual_seed(0)
    count = torch.tensor([9000.0, 1000.0])
    prior = count / count.sum()

    def drawn():
        target = torch.repeat_interleave(torch.arange(2), count.long())
        x = 2.0 * target + torch.randn(len(target), generator=generator)
        # log-density of the clouds N(0, 1) and N(2, 1), plus the log-prior
        return torch.stack((-(x**2) / 2, -((x - 2) ** 2) / 2), 1) + prior.log(), target

    valid, test = drawn(), drawn()
    found = tuned("multiclass", metric, CrossEntropy(), count, valid, test)
    logits, target = test
    predicted = (logits - strength * prior.log()).argmax(1)
    hits = torch.stack([(predicted == c)[target == c].double().mean() for c in range(2)])
    weight = prior if metric == "accuracy" else torch.full((2,), 0.5)
    # The best strength found on 10,000 rows is near the one in theory, where the curve is flat.
    assert found == pytest.approx(float((weight * hits).sum()), abs=0.01)


def test_threshold_of_labels_is_found():
    target = (torch.arange(200) < 20).long()[:, None].repeat(1, 2)
    logits = torch.where(target > 0, -1.0, -3.0)  # never above 0
    assert (
        tuned("multilabel", "macro_f1", BinaryCrossEntropy(), target.sum(0), (logits, target), (logits, target)) == 1.0
    )
