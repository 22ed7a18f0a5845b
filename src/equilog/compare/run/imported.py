"""What users name by its import path."""

import importlib
import os
import sys
from typing import Any

from equilog.compare.errors import DataError


def is_import_path(name: str) -> bool:
    """Return whether a name is written package.module:Name."""
    return ":" in name


def imported(path: str, option: str) -> Any:
    """Return what package.module:Name is, the folder the command was started in being looked at first.

    Raises:
        DataError: no such module or name; `option` is the option that it was given for.
    """
    module, _, name = path.partition(":")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        thing: Any = importlib.import_module(module)
        for part in name.split("."):
            thing = getattr(thing, part)
    except Exception as error:  # The module runs as it is imported, and may raise anything.
        raise DataError(
            f"{option} {path} cannot be imported: {type(error).__name__}: {error}. Give package.module:Name, the "
            "module being in this folder or installed."
        ) from error
    return thing
