import dataclasses
import io
import re

import pytest
from rich.console import Console

from equilog.baselines import registry
from equilog.compare.judge.ranking import ranked, shown_metrics
from equilog.compare.judge.statistics import summarise
from equilog.compare.show.terminal import leaderboard, print_results


@pytest.fixture(params=["multiclass", "multilabel", "soft"])
def results(request, compare, monkeypatch):
    entry = dataclasses.replace(registry.LOSSES["cross-entropy"], name="prior-corrected", ours=True)
    monkeypatch.setitem(registry.LOSSES, "prior-corrected", entry)
    data, records = compare(request.param)
    return summarise(data, records, "cross-entropy", test_fraction=0.4)


def printed(results, width):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_results(console, results)
    return console.file.getvalue()


def words_of(text):
    return " ".join(text.replace("│", " ").split())


@pytest.mark.parametrize("width", [80, 120, 200])
def test_every_loss_and_number_is_shown_whole_within_the_width(results, width):
    text = printed(results, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for loss, metrics in results["losses"].items():
        assert loss in text
        for metric in shown_metrics(results):
            assert f"{metrics[metric.name]['mean']:.3f}" in text
    for metric in shown_metrics(results):
        for word in metric.title.replace("-", "- ").split():
            assert word in text
    assert results["verdict"] in words_of(text)
    assert f"The model to save is {results['saved']['name']}: {results['saved']['reason']}." in words_of(text)


def test_losses_stand_in_the_order_of_the_main_metric_with_interval_and_difference(results):
    main = results["main_metric"]
    lines = printed(results, 80).splitlines()
    order = ranked(results["losses"], main)
    where = [next(at for at, line in enumerate(lines) if line.lstrip(" ●").startswith(f"{loss} ")) for loss in order]
    assert where == sorted(where)
    for loss, at in zip(order, where, strict=True):
        low, high = results["losses"][loss][main]["ci95"]
        assert f"{results['losses'][loss][main]['mean']:.3f} ±{(high - low) / 2:.3f}" in lines[at]
        if loss == results["baseline"]:
            assert "baseline" in lines[at]
        else:
            assert f"{results['differences'][loss]['mean']:+z.3f}" in lines[at]


def test_our_losses_are_marked_and_no_others(results):
    marked = {line.split()[1] for line in printed(results, 80).splitlines() if line.startswith(" ●")}
    assert marked == {"prior-corrected"}


def test_arrows_say_which_way_is_better(results):
    table = leaderboard(results, width=300)
    arrows = {str(column.header).replace("\n", " ").replace("- ", "-") for column in table.columns[1:]}
    for metric in shown_metrics(results):
        assert f"{metric.title} {'↑' if metric.larger_is_better else '↓'}" in arrows


def test_a_terminal_of_40_columns_still_gets_all_losses(results):
    text = printed(results, 40)
    assert max(map(len, text.splitlines())) <= 40
    assert all(loss in text for loss in results["losses"])


def test_square_brackets_in_names_are_text(compare):
    data, records = compare(losses=("cross-entropy", "[red]x[/red]"), seeds=[0])
    data = dataclasses.replace(data, name="[bold]file[/bold].csv")
    text = printed(summarise(data, records, "cross-entropy", test_fraction=0.4), 80)
    assert "[red]x[/red]" in text
    assert "[bold]file[/bold].csv" in text


def test_an_interrupted_comparison_says_who_is_unfinished(compare):
    data, records = compare()
    results = summarise(data, records[:-1], "cross-entropy", test_fraction=0.4)
    text = words_of(printed(results, 80))
    assert f"fewer than 3 splits: {records[-1]['loss']} 2" in text


def test_a_single_split_is_shown_without_intervals(compare):
    data, records = compare(seeds=[0])
    text = printed(summarise(data, records, "cross-entropy", test_fraction=0.4), 80)
    table, _, _ = text.partition("↑ larger is better")
    assert "±" not in table
    assert "multiclass, 1 split\n" in re.sub(" +\n", "\n", table)
    assert "One split cannot tell" in text
