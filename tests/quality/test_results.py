"""From results to statements: pairs by seed, the better is always plus, and the page has no number of its own."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.quality import report
from benchmarks.quality.analysis import Outcome, verdicts
from benchmarks.quality.plan import Plan
from benchmarks.quality.rule import recommended
from benchmarks.quality.store import Key, Store
from benchmarks.quality.tasks import all_tasks
from scipy import stats
from tests.quality.toys import SOFT, TOY

CALIBRATION = {"accuracy": 0.9, "nll": 0.3, "brier": 0.2, "calibration_error": 0.05}


def outcome(task, **values: list[float]) -> Outcome:
    """An outcome whose settings, "-" for "_", have these values of the main metric on seeds 0, 1, ..."""
    return Outcome(
        task,
        {
            setting.replace("_", "-"): {
                seed: {"test": {task.metric: value}, "learning_rate": 0.1, "weight_decay": 0.0,
                       "drawn": CALIBRATION, "tempered": CALIBRATION}
                for seed, value in enumerate(of_seeds)
            }
            for setting, of_seeds in values.items()
        },
    )  # fmt: skip


def test_gain_is_paired_by_seed_with_the_corrected_interval():
    task = replace(TOY, correlation=0.2)
    made = outcome(task, cross_entropy=[0.50, 0.60, 0.70, 0.80], balanced_softmax=[0.53, 0.61, 0.75, 0.83])
    gain = made.gain("balanced-softmax", "cross-entropy")
    assert gain["runs"] == pytest.approx([0.03, 0.01, 0.05, 0.03])
    # Nadeau and Bengio: variance 8e-4 / 3 of the differences, times 1/4 for the seeds and 0.2/0.8 for the shared rows
    half = stats.t(3).ppf(0.975) * (8e-4 / 3 * (1 / 4 + 0.25)) ** 0.5
    assert gain["ci95"] == pytest.approx([0.03 - half, 0.03 + half])


def test_lower_divergence_is_a_gain():
    made = outcome(SOFT, cross_entropy=[0.50, 0.52, 0.51], class_batch_none=[0.40, 0.43, 0.40])
    assert made.gain("class-batch-none", "cross-entropy")["mean"] == pytest.approx(0.1)
    assert made.settings == ["class-batch-none", "cross-entropy"]


def test_seeds_that_one_of_two_lacks_are_left_out_and_too_few_are_no_result():
    made = outcome(TOY, cross_entropy=[0.5, 0.6, 0.7, 0.9], balanced_softmax=[0.6, 0.7, 0.8], class_16_auto=[0.9, 0.9])
    assert made.gains("balanced-softmax", "cross-entropy") == pytest.approx([0.1, 0.1, 0.1])
    assert made.settings == ["balanced-softmax", "cross-entropy"] or made.settings == [
        "cross-entropy", "balanced-softmax"
    ]  # fmt: skip
    assert "class-16-auto" not in made.over_baseline


def test_differences_are_corrected_for_their_number():
    task = replace(TOY, settings=("cross-entropy", "balanced-softmax", "class-16-auto"), correlation=0.05)
    base = [0.50, 0.52, 0.48, 0.51, 0.49]
    made = outcome(
        task,
        cross_entropy=base,
        balanced_softmax=[value + gain for value, gain in zip(base, [0.10, 0.11, 0.09, 0.10, 0.10], strict=True)],
        class_16_auto=[value + gain for value, gain in zip(base, [0.01, -0.01, 0.02, -0.02, 0.0], strict=True)],
    )
    alone = stats.ttest_1samp([0.10, 0.11, 0.09, 0.10, 0.10], 0).pvalue
    assert made.over_baseline["balanced-softmax"]["p_holm"] > alone
    assert made.seen("balanced-softmax") == 1
    assert made.seen("class-16-auto") == 0


@pytest.mark.parametrize(
    ("ours", "holds", "a_point_above"),
    [
        ([0.66, 0.67, 0.65, 0.66, 0.67], True, True),  # better than the peer
        ([0.60, 0.64, 0.58, 0.61, 0.66], True, True),  # below it by less than the interval
        ([0.55, 0.56, 0.55, 0.56, 0.55], False, True),
        ([0.505, 0.505, 0.495, 0.505, 0.505], False, False),
    ],
)
def test_rule_holds_where_it_is_not_seen_to_be_worse_than_the_best_peer(ours, holds, a_point_above):
    made = outcome(
        TOY,
        cross_entropy=[0.50, 0.50, 0.49, 0.50, 0.50],
        balanced_softmax=[0.62, 0.63, 0.61, 0.62, 0.63],
        class_16_auto=ours,
    )
    (verdict,) = verdicts([made], lambda _: "class-16-auto")
    assert verdict.peer == "balanced-softmax"
    assert verdict.holds is holds
    assert verdict.unequal
    assert verdict.a_point_above is a_point_above


def test_rule_asks_for_settings_that_are_run():
    for task in all_tasks().values():
        assert recommended(task) in task.settings, task.name


def test_page_and_summary_are_made_of_the_results(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(report, "all_tasks", lambda: {TOY.name: TOY, SOFT.name: SOFT})
    store = Store(tmp_path / "results.jsonl")
    for task in (TOY, SOFT):
        for place, setting in enumerate(task.settings):
            for seed in range(4):
                value = 0.6123 + 0.01 * place + 0.002 * seed * (place + 1)
                store.add(
                    Key(task.name, 1, setting, seed, 0.1, 0.0),
                    {"valid": 0.5, "test": {task.metric: value}, "drawn": CALIBRATION, "tempered": CALIBRATION},
                )
    assert Plan([TOY]).finished(store, TOY).keys() == set(TOY.settings)
    report.main(["--results", str(store.path), "--docs", str(tmp_path), "--summary", str(tmp_path / "summary.csv")])
    text = (tmp_path / "study.md").read_text(encoding="utf-8")
    assert "| cross-entropy | 61.5 |" in text  # the mean of 0.6123, 0.6143, 0.6163, 0.6183 in percent
    assert "not run" in text  # of the real tasks there is nothing
    with (tmp_path / "summary.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    best = next(row for row in rows if row["setting"] == "class-16-auto")
    assert float(best["mean"]) == pytest.approx(0.6123 + 0.02 + 0.002 * 1.5 * 3, rel=1e-4)
    assert float(best["gain"]) == pytest.approx(0.02 + 0.002 * 1.5 * 2, rel=1e-4)
