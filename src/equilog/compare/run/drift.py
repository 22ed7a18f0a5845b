"""How rows to predict for differ from those that a model was trained on, where that would go unnoticed."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from equilog.compare.data.columns import as_text, plain
from equilog.compare.data.dates import to_dates
from equilog.compare.data.encoders import Categories, DateParts, to_numbers
from equilog.compare.data.gaps import is_marker
from equilog.compare.data.preprocessor import Preprocessor
from equilog.error_text import listed

LEAST_SHARE = 0.01
"""From this share of a column's cells on, what cannot be read or was never seen is told."""

LEAST_SHIFT = 0.1
"""From this difference of the class frequencies on, beside what chance explains, they are told: total variation."""

LEAST_ROWS = 50


def drift(preprocessor: Preprocessor, features: pd.DataFrame) -> list[str]:
    """Return a sentence for each column with cells that cannot be read as in training, or categories unknown to it.

    Args:
        preprocessor: fitted, of `make_preprocessor`.
        features: the new rows, with every column that it reads.
    """
    said = []
    for _, pipeline, columns in preprocessor.parts_:
        steps = [step for _, step in pipeline.steps]
        names = [columns] if isinstance(columns, str) else columns
        if getattr(steps[0], "func", None) is to_numbers:
            decimal = (steps[0].kw_args or {}).get("decimal", ".")
            for name in names:
                read = to_numbers(features[[name]], decimal)[:, 0]
                said += _unread(features[name], ~np.isnan(read), "numbers")
        elif isinstance(steps[0], DateParts):
            for name in names:
                # A date that means "no end" is read, and counts as missing in training too.
                column = plain(features[name])
                is_text = isinstance(column.dtype, pd.StringDtype)
                read = to_dates(as_text(column) if is_text else column, steps[0].formats, for_ever=True).notna()
                said += _unread(features[name], read.to_numpy(), "dates")
        elif isinstance(steps[0], Categories):
            for name, numbers in zip(names, steps[0].transform(features[names]).T, strict=True):
                cells = as_text(plain(features[name]))
                unseen = (numbers < 0) & cells.notna().to_numpy()
                said += _told(name, unseen, cells[unseen].to_numpy(), "categories that training had none of", "")
    return said


def _unread(column: pd.Series, read: NDArray[np.bool_], what: str) -> list[str]:
    text = as_text(plain(column))
    lost = (text.notna() & ~is_marker(text)).to_numpy() & ~read
    return _told(str(column.name), lost, text[lost].to_numpy(), f"no {what}", ", and count as missing")


def _told(name: str, lost: NDArray[np.bool_], cells: NDArray[np.object_], what: str, end: str) -> list[str]:
    share = lost.mean() if lost.size else 0.0
    if share < LEAST_SHARE:
        return []
    examples = listed((f'"{cell}"' for cell in dict.fromkeys(cells)), 3)
    return [f'Column "{name}": {share:.0%} of the cells are {what} ({examples}){end}.']


def prior_shift(
    posterior: Sequence[NDArray[np.float64]],
    shares: Sequence[Sequence[float]],
    targets: Sequence[str],
    classes: Sequence[Sequence[str]],
    *,
    exclusive: bool,
) -> list[str]:
    """Return a sentence for each target whose classes the model sees in other frequencies than in training.

    Args:
        posterior: (n, C) posterior probabilities of the new rows, for each target.
        shares: the C class frequencies in training.
        targets: the names of the targets.
        classes: and of their classes.
        exclusive: whether the classes exclude each other; labels do not, and are looked at one by one.
    """
    said = []
    for probs, share, target, names in zip(posterior, shares, targets, classes, strict=True):
        if len(probs) < LEAST_ROWS:
            continue
        now = probs.mean(axis=0)
        gap = now - np.asarray(share)
        chance = np.sqrt((len(names) if exclusive else 1) / (6 * len(probs)))
        size = np.abs(gap).sum() / 2 if exclusive else np.abs(gap).max()
        if size < LEAST_SHIFT + chance:
            continue
        most = int(np.argmax(np.abs(gap)))
        said.append(
            f'Target "{target}": the classes seem to be of other frequencies than in training, "{names[most]}" '
            f"{now[most]:.0%} instead of {share[most]:.0%}. The posterior probabilities are those of training."
        )
    return said
