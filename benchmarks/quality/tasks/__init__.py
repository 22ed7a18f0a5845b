"""The tasks of the study, a family a module: each has `TASKS` and is found by `all_tasks`."""

from importlib import import_module
from pkgutil import iter_modules

from benchmarks.quality.task import Task


def all_tasks() -> dict[str, Task]:
    """Return every task of this folder's modules by name, in the order of the modules and of their lists."""
    found: dict[str, Task] = {}
    for module in sorted(iter_modules(__path__), key=lambda module: module.name):
        for task in import_module(f"{__name__}.{module.name}").TASKS:
            if task.name in found:
                raise ValueError(f"Two tasks are called {task.name!r}.")
            found[task.name] = task
    return found
