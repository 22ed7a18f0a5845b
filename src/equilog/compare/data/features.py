"""The preprocessing that follows from what the columns are."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from equilog.compare.data.columns import plain
from equilog.compare.data.dates import ISO, NAMES
from equilog.compare.data.encoders import Categories, DateParts, as_categories, to_numbers, to_scores
from equilog.compare.data.kinds import MOST_CATEGORIES, Column, Kind, is_sentences, typed_table
from equilog.compare.data.numerals import MARKS
from equilog.compare.data.preprocessor import Preprocessor
from equilog.compare.data.terms import TermCounts, TermScores, to_terms
from equilog.compare.errors import DataError
from equilog.error_text import listed

MOST_TERMS = 300
"""Words, or runs of letters, of a text column that have an input of their own."""

TRUSTED_TYPES = [
    "equilog.compare.data.encoders.Categories",
    "equilog.compare.data.encoders.DateParts",
    "equilog.compare.data.encoders.to_numbers",
    "equilog.compare.data.encoders.to_scores",
    "equilog.compare.data.preprocessor.Preprocessor",
    "equilog.compare.data.terms.TermCounts",
    "equilog.compare.data.terms.TermScores",
    "equilog.compare.data.terms.to_terms",
    "numpy.dtype",
]
"""What skops.io.load must be told to trust to load a fitted preprocessor."""


def make_preprocessor(
    frame: pd.DataFrame, columns: Mapping[str, Column] | None = None
) -> tuple[Preprocessor, tuple[str, ...]]:
    """Return an unfitted transformer to a dense (n, inputs) float32 array, and notes on what it does.

    Only the kinds of the columns are read from `frame`; means, vocabularies and categories are learned when the
    transformer is fitted, which belongs inside each split. Numbers are standardised, with the median and a
    further 0/1 input where missing; categories become 0/1 inputs, missing being one of them and unseen ones
    sharing that of the rare ones; dates become days, year, month, day of the week and hour; text becomes TF-IDF.

    Args:
        frame: the columns, as a file held them or read already.
        columns: what they are, as `typed_table` infers it; inferred if left out.

    Raises:
        DataError: where no column is left that could tell the rows apart.
    """
    if columns is None:
        columns = typed_table(frame).columns
    named: dict[Kind, list[str]] = {}
    for name, column in columns.items():
        named.setdefault(column.kind, []).append(name)
    parts: list[tuple[str, Pipeline, str | list[str]]] = []
    for mark in MARKS:
        if numeric := [name for name in named.get("number", []) if columns[name].decimal == mark]:
            step = _step(to_numbers, {"decimal": mark})
            parts.append(("number" if mark == "." else "number,", _standardised(step), numeric))
    if "category" in named:
        parts.append(("category", _one_hot(), named["category"]))
    dates = {name: columns[name].formats or (ISO,) for name in named.get("date", [])}
    parts += [(f"date {i}", _standardised(DateParts(forms)), [name]) for i, (name, forms) in enumerate(dates.items())]
    parts += [(f"text {i}", _terms(plain(frame[name])), name) for i, name in enumerate(named.get("text", []))]
    if not parts:
        raise DataError(
            "No usable column: each has one value only, or a value of its own in every row "
            f"({listed(columns)}). Add columns to predict from."
        )
    notes = []
    if "constant" in named:
        notes.append(f"Left out, one value only: {listed(named['constant'])}.")
    if "identifier" in named:
        notes.append(f"Left out as identifiers, a value of its own in every row: {listed(named['identifier'])}.")
    if "ignore" in named:
        notes.append(f"Left out as asked: {listed(named['ignore'])}.")
    if dates:
        written = {name: ", or ".join(dict.fromkeys(NAMES[form] for form in forms)) for name, forms in dates.items()}
        notes.append(f"Read as dates: {listed(f'{name} ({how})' for name, how in written.items())}.")
    if "text" in named:
        notes.append(f"Read as text, the {MOST_TERMS} commonest terms: {listed(named['text'])}.")
    many = [name for name in named.get("category", []) if frame[name].nunique() > MOST_CATEGORIES]
    if many:
        notes.append(
            f"More than {MOST_CATEGORIES} categories, of which the commonest are told apart and the others share "
            f"one input: {listed(many)}."
        )
    return Preprocessor(parts), tuple(notes)


def read_once(preprocessor: Preprocessor, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the columns with done to them what needs no fitting: text as its terms, names as categories."""
    done: dict[str, pd.Series] = {}
    for _, pipeline, columns in preprocessor.parts:
        if isinstance(columns, str):
            done[columns] = pipeline[0].transform(frame[columns])
        elif isinstance(pipeline[0], Categories):
            done |= {name: as_categories(frame[name]) for name in columns}
    return frame.assign(**done)


def used_columns(preprocessor: Preprocessor) -> list[str]:
    """Return the columns that a preprocessor of `make_preprocessor` reads, fitted or not."""
    return [
        name for _, _, columns in preprocessor.parts for name in ([columns] if isinstance(columns, str) else columns)
    ]


def _step(function: object, options: Mapping[str, object] | None = None) -> FunctionTransformer:
    return FunctionTransformer(function, kw_args=options, feature_names_out="one-to-one")


def _standardised(first: BaseEstimator) -> Pipeline:
    return make_pipeline(
        first,
        SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True),
        StandardScaler(),
        _step(to_scores),
    )


def _one_hot() -> Pipeline:
    return make_pipeline(
        Categories(),
        OneHotEncoder(
            handle_unknown="infrequent_if_exist",
            max_categories=MOST_CATEGORIES,
            min_frequency=2,
            sparse_output=False,
            dtype=np.float32,
        ),
    )


def _terms(column: pd.Series) -> Pipeline:
    return make_pipeline(
        _step(to_terms, {"sentences": is_sentences(column)}),
        TermCounts(MOST_TERMS),
        TfidfTransformer(),
        # Left on its own scale, a text of many terms would learn more slowly than the numbers beside it.
        TermScores(),
    )
