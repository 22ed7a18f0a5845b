"""Every loss of the registry builds, trains and predicts."""

import pytest
import torch

from equilog.baselines.registry import LOSSES, TargetCounts, Task, losses_for


@pytest.mark.parametrize(
    ("name", "task"), [(entry.name, task) for entry in LOSSES.values() for task in sorted(entry.tasks)]
)
def test_every_entry_builds_trains_and_predicts(name, task: Task):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(60, 4, generator=generator).requires_grad_()
    match task:
        case "multiclass":
            target = torch.multinomial(torch.tensor([0.7, 0.2, 0.06, 0.04]), 60, replacement=True, generator=generator)
            count = torch.bincount(target, minlength=4).double()
        case "soft":
            target = torch.randn(60, 4, generator=generator).softmax(1)
            count = target.double().sum(0)
        case "multilabel":
            target = (torch.rand(60, 4, generator=generator) < 0.3).long()
            count = target.double().sum(0)
    criterion = LOSSES[name].build(TargetCounts(class_count=count, rows=60))
    assert name in losses_for(task)
    assert criterion.multilabel == (task == "multilabel")

    value = criterion(logits, target, sample_weight=torch.ones(60))
    assert value.shape == ()
    value.backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad != 0).any()

    trained = (logits - 1e-2 * logits.grad / logits.grad.abs().max()).detach()
    assert criterion(trained, target) < criterion(logits, target)
    calibration = criterion.calibrate(trained, target)
    for kind in ("balanced", "posterior"):
        prob = calibration.probabilities(trained, kind)
        assert prob.shape == (60, 4)
        assert ((prob >= 0) & (prob <= 1)).all()
        if not criterion.multilabel:
            torch.testing.assert_close(prob.sum(1), torch.ones(60))
    prob = calibration.probabilities(trained)
    decided = (prob > 0.5).long() if criterion.multilabel else prob.argmax(1)
    assert torch.equal(calibration.predict(trained), decided)
