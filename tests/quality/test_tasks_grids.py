"""Grids of labels: what is yes in them, what is left out, and that a network learns from them."""

from dataclasses import replace

import pytest
import torch
from benchmarks.quality import entities, treebank
from benchmarks.quality.entities import Entity, Morpheme
from benchmarks.quality.settings import SETTINGS
from benchmarks.quality.task import IGNORED
from benchmarks.quality.tasks import grids
from benchmarks.quality.train import answers, fit, loss_of, start_at_prior

from equilog.compare.errors import DataError

TASKS = {task.name: task for task in grids.TASKS}


@pytest.fixture(scope="module")
def split():
    try:
        return TASKS["arcs"].load(0)
    except DataError as error:
        pytest.skip(str(error))


def test_marks_become_entities():
    marks = ["B-LOC", "I-LOC", "I-ORG", "O", "B-DAT", "B-DAT", "I-DAT"]
    sentence = tuple(Morpheme("x", "HIRAG", ("noun",) * 4, mark) for mark in marks)
    assert entities.entities(sentence) == [Entity(0, 1, "LOC"), Entity(4, 4, "DAT"), Entity(5, 6, "DAT")]


def test_words_of_a_sentence_depend_on_each_other(split):
    sentence = treebank.sentences("web", grids.TOKENS)[0]
    marks = grids.arc_marks(sentence)
    assert [(place, relation) for place, head, relation in marks if place == head] == [(4, "root")]
    assert marks[0] == (0, 2, "npadvmod")
    assert split.train.targets[0].shape[1] == len(grids.pairs(grids.TOKENS)) == grids.TOKENS**2


def test_what_is_beyond_a_sentence_is_left_out_and_each_word_depends_once(split):
    (target,) = split.train.targets
    lengths = (split.train.features[:, :, 0] != 0).sum(1)
    kept = target[:, :, 0] != IGNORED
    assert torch.equal(kept.sum(1), lengths**2)
    yes = target == 1
    words = yes.any(2).view(len(target), grids.TOKENS, grids.TOKENS).sum(2)  # heads of each word
    assert words.max() == 1
    assert float(words.sum() / lengths.sum()) > 0.9  # the others have a relation too rare to be a label
    assert TASKS["arcs"].imbalance / 1.3 < float(kept.sum() * target.shape[2] / yes.sum()) < 1.3 * 300


def test_cells_beyond_a_sentence_change_no_loss(split):
    (target,) = split.train.targets
    part, logits = target[:2], torch.randn(2, *target.shape[1:], generator=torch.manual_seed(0))
    other = torch.where(part == IGNORED, 9.0, logits)
    for name in TASKS["arcs"].settings:
        criterion = SETTINGS[name].build(split.counts("multilabel")[0]).eval()
        assert torch.equal(loss_of(criterion, logits, part), loss_of(criterion, other, part)), name


def test_training_starts_at_the_frequencies(split):
    model = TASKS["arcs"].model(split)
    counts = split.counts("multilabel")
    start_at_prior(model, "multilabel", counts)
    share = counts[0].class_count / counts[0].rows
    torch.testing.assert_close(model.head.bias.detach().sigmoid().double(), share, rtol=1e-4, atol=0.0)


def test_from_the_frequencies_two_epochs_find_arcs(split):
    few = replace(split, train=split.train.take(torch.arange(160)), test=split.test.take(torch.arange(40)))
    task = replace(TASKS["arcs"], epochs=2, model=lambda _: TASKS["arcs"].model(split))
    model, _ = fit(task, few, "labels-sample-at-prior", 0, 1e-2, 1e-2)
    (logits,), (target,) = answers(model, few.test), few.test.targets
    best = logits[target != IGNORED].topk(200).indices
    assert (target[target != IGNORED][best] == 1).float().mean() > 0.1  # one in 300 by chance


@pytest.mark.slow
def test_spans_are_split_by_sentence():
    try:
        split = TASKS["spans"].load(0)
    except DataError as error:
        pytest.skip(str(error))
    (target,) = split.train.targets
    assert split.classes == (6,)
    assert 300 < float((target != IGNORED).sum() / (target == 1).sum()) < 1000
