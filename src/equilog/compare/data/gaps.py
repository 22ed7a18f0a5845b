"""What people write into a cell that has no value."""

import pandas as pd

MISSING = ["", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "#N/A"]
"""Cells of a feature that count as missing whatever else it holds. "None" is not among them: it is a name too."""

MARKERS = [
    "", "?", "-", "--", "---", "–", "—", ".", "..", "...", "*", "na", "n/a", "n.a.", "n.a", "k.a.", "nan", "null",
    "none", "nil", "missing", "unknown", "undefined", "not available", "no data", "#n/a", "#na", "<na>",
    "(null)", "\\n", "#value!", "#div/0!", "#ref!", "#null!", "#num!", "#name?",
]  # fmt: skip
"""Cells, in lower case, that stand for a gap among numbers or dates, however many they are; elsewhere they are names.
"""


def is_marker(text: pd.Series) -> pd.Series:
    """Return which cells of a text column would stand for a gap if the column were one of numbers or dates."""
    return text.str.lower().isin(MARKERS)
