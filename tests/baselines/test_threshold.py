"""Binary cross-entropy with a threshold chosen after training."""

import torch
from sklearn.metrics import f1_score

from equilog.baselines import TunedThreshold


def test_tuned_threshold_is_the_best_for_macro_f1_and_leaves_the_posterior():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 5, generator=generator, dtype=torch.float64)
    target = (logits + torch.randn(200, 5, generator=generator) > torch.tensor([0.5, 1.0, 1.5, 2.0, 9.0])).long()
    assert target[:, 4].sum() == 0
    calibration = TunedThreshold().calibrate(logits, target)

    def macro_f1(threshold):
        return f1_score(target[:, :4], (logits[:, :4] > threshold).long(), average="macro")

    chosen = f1_score(target[:, :4], calibration.predict(logits)[:, :4], average="macro")
    # Between the candidates lie a few rows each, so that a finer search gains little.
    assert chosen > max(macro_f1(threshold) for threshold in torch.linspace(-2, 2, 100)) - 0.01
    assert chosen > macro_f1(0.0) + 0.02
    assert torch.equal(calibration.probabilities(logits, "posterior"), logits.sigmoid())
