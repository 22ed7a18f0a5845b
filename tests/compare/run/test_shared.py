import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from equilog.compare.run import shared as module
from equilog.compare.run.shared import let_go, shared


def test_a_large_array_is_in_a_file_that_goes_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = np.arange(15, dtype=np.float32).reshape(5, 3)
    np.testing.assert_array_equal(shared([rows[:3], rows[3:]], 5), rows)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(module, "FEWEST_BYTES", 60)
    array = shared(iter([rows[:3], rows[3:]]), 5)
    np.testing.assert_array_equal(array, rows)
    assert array.flags.writeable
    assert len(list(tmp_path.iterdir())) == 1
    del array
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the pages of a process")
def test_an_array_let_go_takes_no_memory_until_it_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = np.ones((1000, 500), dtype=np.float32)
    array = shared([rows], 1000)

    def resident() -> int:
        [kilobytes] = re.findall(rf"{tmp_path}.*?\nRss: +(\d+)", Path("/proc/self/smaps").read_text(), re.DOTALL)
        return int(kilobytes)

    assert array.sum() == rows.sum()
    assert resident() >= rows.nbytes // 1024
    let_go(array[10:].reshape(-1))
    assert resident() == 0
    np.testing.assert_array_equal(array, rows)
    let_go(rows)
    assert rows.all()
