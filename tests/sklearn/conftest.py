"""Data for the estimator's tests."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, make_multilabel_classification
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from tests.sklearn.toys import Data


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Matrices this small are slower on many threads, and the most so where cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def digits() -> Data:
    """Half of the digits, of which each has two thirds of the rows of the one before it."""
    X, y = load_digits(return_X_y=True)
    rows = np.concatenate([np.flatnonzero(y == digit)[: round(170 * 0.67**digit)] for digit in range(10)])
    return X[rows] / 16, y[rows]


@pytest.fixture(scope="module")
def tasks(digits: Data) -> dict[str, Data]:
    """One data set for each kind of target."""
    X, y = digits
    teacher = LogisticRegression(max_iter=200).fit(X, y)
    many = make_multilabel_classification(300, n_features=20, n_classes=5, n_labels=2, random_state=0)
    return {
        "multiclass": (X, y),
        "columns": (X, np.column_stack([y, y % 3 + 5])),
        "multilabel": (StandardScaler().fit_transform(many[0]), many[1]),
        "soft": (X, teacher.predict_proba(X)),
    }
