"""The operations import nothing of the package that lies above them, and ask about hardware in one place."""

import ast
from pathlib import Path

import pytest

import equilog.ops

ROOT = Path(equilog.ops.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The modules that a file imports, anywhere in it; those beside it by a leading dot."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names if module == "equilog")}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_an_operation_imports_operations_alone(path: Path) -> None:
    above = {
        name
        for name in imported(path)
        if name.startswith(".") or (name.split(".")[0] == "equilog" and name.split(".")[1:2] != ["ops"])
    }
    assert above - {"equilog"} == set()


def test_triton_is_imported_by_its_ways_alone() -> None:
    """And those where they are called, so that the package loads without it."""
    assert {path.stem.split("_")[0] for path in FILES if "triton" in imported(path)} == {"triton"}


@pytest.mark.parametrize("question", ["_are_functorch_transforms_active", "is_legacy_batchedtensor", "find_spec"])
def test_hardware_and_transformations_are_asked_about_in_one_place(question: str) -> None:
    assert [path.name for path in FILES if question in path.read_text()] == ["dispatch.py"]
