"""The benchmark at learning rates nobody tuned trains what it says and tells what came out."""

import json
from dataclasses import replace

import pytest
import torch
from benchmarks.quality.settings import SETTINGS, settings_for
from benchmarks.quality.train import answers, fit
from benchmarks.untuned.__main__ import main
from benchmarks.untuned.cases import CASES, Case
from benchmarks.untuned.plan import BASELINE, LOSSES, OPTIMIZERS
from benchmarks.untuned.report import difference, number
from benchmarks.untuned.run import Result, run
from benchmarks.untuned.summary import summarise
from sklearn.metrics import balanced_accuracy_score
from tests.quality.toys import TOY

from equilog.compare.errors import DataError
from equilog.compare.judge.intervals import estimate

TOY_CASES = [Case("toy", network, replace(TOY, epochs=1)) for network in ("linear", "again")]


def missing(seed: int) -> None:
    raise DataError(f"split {seed} of nothing: install it.")


def test_scores_are_balanced_accuracy_of_each_losss_own_decision():
    (result, *_), left_out = run(TOY_CASES[:1], OPTIMIZERS[1:2], ["class-16-auto"], seeds=2)
    optimizer = OPTIMIZERS[1]
    assert result.setting == ("toy", "linear", optimizer.name, optimizer.learning_rates[0])
    assert left_out == {}
    for seed, score in enumerate(result.scores):
        split = TOY.load(seed)
        model, (criterion,) = fit(
            TOY_CASES[0].task, split, "class-16-auto", seed, optimizer.learning_rates[0], 0.0, optimizer.build
        )
        decided = criterion.predict(answers(model, split.test)[0])
        assert score == balanced_accuracy_score(split.test.targets[0], decided)


def test_optimizers_are_those_they_are_called():
    parameter = torch.nn.Parameter(torch.ones(1))
    plain, momentum, adamw = (each.build([parameter], lr=0.1, weight_decay=each.weight_decay) for each in OPTIMIZERS)
    assert type(plain) is type(momentum) is torch.optim.SGD
    assert (plain.defaults["momentum"], momentum.defaults["momentum"]) == (0, 0.9)
    assert type(adamw) is torch.optim.AdamW
    defaults = [type(each)([parameter]).defaults["weight_decay"] for each in (plain, momentum, adamw)]
    assert [each.weight_decay for each in OPTIMIZERS] == defaults


def test_every_loss_takes_class_indices():
    assert [setting.name for setting in settings_for("multiclass", tuple(LOSSES))] == list(LOSSES)
    assert [SETTINGS[name].ours for name in LOSSES] == [shown.startswith("ours") for shown in LOSSES.values()]
    assert next(iter(LOSSES)) == BASELINE


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.data}, {case.network}")
def test_networks_fit_their_rows_which_are_unequal(case):
    try:
        split = case.task.load(0)
    except DataError as error:
        pytest.skip(str(error))
    counts = torch.bincount(split.train.targets[0])
    assert counts.max() >= 20 * counts.min()
    assert set(split.test.targets[0].tolist()) == set(range(split.classes[0]))
    assert case.task.model(split)(split.train.features[:5]).shape == (5, *split.classes)


def made_up(loss: str, rate: float, scores: list[float], optimizer: str = "SGD") -> Result:
    return Result("digits", "MLP", optimizer, rate, loss, scores)


def test_summary_of_made_up_results():
    results = [
        made_up("cross-entropy", 0.1, [0.5, 0.6]),
        made_up("cross-entropy", 0.01, [0.3, 0.3], "AdamW"),
        made_up("other", 0.1, [0.4, 0.52]),
        made_up("other", 0.01, [0.6, 0.7], "AdamW"),
    ]
    baseline, other = summarise(results, "cross-entropy")
    assert (baseline.loss, baseline.gain, baseline.far_below) == ("cross-entropy", 0, 0)
    assert baseline.mean == pytest.approx(0.425)
    # Of each seed: (-.1 + .3) / 2 and (-.08 + .4) / 2.
    assert other.gain == pytest.approx(0.13)
    low, high = estimate([0.1, 0.16], 0.25)["ci95"]
    assert other.gain_margin == pytest.approx((high - low) / 2)
    assert other.by_optimizer == pytest.approx({"SGD": 0.46, "AdamW": 0.65})
    assert other.worst == pytest.approx(-0.09)
    assert other.worst_setting == ("digits", "MLP", "SGD", 0.1)
    assert other.far_below == 1


def test_one_seed_has_no_margin():
    results = [made_up(loss, 0.1, [0.5]) for loss in ("cross-entropy", "other")]
    assert [(each.gain_margin, each.worst_margin) for each in summarise(results, "cross-entropy")] == [(None, None)] * 2


def test_numbers_are_written_like_those_of_the_readme():
    assert (number(0.5), number(1.0)) == (".500", "1.000")
    assert (difference(-0.0314, 0.01), difference(0.25, None)) == ("-.031 ±.010", "+.250")


def test_page_has_every_loss_and_tells_what_was_left_out(tmp_path, capsys):
    absent = Case("absent", "linear", replace(TOY, load=missing))
    main(["--seeds", "2", "--write", str(tmp_path), "--also", "class-1-auto"], [*TOY_CASES, absent])
    page = (tmp_path / "untuned.md").read_text(encoding="utf-8")
    for shown in (*LOSSES.values(), "class-1-auto"):
        assert f"\n| {shown} | ." in page
    assert "- Left out: absent. split 0 of nothing: install it." in page
    assert "| toy, again | ." in page
    assert "Left out: absent" in capsys.readouterr().out
    data = json.loads((tmp_path / "untuned.json").read_text(encoding="utf-8"))
    rates = sum(len(optimizer.learning_rates) for optimizer in OPTIMIZERS)
    assert len(data["results"]) == 2 * rates * (len(LOSSES) + 1)
    assert all(0 <= score <= 1 for result in data["results"] for score in result["scores"])
    assert data["left out"] == {"absent": "split 0 of nothing: install it."}


def test_unknown_settings_and_nothing_to_train_on_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--also", "klass-16"], TOY_CASES)
    assert "No setting is called 'klass-16'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([], [Case("absent", "linear", replace(TOY, load=missing))])
    assert "nothing to train on: split 0 of nothing" in capsys.readouterr().err
