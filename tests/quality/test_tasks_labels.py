"""Several yes/no labels a row."""

from dataclasses import replace

import pytest
import torch
from benchmarks.quality.tasks import labels
from benchmarks.quality.train import answers, fit
from sklearn.metrics import average_precision_score

from equilog.compare.errors import DataError

TASKS = {task.name: task for task in labels.TASKS if not task.name.endswith("-order")}


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[pytest.mark.slow] * (name != "yeast")) for name in TASKS]
)
def task(request):
    return TASKS[request.param]


@pytest.fixture(scope="module")
def split(task):
    try:
        return task.load(0)
    except DataError as error:
        pytest.skip(str(error))


def test_every_label_is_trained_and_tested_on_and_unequal_as_stated(task, split):
    (counts,) = split.counts("multilabel")
    assert split.classes == (14 if task.name == "yeast" else 58,)
    assert counts.class_count.min() >= 10
    ratio = float(counts.class_count.max() / counts.class_count.min())
    assert task.imbalance / 1.5 < ratio < task.imbalance * 1.5
    assert (split.test.targets[0].sum(0) > 0).all()
    for part in (split.train, split.valid, split.test):
        assert part.targets[0].unique().tolist() == [0, 1]


def test_no_gene_is_in_two_parts():
    try:
        split = TASKS["yeast"].load(0)
    except DataError as error:
        pytest.skip(str(error))
    rows = torch.cat([part.features for part in (split.train, split.valid, split.test)])
    assert len(rows) == len(labels.genes().target)
    assert len(rows.unique(dim=0)) == len(rows)


def test_words_have_their_forms_and_their_neighbours():
    try:
        split = TASKS["forms"].load(0)
    except DataError as error:
        pytest.skip(str(error))
    features = split.train.features
    nothing = features[:, :, 0] == 0
    assert not nothing[:, 1].any()
    # A sentence has one first and one last word: the neighbour before is missing as often as the one after.
    assert nothing[:, 0].sum() == nothing[:, 2].sum() == labels.SENTENCES[0]
    inside = ~nothing[1:, 0]
    assert torch.equal(features[1:, 0][inside], features[:-1, 1][inside])
    assert 2 < split.train.targets[0].sum(1).float().mean() < 4


def test_two_epochs_order_better_than_chance(task, split):
    model, _ = fit(replace(task, epochs=2), split, "labels-batch", 0, 3e-3, 1e-2)
    (logits,) = answers(model, split.test)
    (target,) = split.test.targets
    found = average_precision_score(target, logits, average="macro")
    chance = float(target.float().mean())
    assert found > (1.2 if task.name == "yeast" else 3) * chance
