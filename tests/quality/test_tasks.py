"""The tasks: what they say of themselves is so, and no row is both trained and tested on."""

import pickle

import pytest
import torch
from benchmarks.quality.settings import settings_for
from benchmarks.quality.task import IGNORED
from benchmarks.quality.tasks import all_tasks, fashion

from equilog.compare.errors import DataError
from equilog.compare.judge.metrics import METRICS, metrics_for

TASKS = all_tasks()
each_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())


@each_task
def test_task_is_consistent_and_travels(task):
    settings_for(task.kind, task.settings)
    assert len(set(task.settings)) == len(task.settings)
    assert task.metric in metrics_for(task.kind)
    assert task.judged_by is METRICS[task.metric]
    assert 0 < task.correlation < 1
    assert pickle.loads(pickle.dumps(task)).name == task.name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fashion-100", "digits-50", "flares", "bananas-50", "yeast", "tags", "attributes"])
def test_split_is_the_seeds_own_and_fits_the_model(name):
    task = TASKS[name]
    try:
        split = task.load(0)
    except DataError as error:
        pytest.skip(str(error))
    again, other = task.load(0), task.load(1)
    assert torch.equal(split.train.features, again.train.features)
    assert not (len(split.train) == len(other.train) and torch.equal(split.train.features, other.train.features))
    torch.manual_seed(0)
    given = task.model(split)(split.test.features[:3])
    heads = (given,) if isinstance(given, torch.Tensor) else given
    for logits, target, classes in zip(heads, split.test.targets, split.classes, strict=True):
        assert logits.shape[1] == classes
        sets = target.shape[1:] if task.kind == "multiclass" else ()
        assert logits.shape[2:] == sets
        if task.kind == "multiclass":
            kept = target[target != IGNORED]
            assert kept.min() >= 0
            assert kept.max() < classes


@pytest.fixture(scope="module")
def garments():
    try:
        fashion.images("train")
    except DataError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("garments")
def test_garments_fall_by_the_imbalance_and_the_order_is_the_seeds():
    first, second = (fashion.draw(seed, 100) for seed in (0, 1))
    count = torch.bincount(first.train.targets[0])
    assert (count[0], count[-1]) == (1000, 10)
    assert (count.diff() < 0).all()
    assert torch.bincount(first.valid.targets[0]).tolist() == [100] * 10
    assert not torch.equal(first.test.targets[0], second.test.targets[0])
    drawn = torch.bincount(first.test.targets[0][first.test_as_drawn])
    assert drawn[0] / drawn[-1] == pytest.approx(100, rel=0.15)


@pytest.mark.usefixtures("garments")
def test_a_share_of_the_garments_labels_is_wrong_in_training_only():
    right, wrong = (fashion.draw(3, 10, flipped=share) for share in (0.0, 0.4))
    assert torch.equal(right.train.features, wrong.train.features)
    flipped = (right.train.targets[0] != wrong.train.targets[0]).float().mean()
    assert flipped == pytest.approx(0.4, abs=0.03)  # 4,085 draws: a deviation of 0.008
    for part in ("valid", "test"):
        assert torch.equal(getattr(right, part).targets[0], getattr(wrong, part).targets[0])
