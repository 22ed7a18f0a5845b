"""The rule of imports: the rooms of the package stand in an order, and no arrow runs up."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "equilog"

ROOMS = (
    "_version",
    "error_text",
    "decisions",
    "ops",
    "inputs",
    "core",
    "init_bias",
    "calibration",
    "losses",
    "accumulation",
    "optimum",
    "article",
    "baselines",
    "sklearn",
    "compare.errors",
    "compare.files",
    "compare.data",
    "compare.judge",
    "compare.show",
    "compare.run",
    "verify",
    "cli",
    "__main__",
)
"""From the lowest up. CONTRIBUTING says what is in each."""


def room_of(module: str) -> str | None:
    """The room that a module of the package stands in; None for the package itself, which only hands names on."""
    name = module.removeprefix("equilog").lstrip(".")
    rooms = [room for room in ROOMS if name == room or name.startswith(room + ".")]
    return max(rooms, key=len) if rooms else None


def arrows() -> Iterator[tuple[str, str, str]]:
    """Every import of the package within it: from which module, to which, and whose room comes first."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        module = ".".join(parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module} imports by dots, which hides where from"
                names = [node.module or ""]
                if node.module in ("equilog", "equilog.compare"):
                    names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                if name.split(".")[0] == "equilog":
                    yield module, name, str(path.relative_to(PACKAGE))


def test_every_module_stands_in_a_room() -> None:
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        if module not in ("equilog", "equilog.compare"):
            assert room_of(module) is not None, f"{module} stands in no room: add one to ROOMS and CONTRIBUTING"


def test_no_arrow_runs_up() -> None:
    wrong = []
    for source, target, path in arrows():
        lower, upper = room_of(source), room_of(target)
        if lower is None or upper is None:
            continue
        if ROOMS.index(upper) > ROOMS.index(lower):
            wrong.append(f"{path} imports {target}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", [room for room in ROOMS if not room.startswith("_")])
def test_the_map_names_every_room(room: str) -> None:
    map_of_rooms = (PACKAGE.parents[1] / "CONTRIBUTING.md").read_text()
    assert f"`{room.replace('.', '/')}" in map_of_rooms
