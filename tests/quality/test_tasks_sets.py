"""Nine choices of grammar a row in one tensor of logits."""

from dataclasses import replace

import pytest
import torch
from benchmarks.quality.tasks import sets
from benchmarks.quality.train import answers, fit

from equilog import log_balanced_cross_entropy
from equilog.compare.errors import DataError

(TASK,) = sets.TASKS


@pytest.fixture(scope="module")
def split():
    try:
        return TASK.load(0)
    except DataError as error:
        pytest.skip(str(error))


def test_rows_are_split_once(split):
    assert [len(part) for part in (split.train, split.valid, split.test)] == [3600, 600, 1800]
    (counts,) = split.counts("multiclass")
    assert counts.class_count.min() >= 3
    assert counts.rows == 3600 * 9
    ratio = float(counts.class_count.max() / counts.class_count.min())
    assert TASK.imbalance / 1.5 < ratio < TASK.imbalance * 1.5


def test_each_set_has_classes_of_its_own(split):
    model = TASK.model(split).eval()
    logits = model(split.test.features[:50]).detach()
    target = split.test.targets[0][:50]
    assert logits.shape == (50, 51, 9)
    assert (logits.isfinite().sum(2) == 1).all()
    assert logits.gather(1, target[:, None]).isfinite().all()
    # No class is in two sets of a row, so nothing meets in a log over one row.
    alone = log_balanced_cross_entropy(logits, target, pool=1, reduction="sum")
    torch.testing.assert_close(log_balanced_cross_entropy(logits, target, pool="sample", reduction="sum"), alone)
    pooled = log_balanced_cross_entropy(logits, target, pool=144, reduction="sum")
    assert float(pooled) < 0.8 * float(alone)


def test_two_epochs_are_better_than_the_commonest_values(split):
    model, (criterion,) = fit(replace(TASK, epochs=2), split, "class-144-none", 0, 3e-3, 1e-2)
    (logits,) = answers(model, split.test)
    (target,) = split.test.targets
    common = split.train.targets[0].mode(0).values.expand_as(target)
    wrong = [(guess != target).float().mean(0) for guess in (criterion.predict(logits), common)]
    # Of every attribute but the degree, which one word in a hundred has.
    assert (wrong[0] <= wrong[1] + 0.005).all()
    assert wrong[0].mean() < 0.6 * wrong[1].mean()
