"""`equilog verify`: the claims of the article and of this project, each computed anew and compared.

Nothing here is looked up: every value comes out of the public losses on small problems in float64 with fixed seeds,
and every check can fail.
"""

import json as json_format
import math
from collections.abc import Iterator
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from equilog.verify import of_ours, of_the_article
from equilog.verify.check import Check, CheckResult
from equilog.verify.experiments import one_thread

__all__ = ["CHECKS", "Check", "CheckResult", "main", "run"]

CHECKS: tuple[Check, ...] = (*of_the_article.CHECKS, *of_ours.CHECKS)
"""Every check, in the order they are numbered."""


def run() -> Iterator[CheckResult]:
    """Measure every check, one after the other.

    Example:
        >>> next(run()).passed
        True
    """
    for check in CHECKS:
        with one_thread():
            found = check.measure()
        yield CheckResult(check.name, check.statement, found.value, found.expected, found.passed)


def main(json: bool = False, figures: Path | None = None) -> int:
    """Run the checks and print them: as a table, or as JSON to standard output.

    Args:
        json: print {"checks": [{"name", "value", "expected", "passed"}]} instead of the table; a value that is not
            finite is null.
        figures: folder for one SVG per claim worth seeing, made where it does not exist; None draws nothing.

    Returns:
        The exit status: 0 when every check passed, else 1.

    Raises:
        ModuleNotFoundError: figures are asked for and matplotlib is not installed.
        OSError: the folder cannot be written.
    """
    if figures is not None:
        from equilog.verify.figures import draw

        draw(figures)
    if json:
        results = list(run())
        print(json_format.dumps({"checks": [_as_json(result) for result in results]}, indent=2, ensure_ascii=False))
    else:
        results = _print_table()
    return 0 if all(result.passed for result in results) else 1


def _as_json(result: CheckResult) -> dict[str, object]:
    value = result.value if math.isfinite(result.value) else None
    return {"name": result.name, "value": value, "expected": result.expected, "passed": result.passed}


def _print_table() -> list[CheckResult]:
    console = Console()
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("#", justify="right")
    table.add_column("claim", ratio=1)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("expected", no_wrap=True)
    table.add_column("", no_wrap=True)
    results = []
    with console.status("") as status:
        for check, result in zip(CHECKS, run(), strict=True):
            status.update(check.name)
            results.append(result)
            verdict = Text("PASS", style="green") if result.passed else Text("FAIL", style="bold red")
            table.add_row(str(len(results)), result.statement, f"{result.value:.6g}", result.expected, verdict)
    console.print(table)
    failed = sum(not result.passed for result in results)
    summary = f"{len(results)} checks, all passed" if not failed else f"{failed} of {len(results)} checks FAILED"
    console.print(Text(summary, style="bold red" if failed else "bold green"))
    return results
