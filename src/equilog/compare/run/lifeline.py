"""Processes that end with the one that started them, however that one ends."""

import os
import threading
import time
from functools import cache

SECONDS = 1.0
"""Between two looks at whether the parent is alive."""


@cache
def end_with(parent: int) -> None:
    """End this process soon after its parent has gone; does nothing in a process that is no child of `parent`.

    A parent that is killed cannot tell its workers, which would wait for work in vain and keep their memory. The
    kernel's own signal for this goes by the thread that started the worker, which may end long before the process does.
    """
    if os.getppid() == parent:
        threading.Thread(target=_watch, args=(parent,), name="lifeline", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(SECONDS)
    os._exit(1)
