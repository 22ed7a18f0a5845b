import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from equilog.baselines import registry
from equilog.compare.data.dataset import Dataset
from equilog.compare.judge.intervals import estimate, holm, p_value
from equilog.compare.judge.metrics import METRICS
from equilog.compare.judge.ranking import is_ours, ranked, unfinished
from equilog.compare.judge.statistics import summarise

FRACTION = 0.25
SEEDS = 5


@pytest.fixture
def ours(monkeypatch):
    """Register a loss called "ours" as one of this package."""
    entry = dataclasses.replace(registry.LOSSES["cross-entropy"], name="ours", ours=True)
    monkeypatch.setitem(registry.LOSSES, "ours", entry)


def dataset(task="multiclass"):
    return Dataset(
        "three classes", task, pd.DataFrame({"x": range(6)}), np.arange(6)[:, None] % 3, ("y",), (("a", "b", "c"),)
    )


def runs(loss, main, seeds=range(SEEDS), **others):
    """Return records that hold nothing but metrics: the statistics look at nothing else."""
    columns = {"balanced_accuracy": main, **others}
    return [
        {"loss": loss, "seed": seed, "metrics": {name: values[at] for name, values in columns.items()}}
        for at, seed in enumerate(seeds)
    ]


def wobble(mean, seed, scale=0.01):
    return mean + scale * np.random.default_rng(seed).standard_normal(SEEDS)


def summary(*groups, baseline="cross-entropy"):
    return summarise(dataset(), [run for group in groups for run in group], baseline, test_fraction=FRACTION)


def test_without_shared_rows_the_interval_is_student_s():
    values = wobble(0.8, 0)
    # A vanishing test fraction leaves the usual variance of a mean.
    interval = estimate(values, 1e-15)
    assert interval["ci95"] == pytest.approx(stats.ttest_1samp(values, 0).confidence_interval(0.95))
    assert p_value(values - 0.79, 1e-15) == pytest.approx(stats.ttest_1samp(values - 0.79, 0).pvalue)


def test_shared_rows_widen_the_interval_as_nadeau_and_bengio_say():
    values = wobble(0.8, 1)
    low, high = estimate(values, FRACTION)["ci95"]
    plain = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    widening = np.sqrt((1 / SEEDS + 1 / 3) / (1 / SEEDS))
    assert high - low == pytest.approx(widening * (plain.high - plain.low))
    assert (low + high) / 2 == pytest.approx(values.mean())


def test_the_corrected_interval_covers_about_as_often_as_it_says_where_the_plain_one_does_not():
    # Splits that share a part of their error: correlation n_test / n, which is what the correction assumes.
    generator = np.random.default_rng(2)
    shared = np.sqrt(FRACTION) * generator.standard_normal((2000, 1))
    values = shared + np.sqrt(1 - FRACTION) * generator.standard_normal((2000, SEEDS))
    missed = np.mean([p_value(row, FRACTION) < 0.05 for row in values])
    plain = np.mean(stats.ttest_1samp(values, 0, axis=1).pvalue < 0.05)
    # 2000 draws at 5 %: standard error 0.005.
    assert missed == pytest.approx(0.05, abs=0.02)
    assert plain > 0.1


@pytest.mark.parametrize("values", [[0.7], [0.7, 0.7, 0.7]])
def test_runs_that_show_no_spread_have_no_interval(values):
    assert estimate(values, FRACTION) == {"mean": pytest.approx(0.7), "ci95": None, "runs": values}
    assert p_value(values, FRACTION) is None


def test_holm_keeps_the_order_and_never_lowers_a_p_value():
    p = np.random.default_rng(3).uniform(size=30) ** 3
    corrected = holm(p)
    assert (corrected >= p).all()
    assert (np.diff(corrected[np.argsort(p)]) >= 0).all()
    assert corrected.min() == pytest.approx(min(1, 30 * p.min()))
    assert holm([0.04]) == pytest.approx([0.04])
    assert holm([]).size == 0


def test_differences_are_paired_over_the_splits_that_both_have(compare):
    data, records = compare(seeds=range(4))
    full = summarise(data, records, "cross-entropy", test_fraction=0.4)
    gone = {("prior-corrected", 0), ("cross-entropy", 3), ("class-weighted", 1)}
    left = [run for run in records if (run["loss"], run["seed"]) not in gone]
    partial = summarise(data, left, "cross-entropy", test_fraction=0.4)
    by = {(run["loss"], run["seed"]): run["metrics"]["balanced_accuracy"] for run in records}
    for loss, seeds in {"prior-corrected": (1, 2), "class-weighted": (0, 2)}.items():
        expected = [by[loss, seed] - by["cross-entropy", seed] for seed in seeds]
        assert partial["differences"][loss]["runs"] == pytest.approx(expected)
    assert len(full["differences"]["prior-corrected"]["runs"]) == 4
    assert unfinished(full) == {}
    assert unfinished({**partial, "losses": {**partial["losses"], "whole": full["losses"]["class-weighted"]}}) == {
        "cross-entropy": 3,
        "class-weighted": 3,
        "prior-corrected": 3,
    }


def test_results_do_not_depend_on_the_order_in_which_the_runs_end(compare):
    data, records = compare()
    results, backwards = (
        json.dumps(summarise(data, ordered, "cross-entropy", test_fraction=0.4)) for ordered in (records, records[::-1])
    )
    assert results == backwards


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "soft"])
def test_results_of_real_runs_are_strict_json_and_hold_what_the_runs_say(task, compare):
    data, records = compare(task)
    results = summarise(data, records, "cross-entropy", test_fraction=0.4)
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    for loss, metrics in results["losses"].items():
        for metric, interval in metrics.items():
            values = [run["metrics"][metric] for run in records if run["loss"] == loss]
            assert interval["runs"] == values
            assert interval["mean"] == pytest.approx(np.mean(values))
    assert set(results["differences"]) == set(results["losses"]) - {"cross-entropy"}
    counts = results["data"]["classes"]["digit"]
    assert sum(counts.values()) == pytest.approx(data.target.sum() if task == "multilabel" else len(data.target))
    main = results["main_metric"]
    means = [results["losses"][loss][main]["mean"] for loss in ranked(results["losses"], main)]
    assert means == sorted(means, reverse=METRICS[main].larger_is_better)


@pytest.mark.usefixtures("ours")
def test_verdict_names_the_best_loss_its_gain_and_its_cost():
    noise = wobble(0, 4)
    gain, cost = 0.06 + wobble(0, 5, 0.002), 0.1 + wobble(0, 6, 0.002)
    verdict = summary(
        runs("cross-entropy", 0.80 + noise, nll=0.30 + noise, accuracy=0.9 + noise),
        runs("ours", 0.80 + noise + gain, nll=0.30 + noise + cost, accuracy=0.9 + noise),
    )["verdict"]
    low, high = estimate(gain, FRACTION)["ci95"]
    assert verdict.startswith(f"ours served best: balanced accuracy {np.mean(0.80 + noise + gain):.3f}, ")
    assert f"{gain.mean():.3f} better than cross-entropy (95 % interval {low:.3f} to {high:.3f})" in verdict
    low, high = estimate(cost, FRACTION)["ci95"]
    before, after = np.mean(0.30 + noise), np.mean(0.30 + noise + cost)
    assert (
        f"It costs: NLL {before:.3f} to {after:.3f}, {cost.mean():.3f} worse (95 % interval {low:.3f} to {high:.3f})."
        in verdict
    )


@pytest.mark.usefixtures("ours")
def test_verdict_says_no_difference_seen_where_noise_covers_it():
    verdict = summary(runs("cross-entropy", wobble(0.80, 7)), runs("ours", wobble(0.80, 8)))["verdict"]
    assert verdict.startswith("No difference seen")
    assert "None of ours is seen to be better than cross-entropy" in verdict
    assert "served best" not in verdict


def test_verdict_corrects_for_choosing_the_best_of_many():
    baseline = wobble(0.8, 9)
    # The gain alone is significant; as the best of thirty chances it is not.
    gain = 0.01 + wobble(0, 10, 0.004)
    lucky = runs("lucky", baseline + gain)
    alone = summary(runs("cross-entropy", baseline), lucky)
    assert alone["differences"]["lucky"]["p_holm"] < 0.05
    assert alone["verdict"].startswith("lucky served best")
    crowd = [runs(f"idle-{k}", baseline + wobble(0, 100 + k)) for k in range(30)]
    among = summary(runs("cross-entropy", baseline), lucky, *crowd)
    assert among["differences"]["lucky"]["ci95"][0] > 0, "its own interval still excludes zero"
    assert among["verdict"].startswith("No difference seen")
    assert "Had it been the only comparison lucky would count as better" in among["verdict"]


@pytest.mark.usefixtures("ours")
def test_verdict_says_plainly_when_another_beats_ours_and_ours_loses_to_the_baseline():
    noise = wobble(0, 11)
    verdict = summary(
        runs("cross-entropy", 0.80 + noise),
        runs("other", 0.86 + noise + wobble(0, 12, 0.002)),
        runs("ours", 0.74 + noise + wobble(0, 13, 0.002)),
    )["verdict"]
    assert verdict.startswith("other served best")
    assert "Worse than cross-entropy: ours by 0.06" in verdict
    assert "None of ours is seen to be better than cross-entropy" in verdict
    assert "Of ours ours is the best; it is 0.12" in verdict
    assert "worse than other" in verdict
    assert "could be chance" not in verdict


def test_verdict_keeps_the_baseline_where_all_others_are_worse():
    noise = wobble(0, 14)
    verdict = summary(runs("cross-entropy", 0.8 + noise), runs("other", 0.7 + noise + wobble(0, 15, 0.002)))["verdict"]
    assert verdict.startswith("cross-entropy was not beaten")


def test_verdict_of_one_split_claims_nothing():
    results = summary(runs("cross-entropy", [0.8], seeds=[0]), runs("other", [0.9], seeds=[0]))
    assert results["verdict"].startswith("One split cannot tell")
    assert results["differences"]["other"] == {
        "mean": pytest.approx(0.1),
        "ci95": None,
        "runs": [pytest.approx(0.1)],
        "p_holm": None,
    }


def test_verdict_of_losses_that_do_the_same_sees_no_difference():
    values = wobble(0.8, 16)
    verdict = summary(runs("cross-entropy", values), runs("twin", values))["verdict"]
    assert verdict.startswith("No difference seen")
    assert "level with cross-entropy" in verdict


@pytest.mark.parametrize(
    ("groups", "start"),
    [
        ([runs("other", wobble(0.8, 17))], "No verdict: cross-entropy, the one to compare with, has no finished run"),
        ([runs("cross-entropy", wobble(0.8, 18))], "No verdict: only cross-entropy has finished runs"),
        (
            [runs("cross-entropy", [0.8], seeds=[0]), runs("other", [0.9], seeds=[1])],
            "No verdict: only cross-entropy",
        ),
    ],
)
def test_verdict_of_a_grid_cut_short_says_what_is_missing(groups, start):
    assert summary(*groups)["verdict"].startswith(start)


def test_smaller_is_better_where_the_metric_says_so(compare):
    data, records = compare("soft", losses=("cross-entropy", "class-weighted"), seeds=range(4))
    results = summarise(data, records, "class-weighted", test_fraction=0.4)
    assert results["losses"]["cross-entropy"]["kl"]["mean"] < results["losses"]["class-weighted"]["kl"]["mean"]
    assert results["differences"]["cross-entropy"]["mean"] < 0
    assert " better than class-weighted" in results["verdict"]


@pytest.mark.usefixtures("ours")
def test_a_loss_this_version_does_not_know_is_not_ours():
    assert is_ours("ours")
    assert not is_ours("cross-entropy")
    assert not is_ours("from-a-later-version")


@pytest.mark.parametrize(
    ("records", "fraction", "message"),
    [
        ([], FRACTION, "no finished runs"),
        (runs("a", [0.1, 0.2], seeds=[0, 0]), FRACTION, "two runs of a with seed 0"),
        ([{"loss": "a", "seed": 1, "metrics": {"nll": 1.0}}], FRACTION, "a with seed 1 has no balanced_accuracy"),
        (runs("a", [0.1, 0.2], seeds=[0, 1]), 1.0, "test_fraction must lie between 0 and 1"),
    ],
)
def test_runs_that_cannot_be_summarised_are_refused(records, fraction, message):
    with pytest.raises(ValueError, match=message):
        summarise(dataset(), records, "a", test_fraction=fraction)


def test_where_the_best_cannot_be_stored_the_next_best_is_saved():
    noise = wobble(0, 20)
    groups = (
        runs("cross-entropy", 0.80 + noise),
        runs("own:Model", 0.90 + noise + wobble(0, 21, 0.002)),
        runs("other", 0.86 + noise + wobble(0, 22, 0.002)),
        runs("simple", 0.82 + noise + wobble(0, 23, 0.002)),
    )
    every = [run for group in groups for run in group]

    def saved(**more):
        return summarise(dataset(), every, "cross-entropy", test_fraction=FRACTION, **more)["saved"]

    assert saved()["name"] == "own:Model"
    choice = saved(unstorable={"own:Model": "it runs code"})
    assert (choice["name"], choice["best"]) == ("other", "own:Model")
    assert choice["reason"] == "the best that can be saved; own:Model cannot be saved: it runs code"
    # Of those that are level with it, too, the reason says why it is not the best.
    level = saved(unstorable={"own:Model": "it runs code", "other": "so does it"}, complexity={"simple": (1, 0)})
    assert level["name"] == "simple"


def test_a_simpler_contender_that_is_level_with_the_best_is_saved():
    noise = wobble(0, 24)
    groups = (
        runs("cross-entropy", 0.70 + noise),
        runs("best", 0.861 + noise + wobble(0, 25, 0.002)),
        runs("simple", 0.860 + noise + wobble(0, 26, 0.002)),
        runs("worse", 0.800 + noise + wobble(0, 27, 0.002)),
    )
    complexity = {"cross-entropy": (2, 0), "best": (3, 0), "simple": (1, 0), "worse": (0, 0)}
    results = summarise(
        dataset(),
        [run for group in groups for run in group],
        "cross-entropy",
        test_fraction=FRACTION,
        complexity=complexity,
    )
    assert results["saved"]["name"] == "simple"
    assert results["saved"]["best"] == "best"
    assert "the simplest of 2 that are not seen to be worse" in results["saved"]["reason"]


def test_what_is_given_up_is_named_also_where_few_splits_hide_it():
    falls = runs("other", [0.9, 0.9002], seeds=[0, 1], accuracy=[0.97, 0.93], nll=[0.31, 0.3])
    results = summary(
        runs("cross-entropy", [0.5, 0.5001], seeds=[0, 1], accuracy=[0.999, 0.999], nll=[0.3, 0.31]), falls
    )
    assert results["saved"]["name"] == "other"
    [cost] = results["costs"]
    assert (cost["metric"], cost["baseline_mean"], cost["mean"]) == ("accuracy", *map(pytest.approx, (0.999, -0.049)))
    assert cost["ci95"][0] < 0 < cost["ci95"][1]
    assert "It costs: accuracy 0.999 to 0.950, 0.049 worse (95 % interval" in results["verdict"]
