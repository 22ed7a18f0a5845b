"""Inputs of a model that processes share by mapping one file, where each would otherwise get a copy of its own."""

import ctypes
import mmap
import os
import tempfile
import weakref
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import IO, Any

import numpy as np
import pyarrow
from numpy.typing import NDArray

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""What malloc.h calls the options."""

FEWEST_BYTES = 2**20
"""Of an array that is worth a file."""


def shared(blocks: Iterable[NDArray[np.float32]], rows: int) -> NDArray[np.float32]:
    """Return the array (rows, d) of these blocks, in a file if it is large, which is deleted with the array.

    The whole is never in memory but as pages of the file, which the system can drop. It is mapped as copy on write:
    torch warns of arrays that may not be written to, and copies them.
    """
    rest = iter(blocks)
    first = next(rest)
    width = first.shape[1]
    if rows * first[0].nbytes < FEWEST_BYTES:
        return np.concatenate([first, *rest])
    descriptor, path = tempfile.mkstemp(prefix="equilog-", suffix=".float32")
    with open(descriptor, "wb") as file:
        first.tofile(file)
        del first
        # A `for` here would keep each until the next one is there.
        deque(map(partial(_append, file), rest), maxlen=0)
    mapped = np.memmap(path, np.float32, "c", shape=(rows, width))
    weakref.finalize(mapped, _remove, path, os.getpid())
    give_back()
    return mapped


def let_go(array: NDArray[np.float32]) -> None:
    """Leave a shared array to the others that map it: this process reads it again where it should need it."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # Windows has it not.
        owner.madvise(mmap.MADV_DONTNEED)


def keep_little() -> None:
    """Have this process keep at most 8 MB of free memory at the end of each heap.

    glibc keeps up to 64, and in the heaps of threads `give_back` does not reach it: 45 MB after 100,000 rows were
    prepared in one.
    """
    _glibc("mallopt", M_TRIM_THRESHOLD, 2**23)
    # What is larger than this is given back by itself; once the other is set, that would be from 128 KB on.
    _glibc("mallopt", M_MMAP_THRESHOLD, 2**22)


def give_back() -> None:
    """Give the system what is free.

    glibc keeps it in the heaps of threads and Arrow in a pool: 150 MB after 100,000 rows were read, and 40 after a
    training on them.
    """
    pyarrow.default_memory_pool().release_unused()
    _glibc("malloc_trim", 0)


def _glibc(function: str, *arguments: int) -> None:
    with suppress(AttributeError, OSError, TypeError):  # Another C library, or none that can be named so.
        getattr(ctypes.CDLL(None), function)(*arguments)


def _append(file: IO[bytes], block: NDArray[np.float32]) -> None:
    block.tofile(file)


def _remove(path: str, process: int) -> None:
    if os.getpid() == process:
        with suppress(OSError):
            os.remove(path)
