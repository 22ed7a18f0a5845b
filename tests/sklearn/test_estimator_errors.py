"""Parameters and data that cannot be used are named."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from tests.sklearn.toys import Data, quick

from equilog.baselines.registry import LOSSES, TargetCounts


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"loss": "cros-entropy"}, "Did you mean cross-entropy"),
        ({"loss": "zzz"}, r'LogBalancedClassifier: No loss is called "zzz". There are: .*cross-entropy'),
        ({"loss": "binary_cross_entropy"}, '"binary-cross-entropy" does not fit multiclass targets'),
        ({"loss": 3}, "name of a loss or a Criterion; got int"),
        ({"hidden_units": 128}, r"hidden_units must be a tuple .* got 128"),
        ({"hidden_units": (0,)}, r"hidden_units must be a tuple .* got \(0,\)"),
        ({"dropout": 1}, r"dropout must be a number in \[0, 1\); got 1"),
        ({"learning_rate": 0}, "learning_rate must be a number above 0; got 0"),
        ({"max_epochs": 0}, "max_epochs must be an integer of at least 1; got 0"),
        ({"batch_size": 2.5}, "batch_size must be an integer of at least 1; got 2.5"),
        ({"validation_fraction": 1.5}, r"validation_fraction must be a number in \(0, 1\); got 1.5"),
        ({"max_rise": -0.1}, "max_rise must be a number of at least 0, or None; got -0.1"),
        ({"max_rise": float("nan")}, "max_rise must be a number of at least 0, or None; got nan"),
        ({"patience": "long"}, "patience must be an integer of at least 1; got 'long'"),
        ({"task": "regression"}, "task must be one of auto, multiclass, multilabel, soft; got 'regression'"),
        ({"task": "multilabel"}, "0 and 1 alone"),
    ],
)
def test_bad_parameters_are_named(digits: Data, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quick().set_params(**parameters).fit(*digits)


def test_bad_rows_and_weights_are_named(digits: Data) -> None:
    X, y = digits
    with pytest.raises(ValueError, match="column 0 of y mixes strings"):
        quick().fit(X, np.where(y > 4, "many", y.astype(object)))
    with pytest.raises(ValueError, match="one class, 3"):
        quick().fit(X, np.full(len(y), 3))
    with pytest.raises(ValueError, match=r"sample_weight must be at least 0.* got -1 to -1"):
        quick().fit(X, y, sample_weight=np.full(len(y), -1))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        quick().fit(X, y, sample_weight=np.ones(3))
    with pytest.raises(ValueError, match=r"the loss overflowed.*StandardScaler"):
        quick("cross-entropy", early_stopping=False).fit(X * 3e38, y)
    with pytest.raises(NotFittedError):
        quick().score(X, y)


def test_multi_label_module_on_classes_is_refused(digits: Data) -> None:
    binary = LOSSES["binary-cross-entropy"].build(TargetCounts(torch.ones(10), 10))
    with pytest.raises(ValueError, match=re.escape("is for multi-label and y is multiclass")):
        quick(binary).fit(*digits)
