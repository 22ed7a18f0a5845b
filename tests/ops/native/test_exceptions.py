"""An exception in a C++ kernel is one of Python's, whichever thread it is thrown in."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from equilog.ops.native import build
from equilog.ops.native.call import has_kernels, run

pytestmark = pytest.mark.skipif(not has_kernels(), reason="no C++ compiler here")


@pytest.fixture(params=[1, 4])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_no_memory_is_a_memory_error() -> None:
    """For sums of so many classes; they are asked for before a score is read, by every thread for itself."""
    nothing = torch.zeros(16)
    rows, classes, size = 4, 2**50, 1
    with pytest.raises(MemoryError, match="soft_odds_forward"):
        run("soft_odds_forward", *(nothing, 0) * 2, nothing, rows, classes, size, nothing, nothing, None)


def test_another_exception_is_a_runtime_error() -> None:
    """std::length_error: a vector longer than any can be."""
    slot = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(RuntimeError, match=r"first_of_slot.*EQUILOG_NATIVE=0"):
        run("first_of_slot", slot, 1, 1, 2**62, slot)


@pytest.mark.usefixtures("threads")
def test_kernels_work_after_an_exception() -> None:
    slot = torch.tensor([3, 3, 1])
    with pytest.raises(MemoryError):
        run("first_of_slot", slot, 3, 3, 2**50, slot)
    assert run("first_of_slot", slot, 3, 3, 4, slot) == 0
    assert slot.tolist() == [0, 0, 2]


def test_every_kernel_catches_what_it_throws() -> None:
    """Else an exception would end Python."""
    sources = "".join(path.read_text() for path in Path(build.__file__).parent.glob("*.h"))
    assert sources.count('extern "C"') == sources.count("} catch (...) {\n    return failure();\n}") > 0
