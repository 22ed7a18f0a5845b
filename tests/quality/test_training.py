"""One training of the study: the loop, what is read off the model, and the losses that only the study has."""

from dataclasses import replace

import pytest
import torch
from benchmarks.quality.criteria import DeferredReweighting, Truncated
from benchmarks.quality.score import run
from benchmarks.quality.settings import LABEL_PEERS, PEERS, SETTINGS, settings_for
from benchmarks.quality.task import IGNORED
from benchmarks.quality.train import answers, fit
from sklearn.metrics import balanced_accuracy_score, f1_score
from tests.quality.toys import SENTENCES, SOFT, TOY, clouds
from torch.nn import functional as F

from equilog.article import truncated
from equilog.baselines import LDAM, ClassBalanced
from equilog.baselines.registry import TargetCounts

COUNT = torch.tensor([100.0, 30.0, 7.0])


def logits_and_target(rows: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    return logits, torch.arange(rows) % 3


@pytest.mark.parametrize("task", [TOY, SOFT, SENTENCES], ids=lambda task: task.name)
def test_same_seed_gives_the_same_record(task):
    first, second = (run(task, task.load(3), task.settings[-1], 3, 0.05, 0.01) for _ in range(2))
    first.pop("seconds"), second.pop("seconds")
    assert first == second


def test_settings_of_one_seed_start_from_the_same_weights():
    untrained = replace(TOY, epochs=0)
    split = TOY.load(0)
    weights = [fit(untrained, split, setting, 5, 0.1, 0.0)[0].weight for setting in TOY.settings]
    other_seed = fit(untrained, split, TOY.settings[0], 6, 0.1, 0.0)[0].weight
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], other_seed)


def test_training_lowers_the_loss():
    split = TOY.load(0)
    losses = []
    for epochs in (0, 8):
        model, (criterion,) = fit(replace(TOY, epochs=epochs), split, "cross-entropy", 0, 0.1, 0.0)
        losses.append(criterion(model(split.train.features), split.train.targets[0]).item())
    assert losses[1] < losses[0] - 0.1


def test_metrics_are_scikit_learns_on_the_models_decisions():
    split = TOY.load(1)
    record = run(TOY, split, "cross-entropy", 1, 0.1, 0.0)
    model, _ = fit(TOY, split, "cross-entropy", 1, 0.1, 0.0)
    for name, rows in (("valid", split.valid), ("test", split.test)):
        decided = model(rows.features).argmax(1)
        given = record[name] if name == "valid" else record[name]["balanced_accuracy"]
        assert given == pytest.approx(balanced_accuracy_score(rows.targets[0], decided), rel=1e-4)
    assert record["test"]["balanced_accuracy"] == pytest.approx(sum(record["recall"]) / 3, rel=1e-4)


def test_ignored_positions_are_not_scored():
    split = SENTENCES.load(0)
    record = run(SENTENCES, split, "cross-entropy", 0, 0.1, 0.0)
    model, _ = fit(SENTENCES, split, "cross-entropy", 0, 0.1, 0.0)
    target = split.test.targets[0]
    decided = model(split.test.features).argmax(1)
    kept = target != IGNORED
    assert not kept.all()
    assert record["test"]["macro_f1"] == pytest.approx(f1_score(target[kept], decided[kept], average="macro"), rel=1e-4)
    assert split.counts("multiclass")[0].rows == int((split.train.targets[0] != IGNORED).sum())


def test_overflow_answers_0_and_minus_infinity_stays():
    split = clouds(0)
    model, _ = fit(TOY, split, "cross-entropy", 0, 0.1, 0.0)
    with torch.no_grad():
        model.bias.copy_(torch.tensor([torch.nan, torch.inf, -torch.inf]))
    (logits,) = answers(model, split.test)
    assert (logits[:, :2] == 0).all()
    assert (logits[:, 2] == -torch.inf).all()


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_built_and_trains(name):
    setting = SETTINGS[name]
    for kind in sorted(setting.kinds):
        criterion = setting.build(TargetCounts(COUNT.double(), 137))
        logits, target = logits_and_target()
        given = {"multiclass": target, "multilabel": F.one_hot(target, 3), "soft": F.one_hot(target, 3).double()}[kind]
        z = logits.requires_grad_()
        criterion(z, given).backward()
        assert z.grad.isfinite().all()
        assert (z.grad != 0).any()


def test_settings_are_checked_against_the_kind_of_the_task():
    assert [setting.name for setting in settings_for("multiclass", PEERS)] == list(PEERS)
    assert [setting.name for setting in settings_for("multilabel", LABEL_PEERS)] == list(LABEL_PEERS)
    with pytest.raises(ValueError, match="'focal' does not fit soft targets"):
        settings_for("soft", ("focal",))
    with pytest.raises(ValueError, match="No setting is called 'fokal'"):
        settings_for("multiclass", ("fokal",))


def test_deferred_reweighting_weighs_the_classes_at_the_end_of_training_only():
    criterion = DeferredReweighting(COUNT)
    margins = LDAM(COUNT, max_margin=1.0, scale=5.0)
    logits, target = logits_and_target()
    weight = ClassBalanced(COUNT, beta=0.9999).weight
    assert criterion(logits, target) == margins(logits, target)
    criterion.progress = 0.8
    assert criterion(logits, target) == margins(logits, target, sample_weight=weight[target])
    ignored = target.clone()
    ignored[0] = IGNORED
    torch.testing.assert_close(criterion(logits, ignored), criterion(logits[1:], target[1:]))


def test_truncated_setting_is_the_articles_loss_with_the_prior_added():
    logits, target = logits_and_target()
    log_prior = (COUNT / COUNT.sum()).double().log()
    expected = truncated(logits + log_prior, target, 4)
    torch.testing.assert_close(Truncated(COUNT, 4)(logits, target), expected, rtol=1e-6, atol=0)  # prior in float32
    posterior = Truncated(COUNT, 4).probabilities(logits, "posterior")
    torch.testing.assert_close(posterior, (logits + log_prior).softmax(1), rtol=1e-6, atol=1e-7)
