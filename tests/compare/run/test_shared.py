import tempfile

import numpy as np

from equilog.compare.run import shared as module
from equilog.compare.run.shared import shared


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
