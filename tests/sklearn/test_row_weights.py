"""Weights of rows."""

import numpy as np
from tests.sklearn.toys import Data, flat, quick


def test_weight_two_is_the_row_twice() -> None:
    generator = np.random.default_rng(0)
    X, y = generator.normal(size=(60, 4)), generator.integers(0, 3, 60)
    weight = generator.integers(1, 4, 60)
    whole = {"early_stopping": False, "batch_size": 1000, "max_epochs": 30}
    weighted = quick("cross-entropy", **whole).fit(X, y, sample_weight=weight)
    repeated = quick("cross-entropy", **whole).fit(np.repeat(X, weight, 0), np.repeat(y, weight))
    # The same sums in another order; Adam's division by small second moments enlarges float32's rounding.
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), atol=1e-4)
    unweighted = quick("cross-entropy", **whole).fit(X, y)
    assert abs(unweighted.predict_proba(X) - weighted.predict_proba(X)).max() > 1e-2


def test_rows_of_weight_zero_are_as_good_as_absent(tasks: dict[str, Data]) -> None:
    for X, y in tasks.values():
        kept = np.arange(len(X)) % 3 > 0
        weighted = quick().fit(X, y, sample_weight=kept)
        absent = quick().fit(X[kept], y[kept])
        for a, b in zip(flat(weighted.predict_proba(X)), flat(absent.predict_proba(X)), strict=True):
            np.testing.assert_array_equal(a, b)


def test_only_ratios_of_weights_count(digits: Data) -> None:
    X, y = digits
    weight = 1.0 + y
    models = [quick().fit(X, y, sample_weight=factor * weight) for factor in (1.0, 1e-6)]
    np.testing.assert_allclose(models[0].predict_proba(X), models[1].predict_proba(X), atol=1e-5)
