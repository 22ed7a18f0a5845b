"""The report: one page that opens offline and fetches nothing."""

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from equilog.compare.files import replacing
from equilog.compare.judge.chosen_metric import metric_named
from equilog.compare.judge.metrics import Metric
from equilog.compare.judge.ranking import is_ours, is_seen, ranked, shown_metrics, splits, unfinished
from equilog.compare.judge.records import Results, RunRecord
from equilog.compare.show.charts import charts
from equilog.compare.show.terminal import saved

TASKS = {
    "multiclass": "one class of several",
    "multilabel": "any of several labels",
    "soft": "a distribution over classes",
}

ROWS_SHOWN = 100
"""The table of the classes ends after so many."""


def render_report(results: Results, runs: Sequence[RunRecord]) -> str:
    """Return the report as one HTML page: verdict, leaderboard and charts, everything inside it.

    Names from the data are text in it, never markup, in the page as in the charts. Its content security policy
    lets only the two scripts it came with run and lets nothing be fetched.

    Args:
        results: what `summarise` returned.
        runs: the records it was made of.
    """
    environment = Environment(
        loader=PackageLoader("equilog.compare.show"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["enumerate"] = enumerate
    # NaN is no JSON: a page with it would open empty, so it must fail here.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    scripts = [_source(environment, name) for name in ("plot.js", "report.js")]
    main = results["main_metric"]
    metrics = shown_metrics(results)
    return environment.get_template("report.html").render(
        results=results,
        style=Markup(_source(environment, "report.css")),
        scripts=[Markup(script) for script in scripts],
        hashes=[f"sha256-{b64encode(sha256(script.encode()).digest()).decode()}" for script in scripts],
        charts=charts(results, runs),
        order=ranked(results["losses"], main),
        main=metric_named(main),
        metrics=metrics,
        best=_best(results, metrics),
        is_ours=is_ours,
        is_seen=is_seen,
        splits=splits(results),
        saved=saved(results),
        titles={metric: metric_named(metric).phrase for reached in results["losses"].values() for metric in reached},
        provenance=results.get("provenance"),
        unfinished=unfinished(results),
        kind=TASKS[results["task"]],
        verdict=_sentences(results["verdict"]),
        rows_shown=ROWS_SHOWN,
    )


def write_report(path: Path | str, results: Results, runs: Sequence[RunRecord]) -> Path:
    """Write the report whole or not at all, and return its path.

    Args:
        path: the file to write; one that is there is replaced.
        results: what `summarise` returned.
        runs: the records it was made of.

    Raises:
        DataError: the file cannot be written; what was there is still there.
    """
    page, path = render_report(results, runs), Path(path)
    with replacing(path) as new:
        # A script's hash is that of its bytes: line ends must stay as they are.
        new.write_text(page, encoding="utf-8", newline="\n")
    return path


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _best(results: Results, metrics: Sequence[Metric]) -> dict[str, float]:
    """Return the best mean of each metric, which the leaderboard marks."""
    return {
        metric.name: results["losses"][ranked(having, metric.name)[0]][metric.name]["mean"]
        for metric in metrics
        if (having := {loss: reached for loss, reached in results["losses"].items() if metric.name in reached})
    }


def _sentences(verdict: str) -> tuple[str, str]:
    """Return the first sentence, which is set larger, and the rest."""
    first, end, rest = verdict.partition(". ")
    return first + end.rstrip(), rest
