"""What new rows are warned of, and what passes."""

import numpy as np
import pandas as pd
import pytest

from equilog.compare.data.features import make_preprocessor
from equilog.compare.data.kinds import typed_table
from equilog.compare.run.drift import drift, prior_shift


@pytest.fixture(scope="module")
def fitted():
    rows = np.arange(100)
    frame = pd.DataFrame(
        {
            "amount": [f"{row % 7},{row % 10}" for row in rows],
            "day": [f"{1 + row % 28:02d}.{1 + row % 12:02d}.2024" for row in rows],
            "town": np.array(["Rome", "Oslo", "Bern"])[rows % 3],
        }
    )
    typed = typed_table(frame)
    preprocessor, _ = make_preprocessor(typed.frame, typed.columns)
    return preprocessor.fit(typed.frame), frame


def test_rows_like_those_of_training_are_not_warned_of(fitted):
    preprocessor, frame = fitted
    assert drift(preprocessor, frame) == []
    assert drift(preprocessor, frame.assign(amount="?", day="9999-12-31", town=None).assign(day="31.12.9999")) == []


def test_numbers_dates_and_categories_that_are_none_are_counted(fitted):
    preprocessor, frame = fitted
    rows = frame.copy()
    rows["amount"] = "lots"
    rows.loc[:24, "day"] = "soon"
    rows.loc[:9, "town"] = "Paris"
    rows.loc[10:14, "town"] = "Wien"
    amount, town, day = drift(preprocessor, rows)
    assert amount == 'Column "amount": 100% of the cells are no numbers ("lots"), and count as missing.'
    assert day == 'Column "day": 25% of the cells are no dates ("soon"), and count as missing.'
    assert town == 'Column "town": 15% of the cells are categories that training had none of ("Paris", "Wien").'


def test_a_single_cell_of_many_is_not_worth_a_warning(fitted):
    preprocessor, frame = fitted
    rows = pd.concat([frame] * 3, ignore_index=True)
    rows.loc[0, "amount"] = "lots"
    assert drift(preprocessor, rows) == []


@pytest.mark.parametrize("exclusive", [True, False])
def test_class_frequencies_are_warned_of_where_chance_does_not_explain_them(exclusive):
    shares, names = [[0.9, 0.1]], [["common", "rare"]]

    def said(rare: float, rows: int) -> list[str]:
        posterior = np.tile([1 - rare, rare], (rows, 1))
        return prior_shift([posterior], shares, ["y"], names, exclusive=exclusive)

    assert said(0.1, 1000) == []
    assert said(0.18, 1000) == []
    assert said(0.9, 20) == []
    [warning] = said(0.4, 1000)
    assert warning.startswith('Target "y": the classes seem to be of other frequencies than in training, "')
    assert "60% instead of 90%" in warning or "40% instead of 10%" in warning
