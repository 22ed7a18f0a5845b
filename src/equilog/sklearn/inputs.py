"""X, y and weights of rows, checked as scikit-learn checks them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.validation import check_consistent_length, validate_data

from equilog.sklearn.targets import columns_of


def read_features(estimator: Any, X: Any, *, reset: bool = False) -> Any:
    """Return X as a float32 array or CSR matrix (n, d).

    Args:
        estimator: what has, or with `reset` gets, n_features_in_ and feature_names_in_.
        X: what the user gave.
        reset: whether X is that of a new fit.
    """
    return validate_data(estimator, X, accept_sparse="csr", dtype=np.float32, reset=reset)


def read_rows(
    estimator: Any, X: Any, y: Any, sample_weight: Any, *, reset: bool
) -> tuple[Any, list[NDArray[Any]], NDArray[np.float64]]:
    """Return features, target columns and weights of the rows whose weight is not zero."""
    if hasattr(y, "iloc"):
        # Columns of pandas have types of their own, which one array for all would lose.
        array, features = y, read_features(estimator, X, reset=reset)
        columns = [check_array(c, ensure_2d=False, dtype=None, input_name="y") for c in columns_of(y)]
        check_consistent_length(features, y)
    else:
        features, array = validate_data(
            estimator, X, y, multi_output=True, accept_sparse="csr", dtype=np.float32, reset=reset
        )
        columns = columns_of(array)
    if len(columns) == 1 and array.ndim == 2 and estimator.task != "multilabel":
        column_or_1d(columns[0][:, None], warn=True)
    if sample_weight is None:
        weight = np.ones(features.shape[0])
    else:
        weight = check_array(sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
        weight = column_or_1d(weight)
        check_consistent_length(features, weight)
    if (weight < 0).any() or not weight.any():
        raise ValueError(
            "LogBalancedClassifier: sample_weight must be at least 0, and not zero for every row; got "
            f"{weight.min():g} to {weight.max():g}."
        )
    kept = weight > 0
    if kept.all():
        return features, columns, weight
    return features[kept], [column[kept] for column in columns], weight[kept]
