"""The documentation: it builds without a warning, knows every public name, runs, and fetches nothing when read."""

import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from mkdocstrings import Inventory
from playwright.sync_api import sync_playwright

import equilog
from equilog.verify import CHECKS

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as `make docs` does, warnings being errors."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


def public_names() -> list[str]:
    """Every name that a module of the package lists in __all__, its submodules and those that only compute aside."""
    modules = ["equilog", *(found.name for found in pkgutil.walk_packages(equilog.__path__, "equilog."))]
    modules = [name for name in modules if not name.startswith("equilog.ops")]
    return [
        f"{module}.{name}"
        for module in modules
        for name in getattr(importlib.import_module(module), "__all__", ())
        if name != "__version__" and not inspect.ismodule(getattr(importlib.import_module(module), name))
    ]


@pytest.mark.slow
def test_every_public_name_is_documented(site: Path) -> None:
    with (site / "objects.inv").open("rb") as file:
        documented = set(Inventory.parse_sphinx(file))
    names = public_names()
    assert "equilog.optimum.regret" in names
    assert [name for name in names if name not in documented] == []


class Resources(HTMLParser):
    """The addresses a page loads by itself when it is opened."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        loads = tag in ("script", "img", "iframe", "source") or (tag == "link" and values.get("rel") != "canonical")
        self.loaded += [values[key] or "" for key in ("src", "href", "srcset") if loads and key in values]


@pytest.mark.slow
def test_a_page_fetches_nothing_from_elsewhere_and_shows_no_raw_formula(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) >= len(PAGES)
    for page in pages:
        text = page.read_text()
        resources = Resources(text).loaded
        assert [address for address in resources if re.match(r"(https?:)?//", address)] == [], page
        assert 'class="arithmatex"' not in text, page
        words = re.sub(r"<(pre|code|math|script|style|svg)\b.*?</\1>", "", text, flags=re.DOTALL)
        assert not re.search(r"\\[a-z]{3,}", words), page
    assert "<math" in (site / "theory.html").read_text()
    assert not re.search(r"(@import|url\()\s*[\"']?https?:", "".join(css.read_text() for css in site.rglob("*.css")))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed: the site is not opened")
def test_a_page_opened_as_a_file_finds_words_of_others_and_changes_its_colours(site: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_context(offline=True).new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto((site / "losses" / "index.html").as_uri())
        # Key by key: the page listens to keys, and to what stands there when the field is first entered.
        page.locator(".md-search__input").press_sequentially("strictly proper")
        page.wait_for_selector(".md-search-result__item a[href*='glossary.html']")
        page.keyboard.press("Escape")
        schemes = set()
        for _ in range(3):
            page.click(".md-header__option label:not([hidden])")
            schemes.add(page.get_attribute("body", "data-md-color-scheme"))
        browser.close()
    assert {"default", "slate"} <= schemes
    assert faults == []


@pytest.mark.slow
def test_figures_and_checks_are_those_of_verify(site: Path) -> None:
    text = (site / "checks.html").read_text()
    assert [check.name for check in CHECKS if f'id="{check.name}"' not in text] == []
    assert "FAIL" not in text
    for figure in re.findall(r'src="(figures/[^"]+)"', text):
        assert (site / figure).stat().st_size > 0


def test_pages_cite_checks_that_exist() -> None:
    cited = {name for page in PAGES for name in re.findall(r"checks\.md#([\w-]+)", page.read_text())}
    assert len(cited) > 20
    assert cited - {check.name for check in CHECKS} == set()


def pages_with_examples() -> list[Any]:
    """Pages with blocks fenced as python; one of tools that take their time is slow."""
    pages = [page for page in PAGES if "```python" in page.read_text()]
    slow = pytest.mark.slow
    return [pytest.param(page, id=page.stem, marks=slow if page.stem == "switching" else ()) for page in pages]


@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*")  # Lightning of its own calls to torch
@pytest.mark.filterwarnings("ignore:.*does not have many workers")  # of a loader of a few rows
@pytest.mark.parametrize("page", pages_with_examples())
def test_examples_on_the_pages_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks fenced as python are a script, page by page; a fragment that cannot run alone is fenced as py."""
    monkeypatch.chdir(tmp_path)  # where trainers leave their checkpoints
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    exec(compile("\n".join(blocks), str(page), "exec"), {"__name__": page.stem})
