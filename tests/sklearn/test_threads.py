"""The number of threads while small networks train, and that it is put back."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from tests.sklearn.toys import Data, quick
from torch import Tensor

from equilog.baselines import CrossEntropy
from equilog.sklearn.threads import SMALL, one_thread, threads_for


@pytest.fixture
def _three_threads(_one_thread: None) -> Iterator[None]:
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(1)


class Counting(CrossEntropy):
    """Cross-entropy that notes the number of threads it is computed with."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[int] = set()

    def forward(self, *args: Any, **options: Any) -> Tensor:
        self.threads.add(torch.get_num_threads())
        return super().forward(*args, **options)


@pytest.mark.usefixtures("_three_threads")
@pytest.mark.parametrize(("hidden_units", "threads"), [((16,), {1}), ((1024,), {3})])
def test_small_networks_train_on_one_thread_and_large_ones_on_all(
    digits: Data, hidden_units: tuple[int, ...], threads: set[int]
) -> None:
    X, y = digits
    model = quick(Counting(), hidden_units=hidden_units, max_epochs=1, batch_size=1000).fit(X, y)
    assert model.criterion_.criteria[0].threads == threads
    assert torch.get_num_threads() == 3
    model.partial_fit(X, y)
    assert model.criterion_.criteria[0].threads == threads
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("_three_threads")
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_number_comes_back_after_an_error(digits: Data, error: type[BaseException]) -> None:
    class Failing(CrossEntropy):
        def forward(self, *_: Any, **__: Any) -> Tensor:
            raise error

    with pytest.raises(error):
        quick(Failing()).fit(*digits)
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("_three_threads")
def test_one_inside_another_leaves_the_number_to_the_outer() -> None:
    with one_thread():
        with one_thread():
            pass
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("_three_threads")
def test_threads_that_train_at_once_all_get_theirs_back(digits: Data) -> None:
    """A thread that begins while another trains finds 1 set, and must not leave that behind."""
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))
    patience = 60

    def first() -> int:
        with one_thread():
            first_is_in.set()
            assert second_is_in.wait(patience)
        first_is_out.set()
        return torch.get_num_threads()

    def second() -> tuple[int, int]:
        assert first_is_in.wait(patience)
        with one_thread():
            second_is_in.set()
            assert first_is_out.wait(patience)
            inside = torch.get_num_threads()
        return inside, torch.get_num_threads()

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.submit(first), pool.submit(second)
        assert one.result() == 3
        assert two.result() == (1, 3)
    with ThreadPoolExecutor(1) as pool:  # a new thread takes over what was set last
        assert pool.submit(torch.get_num_threads).result() == 3

    X, y = digits
    expected = quick().fit(X, y).predict_proba(X)
    with ThreadPoolExecutor(3) as pool:
        for fitted in pool.map(lambda _: quick().fit(X, y), range(3)):
            np.testing.assert_array_equal(fitted.predict_proba(X), expected)
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("_three_threads")
def test_small_is_by_the_multiply_adds_of_a_batch() -> None:
    rows = SMALL // (64 * 128 + 128 * 16)
    for batch_size, threads in ((rows, 1), (rows + 1, 3)):
        with threads_for([64, 128, 16], batch_size):
            assert torch.get_num_threads() == threads
