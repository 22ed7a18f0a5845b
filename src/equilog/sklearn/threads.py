"""One thread for small networks: their matrices take less time than many threads take to meet."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise

import torch

SMALL = 2**25
"""Multiply-adds of a batch up to which one thread is taken: two milliseconds of one, forward and backward."""


class _Threads(threading.local):
    """How often the thread that asks is inside `one_thread`."""

    depth = 0


_current = _Threads()
_lock = threading.Lock()
_training = 0
"""How many threads are inside `one_thread`."""
_before = 1
"""The number of threads when the first of those that train now began."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, and on as many as before afterwards, also where the body raises.

    torch keeps the number for each Python thread, but a thread that is new takes over what was set last in any. Of
    several that train at once (joblib's "threading" backend) some would so find 1 and leave it behind for good. What
    the first of them found counts for all.
    """
    global _training, _before
    if _current.depth == 0:
        with _lock:
            # Asked for in any case: a thread that has not asked yet would at first use take over what was set last.
            threads = torch.get_num_threads()
            if _training == 0:
                _before = threads
            _training += 1
            torch.set_num_threads(1)
    _current.depth += 1
    try:
        yield
    finally:
        _current.depth -= 1
        if _current.depth == 0:
            with _lock:
                _training -= 1
                torch.set_num_threads(_before)


def threads_for(widths: Sequence[int], batch_size: int) -> AbstractContextManager[None]:
    """Return `one_thread` for networks that are small, and else a context that changes nothing.

    Args:
        widths: the numbers of features, hidden units and outputs of a perceptron.
        batch_size: rows computed at once.
    """
    work = batch_size * sum(inputs * outputs for inputs, outputs in pairwise(widths))
    return one_thread() if work <= SMALL else nullcontext()
