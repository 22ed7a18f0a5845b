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

    A file takes the place of a file only, a folder that of a folder; a link stays, and what it leads to is replaced.

    Raises:
        DataError: the place cannot be written to.
    """
    place = path.resolve()
    if place.exists() and not (place.is_file() or place.is_dir()):
        # A device such as /dev/null would become a plain file for everybody.
        raise DataError(f"Cannot write {path}: it is neither a file nor a folder. Choose another place with --out.")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        workplace = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        # Under its own name, for some writers go by the ending.
        new, earlier = workplace / place.name, workplace / f"{place.name}~"
        yield new
        if new.is_dir() and place.is_dir():
            os.replace(place, earlier)
        try:
            os.replace(new, place)
        except OSError:
            if earlier.exists():
                os.replace(earlier, place)
            raise
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def cannot_write(path: Path, error: OSError) -> DataError:
    """Return the error that says so."""
    return DataError(f"Cannot write {path}: {error.strerror or error}. Choose another place with --out.")
