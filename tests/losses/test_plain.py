"""Calls of shapes that came before are one operation, and mean what the first of them did."""

import pickle

import pytest
import torch
from torch import Tensor

from equilog import LogBalancedCrossEntropyLoss, log_balanced_cross_entropy
from equilog.ops import dispatch
from equilog.ops.native.call import has_kernels

pytestmark = pytest.mark.skipif(not has_kernels(), reason="no C++ compiler here")

LOGITS = torch.randn(12, 5, generator=torch.manual_seed(0))
TARGET = torch.arange(12) % 5
SOME_IGNORED = torch.where(TARGET == 2, -100, TARGET)


def value_and_gradient(loss: object, target: Tensor, **options: object) -> tuple[Tensor, Tensor]:
    logits = LOGITS.clone().requires_grad_()
    value = loss(logits, target, **options)  # type: ignore[operator]
    value.backward()
    assert logits.grad is not None
    return value.detach(), logits.grad


@pytest.mark.parametrize("pool", [None, 1, 4, 5])
@pytest.mark.parametrize(
    "options", [{}, {"scale": 2.0}, {"inner": "power"}, {"compensation": None}, {"prior": [1, 2, 3, 4, 5]}]
)
def test_a_later_call_is_as_the_general_way_has_it(pool: int | None, options: dict[str, object]) -> None:
    options = {"pool": pool, **options}
    with dispatch.only("reference"):
        expected = [value_and_gradient(log_balanced_cross_entropy, t, **options) for t in (TARGET, SOME_IGNORED)]
    for _ in range(3):  # of the same shapes: the first plain call, a later one, one that is not plain
        for target, of_target in zip((TARGET, TARGET, SOME_IGNORED), (0, 0, 1), strict=True):
            found = value_and_gradient(log_balanced_cross_entropy, target, **options)
            torch.testing.assert_close(found, expected[of_target], rtol=1e-5, atol=1e-6)


def test_a_running_prior_counts_the_same_in_plain_calls_and_others() -> None:
    targets = [TARGET, TARGET, SOME_IGNORED, TARGET, SOME_IGNORED, TARGET]
    plain = LogBalancedCrossEntropyLoss(5, pool=4, prior="auto")
    found = [value_and_gradient(plain, target) for target in targets]
    with dispatch.only("reference"):
        general = LogBalancedCrossEntropyLoss(5, pool=4, prior="auto")
        expected = [value_and_gradient(general, target) for target in targets]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert plain.class_count is not None
    torch.testing.assert_close(plain.class_count, general.class_count, rtol=0, atol=0)
    assert plain.class_count.tolist() == [18.0, 18.0, 8.0, 12.0, 12.0]


def test_a_later_call_is_refused_as_the_first_was() -> None:
    log_balanced_cross_entropy(LOGITS, TARGET)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"target holds class 5, but there are 5 classes"):
            log_balanced_cross_entropy(LOGITS, TARGET + 3)
    log_balanced_cross_entropy(LOGITS, TARGET, pool=1)
    with pytest.raises(ValueError, match="pool must be"):
        log_balanced_cross_entropy(LOGITS, TARGET, pool=True)  # which equals 1
    with pytest.raises(ValueError, match="target must be"):
        log_balanced_cross_entropy(LOGITS, TARGET[:-1])


def test_copies_and_files_have_nothing_of_earlier_calls() -> None:
    criterion = LogBalancedCrossEntropyLoss(5, pool=4)
    empty = len(pickle.dumps(criterion.options))
    criterion(LOGITS, TARGET)
    assert len(pickle.dumps(criterion.options)) == empty
    torch.testing.assert_close(pickle.loads(pickle.dumps(criterion))(LOGITS, TARGET), criterion(LOGITS, TARGET))
