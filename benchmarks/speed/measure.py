"""What is measured of one step: its time against another's, and its peak memory."""

import os
import statistics
import sys
from collections.abc import Callable

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer

Step = Callable[[], object]

MALLOC = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=10000000000"
"""Large pages, and freed memory kept: else the time of large tensors is that of the kernel clearing fresh pages."""


def with_malloc_setting() -> None:
    """Start this process again with the malloc setting, unless it has one: glibc reads it only once."""
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ |= {"GLIBC_TUNABLES": MALLOC, "KINETO_LOG_LEVEL": "9"}
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def forward_and_backward(loss: Callable[..., Tensor], *tensors: Tensor) -> Step:
    """Return a step that forms the loss and the gradient of every tensor that takes one, warmed up."""

    def step() -> None:
        loss(*tensors).backward()
        for tensor in tensors:
            tensor.grad = None

    step()
    return step


def ratios(steps: dict[str, Step], baseline: Step, rounds: int, seconds: float) -> tuple[float, dict[str, float]]:
    """Return the milliseconds of the baseline, and the time of each step over it.

    They take turns, and a ratio is the median of those of the turns, since a machine's speed drifts.
    """
    base: list[float] = []
    each: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        base.append(_time(baseline, seconds))
        for name, step in steps.items():
            each[name].append(_time(step, seconds) / base[-1])
    return 1e3 * statistics.median(base), {name: statistics.median(found) for name, found in each.items()}


def peak_bytes(step: Step) -> int:
    """Return by how much a step's allocations exceed what there was before it, at their peak."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def _time(step: Step, seconds: float) -> float:
    return Timer("step()", globals={"step": step}).blocked_autorange(min_run_time=seconds).median
