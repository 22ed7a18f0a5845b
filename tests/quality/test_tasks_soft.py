"""Targets that are distributions."""

from dataclasses import replace

import pytest
import torch
from benchmarks.quality.tasks import fashion, soft
from benchmarks.quality.train import answers, fit

from equilog.compare.errors import DataError

TASKS = {task.name: task for task in soft.TASKS}


def loaded(name):
    try:
        return TASKS[name].load(0)
    except DataError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", autouse=True)
def short_teacher():
    """A third of the lessons do for what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(soft, "TEACHER", replace(soft.TEACHER, epochs=2))
        soft.teacher.cache_clear()
        yield
    soft.teacher.cache_clear()


def cross_entropy(target, prob):
    return float(-torch.xlogy(target, prob).sum(1).mean())


@pytest.fixture(scope="module")
def taught():
    return loaded("distil-linear")


@pytest.mark.parametrize("name", ["ratings", pytest.param("distil-mlp-50", marks=pytest.mark.slow), "smoothing-50"])
def test_targets_are_distributions(name):
    split = loaded(name)
    for part in (split.train, split.valid, split.test):
        (target,) = part.targets
        assert target.shape == (len(part), split.classes[0])
        assert (target >= 0).all()
        torch.testing.assert_close(target.sum(1), torch.ones(len(part)), rtol=1e-5, atol=0)


def test_no_word_is_in_two_parts_and_each_was_rated_by_ten():
    split = loaded("ratings")
    assert sum(len(part) for part in (split.train, split.valid, split.test)) == len(soft.lexicon().target)
    votes = 10 * split.test.targets[0]
    torch.testing.assert_close(votes, votes.round(), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_teacher_knows_what_it_teaches_and_is_not_certain(taught):
    truth = fashion.draw(0, 1, head=300).test.targets[0]
    target = taught.test.targets[0]
    assert (target.argmax(1) == truth).float().mean() > 0.8
    assert 0.3 < cross_entropy(target, target) < 1.5  # nats, of 2.3


@pytest.mark.slow
def test_students_rows_are_none_that_the_teacher_is_judged_on(taught):
    trained = soft.TEACHER.load(0).train.features.unique(dim=0)
    for part in (taught.valid, taught.test):
        rows = torch.cat((trained, part.features.unique(dim=0)))
        assert len(rows) - len(rows.unique(dim=0)) <= 2  # the file holds a few images twice


@pytest.mark.slow
def test_student_learns_from_the_teacher(taught):
    task = TASKS["distil-linear"]
    model, (criterion,) = fit(replace(task, epochs=2), taught, "class-batch-none", 0, 1e-2, 1e-2)
    calibration = criterion.calibrate(*answers(model, taught.train), taught.train.targets[0])
    (logits,) = answers(model, taught.test)
    (target,) = taught.test.targets
    mean = taught.train.targets[0].mean(0).expand_as(target)
    entropy = cross_entropy(target, target)
    student = cross_entropy(target, calibration.probabilities(logits, "posterior"))
    assert student - entropy < 0.3 * (cross_entropy(target, mean) - entropy)


def test_smoothing_is_of_the_training_labels_alone():
    split = loaded("smoothing-50")
    assert split.test.targets[0].unique().tolist() == [0.0, 1.0]
    hard = fashion.draw(0, 50).train.targets[0]
    train = split.train.targets[0]
    assert torch.equal(train.argmax(1), hard)
    torch.testing.assert_close(train.amax(1), torch.full((len(train),), 0.91))
    torch.testing.assert_close(train.amin(1), torch.full((len(train),), 0.01))
    count = torch.bincount(hard)
    assert count.max() / count.min() == pytest.approx(50, rel=0.05)


def test_every_second_row_is_a_mixture_of_two():
    split = loaded("mixup-50")
    (train,) = split.train.targets
    hard, mixed = train.chunk(2)
    assert hard.unique().tolist() == [0.0, 1.0]
    torch.testing.assert_close(mixed.sum(1), torch.ones(len(mixed)))
    assert (mixed > 0).sum(1).max() == 2
    assert 0.3 < float((mixed.amax(1) < 1).float().mean()) < 0.9  # two rows may be of one class
    assert split.test.targets[0].unique().tolist() == [0.0, 1.0]
