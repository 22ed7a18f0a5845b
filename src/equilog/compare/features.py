"""The preprocessing that follows from what the columns are."""

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from equilog.compare.columns import plain
from equilog.compare.encoders import DateParts, to_categories, to_dense, to_numbers, to_scores, to_text
from equilog.compare.errors import DataError
from equilog.compare.kinds import DATE_FORMATS, MOST_CATEGORIES, Kind, column_kinds, date_format, is_sentences
from equilog.names import listed

MOST_TERMS = 300
"""Words, or runs of letters, of a text column that have an input of their own."""

HASHED_FROM = 200_000
"""Rows from which text is hashed, since a vocabulary of that many rows would not fit in memory."""

TRUSTED_TYPES = [
    "equilog.compare.encoders.DateParts",
    "equilog.compare.encoders.to_categories",
    "equilog.compare.encoders.to_dense",
    "equilog.compare.encoders.to_numbers",
    "equilog.compare.encoders.to_scores",
    "equilog.compare.encoders.to_text",
    "numpy.dtype",
]
"""What skops.io.load must be told to trust to load a fitted preprocessor."""


def make_preprocessor(frame: pd.DataFrame) -> tuple[ColumnTransformer, tuple[str, ...]]:
    """Return an unfitted transformer to a dense (n, inputs) float32 array, and notes on what it does.

    Only the kinds of the columns are read from `frame`; means, vocabularies and categories are learned when the
    transformer is fitted, which belongs inside each split. Numbers are standardised, with the median and a
    further 0/1 input where missing; categories become 0/1 inputs, missing being one of them and unseen ones
    sharing that of the rare ones; dates become days, year, month, day of the week and hour; text becomes TF-IDF.

    Raises:
        DataError: where no column is left that could tell the rows apart.
    """
    kinds = column_kinds(frame)
    named: dict[Kind, list[str]] = {}
    for name, kind in kinds.items():
        named.setdefault(kind, []).append(name)
    formats = {name: date_format(plain(frame[name])) or "ISO8601" for name in named.get("date", [])}
    parts: list[tuple[str, Pipeline, str | list[str]]] = []
    if "number" in named:
        parts.append(("number", _standardised(_step(to_numbers)), named["number"]))
    if "category" in named:
        parts.append(("category", _one_hot(), named["category"]))
    parts += [(f"date {i}", _standardised(DateParts(form)), [name]) for i, (name, form) in enumerate(formats.items())]
    parts += [(f"text {i}", _terms(plain(frame[name])), name) for i, name in enumerate(named.get("text", []))]
    if not parts:
        raise DataError(
            "No usable column: each has one value only, or a value of its own in every row "
            f"({listed(kinds)}). Add columns to predict from."
        )
    notes = []
    if "constant" in named:
        notes.append(f"Left out, one value only: {listed(named['constant'])}.")
    if "identifier" in named:
        notes.append(f"Left out as identifiers, a value of its own in every row: {listed(named['identifier'])}.")
    if formats:
        notes.append(f"Read as dates: {listed(f'{name} ({DATE_FORMATS[form]})' for name, form in formats.items())}.")
    if "text" in named:
        notes.append(f"Read as text, the {MOST_TERMS} commonest terms: {listed(named['text'])}.")
    many = [name for name in named.get("category", []) if frame[name].nunique() > MOST_CATEGORIES]
    if many:
        notes.append(
            f"More than {MOST_CATEGORIES} categories, of which the commonest are told apart and the others share "
            f"one input: {listed(many)}."
        )
    return ColumnTransformer(parts, sparse_threshold=0), tuple(notes)


def used_columns(preprocessor: ColumnTransformer) -> list[str]:
    """Return the columns that a preprocessor of `make_preprocessor` reads, fitted or not."""
    return [
        name
        for _, _, columns in preprocessor.transformers
        for name in ([columns] if isinstance(columns, str) else columns)
    ]


def _step(function: object) -> FunctionTransformer:
    return FunctionTransformer(function, feature_names_out="one-to-one")


def _standardised(first: BaseEstimator) -> Pipeline:
    return make_pipeline(
        first,
        SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True),
        StandardScaler(),
        _step(to_scores),
    )


def _one_hot() -> Pipeline:
    return make_pipeline(
        _step(to_categories),
        OneHotEncoder(
            handle_unknown="infrequent_if_exist",
            max_categories=MOST_CATEGORIES,
            min_frequency=2,
            sparse_output=False,
            dtype=np.float32,
        ),
    )


def _terms(column: pd.Series) -> Pipeline:
    # Words carry sentences; in names and single words it is the beginnings and endings that recur.
    terms = (
        {"analyzer": "word", "token_pattern": r"\w+|[^\w\s]+"}
        if is_sentences(column)
        else {"analyzer": "char_wb", "ngram_range": (1, 3)}
    )
    vectorizer = (
        HashingVectorizer(n_features=MOST_TERMS, dtype=np.float32, **terms)
        if len(column) >= HASHED_FROM
        else TfidfVectorizer(max_features=MOST_TERMS, dtype=np.float32, **terms)
    )
    # Left on its own scale, a text of many terms would learn more slowly than the numbers beside it.
    return make_pipeline(_step(to_text), vectorizer, _step(to_dense), StandardScaler(), _step(to_scores))
