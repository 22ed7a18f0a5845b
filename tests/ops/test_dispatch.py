"""Which way a call goes, and calls of nothing."""

import pytest
import torch
from torch import Tensor

from equilog import ops
from equilog.ops import dispatch
from equilog.ops.native.call import has_kernels

SCORES = torch.zeros(20, 4, requires_grad=True)
INDEX = torch.arange(20) % 4


def way(values: Tensor) -> str:
    """The function of autograd that made the values."""
    return type(values.grad_fn).__name__.removesuffix("Backward")


@pytest.mark.skipif(not has_kernels(), reason="no C++ compiler here")
def test_float32_on_the_cpu_goes_by_the_kernels() -> None:
    assert way(ops.index_log_odds(SCORES, INDEX)) == "NativeLogOdds"
    assert way(ops.index_log_odds(SCORES.double(), INDEX)) == "ChunkedLogOdds"
    learnt = torch.zeros(4, requires_grad=True)  # of which the kernel has no gradient
    assert way(ops.index_log_odds(SCORES, INDEX, learnt)) == "ChunkedLogOdds"


def test_a_choice_may_be_restricted() -> None:
    with dispatch.only("chunked"):
        assert way(ops.index_log_odds(SCORES, INDEX)) == "ChunkedLogOdds"
        with dispatch.only():
            assert way(ops.index_log_odds(SCORES, INDEX)) == "ReferenceLogOdds"
        assert way(ops.index_log_odds(SCORES, INDEX)) == "ChunkedLogOdds"
    with pytest.raises(KeyError), dispatch.only("reference"):
        raise KeyError
    assert way(ops.index_log_odds(SCORES, INDEX)) in ("NativeLogOdds", "ChunkedLogOdds")


def test_every_operation_names_its_ways() -> None:
    names = {name for operation in dispatch.OPERATIONS.values() for name, *_ in operation.ways}
    assert names == {"dtensor", "triton", "native", "chunked", "reference"}
    assert dispatch.OPERATIONS.keys() <= {*ops.__all__}


@pytest.mark.parametrize(("size", "pools"), [(3, 0), (0, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_rows_make_no_pool_unless_all_of_them_are_to_be_one(size: int, pools: int, dtype: torch.dtype) -> None:
    scores, rows = torch.zeros(0, 4, dtype=dtype, requires_grad=True), torch.zeros(0, dtype=dtype)
    index = torch.zeros(0, dtype=torch.int64)
    log_sums, residual = ops.pooled_class_log_odds(scores, torch.zeros(0, 4, dtype=dtype), rows, size, True)
    assert residual is not None
    assert residual.tolist() == [[0.0] * 4] * pools
    for sums, columns in (
        (log_sums, 4),
        (ops.pooled_pair_log_sums(scores, index, rows, size), 16),
        (ops.pooled_label_log_sums(scores[:, 0], rows, None, size), 2),
        (ops.log_sum_exp_at_first(scores[:, :1], index, size, 5), size),
    ):
        assert sums.shape == (pools, columns)
        assert (sums == -torch.inf).all()
        sums.sum().backward()
    assert ops.index_log_odds(scores, index).shape == (0,)
    assert ops.indexed_label_log_sums(scores, index.view(0, 1), None).shape == (0, 2)
    assert ops.log_sum_exp_by(scores, index, 2).tolist() == [[-torch.inf] * 4] * 2
