"""Files written whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from equilog.compare.errors import DataError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write a file or a folder to; it takes the place of `path` when all went well.

    Raises:
        DataError: the place cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        workplace = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        new = workplace / path.name
        yield new
        if path.is_dir():
            os.replace(path, workplace / "replaced")
        os.replace(new, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def cannot_write(path: Path, error: OSError) -> DataError:
    """Return the error that says so."""
    return DataError(f"Cannot write {path}: {error.strerror or error}. Choose another place with --out.")
