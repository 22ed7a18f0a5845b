"""What the site needs beside its pages: mathematics as MathML, and the checks' table and figures computed anew.

Nothing of it is kept in the repository, so nothing can be out of date; the pages fetch nothing when they are read.
"""

import html
import re
import tempfile
from functools import cache
from pathlib import Path

from math_core import LatexToMathML
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from equilog import verify
from equilog.verify.figures import draw

_MATH = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
_MACROS = {"softmax": r"\operatorname{softmax}", "prob": r"\mathrm{P}", "mean": r"\mathrm{E}"}
_TABLE = "<!-- checks -->"

_latex = LatexToMathML(macros=_MACROS)
_folder = tempfile.TemporaryDirectory()


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the figures of `equilog verify` as figures/NAME.svg."""
    for path in _figures():
        files.append(File.generated(config, f"figures/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Put the table of checks in its place."""
    return markdown.replace(_TABLE, _checks()) if _TABLE in markdown else markdown


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Turn LaTeX into MathML; a formula that cannot be read stops the build."""
    return _MATH.sub(lambda found: _mathml(found[2], block=found[1] == "div"), content)


def _mathml(latex: str, block: bool) -> str:
    latex = html.unescape(latex)
    if r"\tag" in latex:
        latex = rf"\begin{{equation}}{latex}\end{{equation}}"
    return _latex.convert_with_local_state(latex, displaystyle=block)


@cache
def _figures() -> list[Path]:
    return draw(Path(_folder.name))


@cache
def _checks() -> str:
    rows = ["| # | claim | value | expected | |", "| -: | --- | -: | --- | --- |"]
    for number, result in enumerate(verify.run(), 1):
        verdict = "pass" if result.passed else "**FAIL**"
        cells = (f'<span id="{result.name}">{number}</span>', result.statement, f"{result.value:.6g}")
        rows.append(f"| {' | '.join(cells)} | {result.expected} | {verdict} |".replace("_", r"\_"))
    return "\n".join(rows)
