"""Tagged words: what the treebank says, and that the tagger learns from it."""

from dataclasses import replace
from importlib.metadata import PackageNotFoundError

import pytest
import torch
from benchmarks.quality import words
from benchmarks.quality.task import IGNORED
from benchmarks.quality.tasks import tokens
from benchmarks.quality.train import answers, fit
from benchmarks.quality.treebank import sentences
from benchmarks.quality.words import PARTS, Tagger, Vocabulary
from sklearn.metrics import f1_score

from equilog.compare.errors import DataError

TASKS = {task.name: task for task in tokens.TASKS}


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[pytest.mark.slow] * (name != "tags")) for name in TASKS]
)
def task(request):
    return TASKS[request.param]


@pytest.fixture(scope="module")
def split(task):
    try:
        return task.load(0)
    except DataError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def web():
    try:
        return sentences("web", 24)
    except DataError as error:
        pytest.skip(str(error))


def test_files_are_read_as_they_are_written(web):
    first = web[0]
    assert [token.form for token in first] == ["Burda", "da", "öylemi", "yoksa", "kiloyla", "mı", "?"]
    assert [token.tag for token in first] == ["PRD", "RPC", "NOMP", "CC", "NOMP", "RPQ", "."]
    assert first[0].value("Case") == "Loc"
    assert first[1].value("Case") == "none"
    # An attribute that comes twice is the word's own first, then that of what was made of it.
    assert [value for name, value in first[2].features if name == "PersonNumber"] == ["A3sg", "V3sg"]
    assert first[2].value("PersonNumber") == "A3sg"
    assert first[3].parts == ["yoksa", "1-a", "2-sa", "3-ksa", "4-oksa", "5-yoksa", "y-", "yok-", "False True False"]


def test_missing_package_is_named(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(words, "files", missing)
    with pytest.raises(DataError, match=r"pip install 'equilog\[data\]'"):
        sentences.__wrapped__("web", 24)


@pytest.mark.usefixtures("web")
def test_no_sentence_is_in_two_parts(monkeypatch):
    seen = []
    padded = Vocabulary.padded
    monkeypatch.setattr(
        Vocabulary, "padded", lambda self, chosen, length: seen.append(chosen) or padded(self, chosen, length)
    )
    split = tokens.draw(1, tokens.WEB, (tokens.tag,))
    parts = [{id(sentence) for sentence in chosen} for chosen in seen]
    assert [len(part) for part in parts] == [len(split.train), len(split.valid), len(split.test)]
    assert len(set.union(*parts)) == sum(map(len, parts))
    # What is written the same is another matter: as good as none is.
    forms = [{tuple(token.form for token in sentence) for sentence in chosen} for chosen in seen]
    assert len(forms[0] & forms[2]) <= 0.01 * len(forms[2])


def test_every_class_is_trained_on_and_unequal_as_stated(task, split):
    for counts, target in zip(split.counts("multiclass"), split.train.targets, strict=True):
        assert counts.class_count.min() >= 3
        assert ((target == IGNORED) | (target < len(counts.class_count))).all()
    if task.imbalance is not None:
        (counts,) = split.counts("multiclass")
        ratio = float(counts.class_count.max() / counts.class_count.min())
        assert task.imbalance / 1.5 < ratio < task.imbalance * 1.5


def test_padding_has_no_target(split):
    padding = split.train.features[:, :, 0] == 0
    for target in split.train.targets:
        assert (target[padding] == IGNORED).all()
        # Of the words that are there, few have a value too rare to be a class.
        assert (target[~padding] == IGNORED).float().mean() < 0.02


def test_four_of_five_words_are_underived():
    try:
        split = TASKS["derivations"].load(0)
    except DataError as error:
        pytest.skip(str(error))
    (counts,) = split.counts("multiclass")
    assert 0.75 < float(counts.class_count.max()) / counts.rows < 0.87


def test_logits_do_not_depend_on_the_other_sentences_of_a_batch():
    torch.manual_seed(0)
    tagger = Tagger(50, (4, 3)).eval()
    parts = torch.randint(1, 50, (2, 9, PARTS))
    parts[0, 5:] = 0
    together, alone = tagger(parts), tagger(parts[:1])
    for both, one in zip(together, alone, strict=True):
        assert both.shape == (2, both.shape[1], 9)
        torch.testing.assert_close(both[:1, :, :5], one[:, :, :5], rtol=1e-5, atol=1e-6)
        assert (one[:, :, 5:] == 0).all()


def test_three_epochs_are_better_than_the_commonest_tags(split, task):
    small = replace(split, train=split.train.take(torch.arange(400)), test=split.test.take(torch.arange(200)))
    short = replace(task, epochs=3, model=lambda _: task.model(split))  # which knows the words of all
    model, criteria = fit(short, small, "class-sample-none", 0, 2e-2, 1e-2)
    scores = []
    for criterion, logits, target in zip(criteria, answers(model, small.test), small.test.targets, strict=True):
        kept = target != IGNORED
        truth, predicted = target[kept], criterion.predict(logits)[kept]
        common = torch.full_like(truth, int(truth.mode().values))
        scores.append([f1_score(truth, guess, average="macro") for guess in (predicted, common)])
    ours, commonest = torch.tensor(scores).mean(0)
    assert ours > 1.5 * commonest
