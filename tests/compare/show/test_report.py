"""The report in a real browser: nothing but what it holds itself, and nothing in it but what it should say."""

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import sync_playwright

from equilog.baselines import registry
from equilog.compare.errors import DataError
from equilog.compare.judge.metrics import METRICS, class_records, evaluate, reliability
from equilog.compare.judge.ranking import ranked, shown_metrics
from equilog.compare.judge.statistics import summarise
from equilog.compare.show.charts import CONFUSION_SHOWN, RECALL_SHOWN, charts
from equilog.compare.show.report import render_report, write_report
from equilog.compare.show.tables import write_tables

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
CHARTS = ("main-chart", "trade-chart", "recall-chart", "reliability-chart", "curves-chart", "confusion-chart")
HOSTILE = (
    "<img src=x onerror=ran('image')>",
    "</script><script>ran('script')</script>",
    '"><svg onload=ran("svg")>',
    "<b>bold</b>",
    "<a href='javascript:ran(1)'>link</a>",
    "&lt;i&gt; &amp;",
    "%{x} <br> {{ 7*7 }} {% raw %}",
    "<!--",
    "$\\alpha$ [red]x[/red]",
    "' onfocus=ran(2) autofocus='",
)

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: the report is not opened")


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture
def ours(monkeypatch):
    entry = dataclasses.replace(registry.LOSSES["cross-entropy"], name="prior-corrected", ours=True)
    monkeypatch.setitem(registry.LOSSES, "prior-corrected", entry)


@pytest.fixture
def visit(browser, tmp_path):
    """Return a function that opens a report and gives the page, on which everything that happens is noted."""
    contexts = []

    def open_report(results, runs, width=1280, **settings):
        path = write_report(tmp_path / "report.html", results, runs)
        context = browser.new_context(offline=True, viewport={"width": width, "height": 1200}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.faults, page.fetched = [], []
        page.on("console", lambda message: page.faults.append(message.text))
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("dialog", lambda dialog: page.faults.append(dialog.message))
        page.on("request", lambda request: page.fetched.append(request.url))
        page.add_init_script("window.ran = what => console.error(`ran ${what}`)")
        page.goto(path.as_uri())
        page.wait_for_selector("#curves-chart svg.plot")
        page.where = path.as_uri()
        return page

    yield open_report
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def comparisons(compare):
    def of(task, **settings):
        data, runs = compare(task, **settings)
        return summarise(data, runs, "cross-entropy", test_fraction=0.4), runs

    return of


def names_in_order(page):
    return page.eval_on_selector_all("#board tbody th", "cells => cells.map(cell => cell.dataset.value)")


def point_at(page, mark):
    """Move the pointer to the middle of a mark, clear of the legend that stays at the top."""
    mark.evaluate("each => each.scrollIntoView({block: 'center'})")
    box = mark.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def labels(page, chart):
    return page.eval_on_selector_all(f"#{chart} text", "texts => texts.map(text => text.textContent)")


@needs_browser
@pytest.mark.usefixtures("ours")
@pytest.mark.parametrize("task", ["multiclass", "multilabel", "soft"])
def test_the_report_opens_offline_draws_every_chart_and_fetches_nothing(task, visit, comparisons):
    results, runs = comparisons(task)
    page = visit(results, runs)
    for chart in CHARTS:
        if chart == "confusion-chart" and task == "multilabel":
            assert page.is_hidden("#confusion-section")
            continue
        assert page.locator(f"#{chart} svg.plot").count() == 1
        page.locator(f"#{chart}").scroll_into_view_if_needed()
    drawn = {chart: page.locator(f"#{chart} .series").count() for chart in CHARTS[:5]}
    assert drawn == dict.fromkeys(CHARTS[:5], len(results["losses"]))
    assert results["verdict"] == " ".join(page.locator(".verdict p:not(.saved)").all_inner_texts())
    assert page.locator(".saved").inner_text().startswith(f"The model to save is {results['saved']['name']}: ")
    assert page.locator(".ours:not(.plain)").all_inner_texts() == ["ours"]
    assert page.faults == []
    assert page.fetched == [page.where]


@needs_browser
def test_the_leaderboard_holds_the_numbers_and_sorts_by_each_heading(visit, comparisons):
    results, runs = comparisons("multiclass")
    page = visit(results, runs)
    main = results["main_metric"]
    assert names_in_order(page) == ranked(results["losses"], main)
    shown = [metric.name for metric in shown_metrics(results)]
    for metric in shown:
        heading = page.locator("#board thead th", has_text=re.compile(rf"^{METRICS[metric].title}"))
        heading.locator("button").click()
        first = heading.get_attribute("aria-sort")
        best_first = ranked(results["losses"], metric)
        means = [results["losses"][loss][metric]["mean"] for loss in names_in_order(page)]
        if metric == main:
            # It was sorted so already: the click turned it round.
            assert means == sorted(means)
            continue
        assert means == [results["losses"][loss][metric]["mean"] for loss in best_first]
        assert first == ("descending" if METRICS[metric].larger_is_better else "ascending")
        heading.locator("button").click()
        means = [results["losses"][loss][metric]["mean"] for loss in names_in_order(page)]
        assert means == sorted(means, reverse=not METRICS[metric].larger_is_better)
        assert heading.get_attribute("aria-sort") != first
        assert page.locator('#board [aria-sort="none"]').count() == page.locator("#board thead th").count() - 1
    page.locator("#board thead th button").first.click()
    assert names_in_order(page) == sorted(results["losses"])
    row = page.locator("#board tbody tr", has_text="class-weighted").inner_text()
    for metric in shown:
        assert f"{results['losses']['class-weighted'][metric]['mean']:.3f}" in row
    assert page.faults == []


@needs_browser
def test_choosing_losses_targets_and_curves_redraws_the_charts(visit, comparisons):
    results, runs = comparisons("multiclass")
    page = visit(results, runs)
    losses = len(results["losses"])
    page.locator("#chips button", has_text="class-weighted").click()
    assert page.locator("#main-chart .series").count() == losses - 1
    assert page.locator("#recall-chart .series").count() == losses - 1
    assert page.locator('#chips [aria-pressed="false"]').all_inner_texts() == ["class-weighted"]
    assert "class-weighted" not in labels(page, "main-chart")

    assert page.locator("#confusion-chart .xtick").count() == 10
    page.select_option("#confusion-pick select >> nth=1", label="parity")
    assert page.locator("#confusion-chart .xtick").count() == 2
    page.select_option("#curves-pick select", label="training loss")
    assert "training loss" in labels(page, "curves-chart")
    before = page.locator("#recall-chart .mark").count()
    page.select_option("#recall-pick select", label="parity")
    assert page.locator("#recall-chart .mark").count() == 2 * before / 10
    assert page.faults == []


@needs_browser
def test_two_metrics_of_choice_are_set_against_each_other_and_charts_can_be_kept(visit, comparisons):
    results, runs = comparisons("multiclass")
    page = visit(results, runs)
    page.select_option("#trade-pick select >> nth=0", label="NLL")
    page.select_option("#trade-pick select >> nth=1", label="Matthews' correlation")
    said = labels(page, "trade-chart")
    assert "NLL (smaller is better)" in said
    assert "Matthews' correlation (larger is better)" in said
    point_at(page, page.locator("#trade-chart .mark").first)
    page.wait_for_selector(".tip:not([hidden])")
    assert re.search(r"NLL \d\.\d{3} \(", page.locator(".tip").text_content())
    for kind, begins in (("SVG", b"<svg"), ("PNG", b"\x89PNG")):
        with page.expect_download() as download:
            page.get_by_label(f"Save this chart as {kind}").nth(1).click()
        assert download.value.suggested_filename == f"trade-chart.{kind.lower()}"
        assert Path(download.value.path()).read_bytes().startswith(begins)
    assert page.faults == []


def test_the_report_is_small_enough_to_mail(tmp_path, comparisons):
    path = write_report(tmp_path / "report.html", *comparisons("multiclass"))
    assert path.stat().st_size < 200_000


def test_tables_hold_the_numbers_and_no_formulas(tmp_path, compare):
    data, runs = compare(losses=("cross-entropy", "class-weighted", "=1+1"), names=HOSTILE, seeds=[0, 1])
    results = summarise(data, runs, "cross-entropy", test_fraction=0.4)
    folder = write_tables(tmp_path / "tables", results, runs)
    metrics = pd.read_csv(folder / "metrics.csv").set_index(["contender", "metric"])
    for loss, reached in results["losses"].items():
        for metric, interval in reached.items():
            assert metrics.loc[(loss.replace("=1", "'=1"), metric), "mean"] == pytest.approx(interval["mean"])
    difference = pd.read_csv(folder / "differences.csv").set_index("contender").loc["class-weighted"]
    assert [difference["low"], difference["high"]] == pytest.approx(results["differences"]["class-weighted"]["ci95"])
    recall = pd.read_csv(folder / "recall.csv")
    assert len(recall) == 3 * (10 + 2)
    assert set(recall[recall["target"] == "digit"]["class"]) == set(HOSTILE)
    confusion = pd.read_csv(folder / "confusion.csv")
    assert len(confusion) == 3 * (100 + 4)
    of_two = [np.sum(run["classes"][0]["confusion"]) for run in runs if run["loss"] == "cross-entropy"]
    mine = confusion[(confusion["target"] == "digit") & (confusion["contender"] == "cross-entropy")]
    assert mine["rows_a_split"].sum() == pytest.approx(np.mean(of_two))
    assert set(pd.read_csv(folder / "curves.csv")["epoch"]) == set(range(1, 7))


@needs_browser
@pytest.mark.usefixtures("ours")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_all_without_scrolling_sideways(scheme, visit, comparisons):
    long = [f"class {code} " + "described_at_such_length_" * 4 for code in range(10)]
    losses = ("cross-entropy", "class-weighted", "prior-corrected", "a-loss-with-a-rather-long-name-of-its-own")
    results, runs = comparisons("multiclass", names=long, losses=losses, target_names=("digit" * 20, "parity"))
    page = visit(results, runs, width=360, is_mobile=True, has_touch=True, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.evaluate("window.innerWidth") == 360
    outside = page.evaluate(
        """() => [...document.querySelectorAll("section, section > p, h1, h2, .chart, .chart svg, select, .pick")]
            .filter(each => each.getBoundingClientRect().width > 0)
            .filter(each => each.getBoundingClientRect().right > 360 || each.getBoundingClientRect().left < 0)
            .map(each => each.outerHTML.slice(0, 80))"""
    )
    assert outside == []
    smallest = page.evaluate(
        """() => Math.min(...[...document.querySelectorAll("button, select")]
            .map(each => each.getBoundingClientRect().height))"""
    )
    assert smallest >= 32
    assert page.locator(".scroll").first.evaluate("each => each.scrollWidth > each.clientWidth")
    assert page.faults == []


@needs_browser
def test_text_can_be_read_against_what_is_behind_it_in_both_schemes(visit, comparisons):
    results, runs = comparisons("multiclass")
    for scheme in ("light", "dark"):
        page = visit(results, runs, color_scheme=scheme)
        pairs = page.evaluate(
            """() => {
                const style = getComputedStyle(document.documentElement);
                const colour = name => style.getPropertyValue(`--${name}`).trim();
                const on = (text, ground) => [text, ground, colour(text), colour(ground)];
                return [on("ink", "page"), on("ink", "card"), on("ink", "accent-wash"), on("soft", "page"),
                    on("soft", "card"), on("soft", "grid"), on("accent", "card"), on("accent", "accent-wash"),
                    on("gain", "card"), on("loss", "card"), on("warn", "card")];
            }"""
        )
        for text, ground, first, second in pairs:
            bright, dark = sorted((luminance(first), luminance(second)), reverse=True)
            # WCAG 2 AA for text of normal size.
            assert (bright + 0.05) / (dark + 0.05) >= 4.5, (scheme, text, ground)


def luminance(colour):
    channels = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@needs_browser
def test_names_from_the_data_are_text_and_nothing_of_them_runs(visit, compare):
    losses = ("cross-entropy", HOSTILE[0], HOSTILE[1], HOSTILE[3])
    data, runs = compare(losses=losses, names=HOSTILE, target_names=(HOSTILE[1], HOSTILE[0]))
    data = dataclasses.replace(data, name=HOSTILE[0], notes=HOSTILE)
    results = summarise(data, runs, "cross-entropy", test_fraction=0.4)
    page = visit(results, runs)

    assert page.locator("h1").inner_text() == HOSTILE[0]
    assert page.locator("main li").all_inner_texts() == [" ".join(name.split()) for name in HOSTILE]
    assert sorted(names_in_order(page)) == sorted(losses)
    assert {text.strip() for text in page.locator("#chips button").all_inner_texts()} == set(losses)
    # The axis cuts names at 32 letters, the confusion matrix at 18.
    assert {name if len(name) <= 32 else name[:31] + "…" for name in losses} <= set(labels(page, "main-chart"))
    shown = " ".join(labels(page, "confusion-chart"))
    for name in HOSTILE:
        assert (name if len(name) <= 18 else name[:17] + "…") in shown

    # Names beside the pointer.
    point_at(page, page.locator("#confusion-chart .cell").first)
    page.wait_for_selector(".tip:not([hidden])")
    assert f"{HOSTILE[0]} taken for {HOSTILE[0]}" in page.locator(".tip").text_content()

    built = page.evaluate(
        """() => [document.images.length, document.querySelectorAll("script").length,
            document.querySelectorAll("body a, body b b, h1 *, li *, svg a, #board th b").length,
            document.querySelectorAll("[onerror], [onload], [onfocus]").length]"""
    )
    assert built[1:] == [3, page.locator(".facts b").count(), 0]
    assert page.evaluate("[...document.images].every(image => image.src.startsWith('data:'))")
    assert page.faults == []
    assert page.fetched == [page.where]


@needs_browser
def test_the_content_policy_stops_what_an_unescaped_name_would_do(visit, comparisons, monkeypatch):
    """A second wall: even markup that got in can neither run nor fetch."""
    results, runs = comparisons("multiclass", seeds=[0])
    monkeypatch.setattr(
        "equilog.compare.show.report._sentences",
        lambda _: (Unescaped("<img src='http://127.0.0.1:9/x' onerror=ran('image')><script>ran(1)</script>"), ""),
    )
    page = visit(results, runs)
    page.wait_for_timeout(200)
    assert page.locator(".verdict img").count() == 1
    assert not any("ran " in fault for fault in page.faults)
    assert any("Content Security Policy" in fault for fault in page.faults)


class Unescaped(str):
    __slots__ = ()

    def __html__(self):
        return self


@needs_browser
def test_a_screen_reader_finds_headings_labels_and_the_order_of_sorting(visit, comparisons):
    results, runs = comparisons("multiclass")
    page = visit(results, runs)
    levels = page.eval_on_selector_all("h1, h2, h3", "all => all.map(each => each.tagName)")
    assert levels[0] == "H1"
    assert set(levels[1:]) == {"H2"}
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll(".chart, .scroll, section, select, button")].filter(each =>
            !(each.getAttribute("aria-label") || each.closest("label") || each.textContent.trim()
              && each.tagName === "BUTTON" || document.getElementById(each.getAttribute("aria-labelledby"))))
            .map(each => each.outerHTML.slice(0, 80))"""
    )
    assert unnamed == []
    assert page.evaluate("document.documentElement.lang") == "en"
    page.locator("#board thead button").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#board thead th").first.get_attribute("aria-sort") == "ascending"


@needs_browser
def test_very_many_classes_are_shown_in_part_and_the_page_says_so(visit, many_classes):
    results, runs = many_classes
    page = visit(results, runs)
    classes = len(runs[0]["classes"][0]["names"])
    assert f"The {CONFUSION_SHOWN} of {classes} classes" in page.locator("#confusion-note").inner_text()
    assert f"{classes} classes are too many to show singly" in page.locator("#recall-note").inner_text()
    assert page.locator("#recall-chart .mark").count() <= RECALL_SHOWN * len(results["losses"])
    assert page.locator("#confusion-chart .xtick").count() == CONFUSION_SHOWN
    assert page.faults == []


@pytest.fixture
def many_classes(compare):
    """Digits whose classes are split into many: real choices and probabilities, spread over names."""
    data, runs = compare(losses=("cross-entropy", "class-weighted"), seeds=[0, 1])
    parts = 15
    generator = np.random.default_rng(0)
    names = [f"{digit}, part {part}" for digit in range(10) for part in range(parts)]
    wide = []
    for run in runs:
        confusion = np.array(run["classes"][0]["confusion"])
        true, chosen = (np.repeat(codes.ravel(), confusion.ravel()) for codes in np.indices(confusion.shape))
        true, chosen = (codes * parts + generator.integers(parts, size=codes.size) for codes in (true, chosen))
        posterior = generator.dirichlet(np.ones(len(names)), size=len(true))
        arguments = "multiclass", true[:, None], chosen[:, None]
        wide.append(
            {
                **run,
                "metrics": evaluate(*arguments, [posterior]),
                "reliability": reliability(*arguments, [posterior]),
                "classes": class_records("multiclass", true[:, None], *arguments[1:], ["digit"], [names]),
            }
        )
    data = dataclasses.replace(
        data, target=data.target[:, :1] * parts, target_names=("digit",), class_names=(tuple(names),)
    )
    return summarise(data, wide, "cross-entropy", test_fraction=0.4), wide


def test_charts_average_over_the_runs(comparisons):
    results, runs = comparisons("multiclass")
    drawn = charts(results, runs)
    assert [loss["name"] for loss in drawn["losses"]] == ranked(results["losses"], "balanced_accuracy")
    digits, places = drawn["targets"][0], 5e-5
    for at, loss in enumerate(entry["name"] for entry in drawn["losses"]):
        runs_of_loss = [run for run in runs if run["loss"] == loss]
        confusion = np.mean([run["classes"][0]["confusion"] for run in runs_of_loss], axis=0)
        assert digits["confusion"]["rows"][at] == pytest.approx(confusion, rel=places)
        recall = np.mean([run["classes"][0]["recall"] for run in runs_of_loss], axis=0)
        assert digits["recall"][at] == pytest.approx(recall, rel=places)
        score = np.mean([run["curve"]["valid_score"] for run in runs_of_loss], axis=0)
        assert drawn["curves"][at]["valid_score"] == pytest.approx(score, rel=places)
        bins = drawn["reliability"][at]
        assert sum(bins["share"]) == pytest.approx(1, rel=1e-4)
        # Putting bins together keeps the overall accuracy of the first choices.
        every = [(run["reliability"]["accuracy"], run["reliability"]["count"]) for run in runs_of_loss]
        hits = sum(np.dot(accuracy, count) for accuracy, count in every)
        overall = hits / sum(sum(count) for _, count in every)
        assert np.dot(bins["accuracy"], bins["share"]) == pytest.approx(overall, rel=1e-4)


def test_runs_that_stopped_early_or_diverged_leave_the_other_runs_curve(comparisons):
    results, runs = comparisons("multiclass", losses=("cross-entropy",), seeds=[0, 1])
    long, short = (run["curve"] for run in runs)
    short = {
        **{name: values[:2] for name, values in short.items()},
        "train_loss": [float("nan"), short["train_loss"][1]],
    }
    cut = [runs[0], {**runs[1], "curve": short}]
    (curves,) = charts(results, cut)["curves"]
    assert len(curves["valid_loss"]) == len(long["valid_loss"]), "one of two is half of them"
    assert curves["valid_loss"][2:] == pytest.approx(long["valid_loss"][2:], rel=1e-4)
    assert curves["train_loss"][0] == pytest.approx(long["train_loss"][0], rel=1e-4)
    assert curves["train_loss"][1] == pytest.approx((long["train_loss"][1] + short["train_loss"][1]) / 2, rel=1e-4)
    one_of_three = [*cut, {**cut[1], "seed": 2}]
    (curves,) = charts(results, one_of_three)["curves"]
    assert len(curves["valid_loss"]) == 2


def test_the_report_says_who_is_unfinished(comparisons, compare):
    data, runs = compare()
    cut = runs[:-1]
    page = render_report(summarise(data, cut, "cross-entropy", test_fraction=0.4), cut)
    assert "Not every run has finished" in page
    assert re.search(rf"fewer than 3 splits:\s*{runs[-1]['loss']} \(2\)", page)
    results, whole = comparisons("multiclass")
    assert "Not every run has finished" not in render_report(results, whole)


def test_the_report_is_written_whole_or_not_at_all(tmp_path, comparisons):
    results, runs = comparisons("multiclass")
    path = write_report(tmp_path / "report.html", results, runs)
    before = path.read_bytes()
    broken = [{**run, "classes": []} for run in runs[:-1]] + [runs[-1]]
    with pytest.raises(IndexError):
        write_report(path, results, broken[::-1])
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
    occupied = tmp_path / "file"
    occupied.touch()
    with pytest.raises(DataError, match=r"Cannot write .*report\.html"):
        write_report(occupied / "report.html", results, runs)
    assert sorted(entry.name for entry in Path(tmp_path).iterdir()) == ["file", "report.html"]
