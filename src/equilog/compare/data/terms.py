"""Text as its words, or runs of letters: split once for all splits, counted anew by each for its commonest."""

from array import array
from collections import defaultdict
from typing import Self, cast

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.preprocessing import StandardScaler

from equilog.compare.data.columns import as_text, plain
from equilog.compare.data.encoders import to_scores

LISTS = pd.ArrowDtype(pa.list_(pa.dictionary(pa.int32(), pa.large_string())))
"""What a column of text is once it is split: a list of terms a row, each term the number of an entry of one list."""


def to_terms(column: pd.Series, sentences: bool) -> pd.Series:
    """Return the terms of each cell of a text column; one that is split already stays as it is.

    Args:
        column: text.
        sentences: whether the terms are words and signs. In names and single words it is the beginnings and endings
            that recur: then they are runs of one to three letters within a word.
    """
    if column.dtype == LISTS:
        return column
    words, letters = {"token_pattern": r"\w+|[^\w\s]+"}, {"analyzer": "char_wb", "ngram_range": (1, 3)}
    split = CountVectorizer(**(words if sentences else letters)).build_analyzer()
    numbers: defaultdict[str, int] = defaultdict()
    numbers.default_factory = numbers.__len__
    codes, ends = array("i"), array("q", [0])
    for cell in as_text(plain(column)).fillna(""):
        codes.extend(map(numbers.__getitem__, split(cell)))
        ends.append(len(codes))
    # Sorted, so that which of equally common terms are kept does not depend on the order of the rows.
    terms = np.array(list(numbers), dtype=object)
    order = np.argsort(terms)
    place = np.empty(len(terms), dtype=np.int32)
    place[order] = np.arange(len(terms), dtype=np.int32)
    named = pa.DictionaryArray.from_arrays(
        place[np.frombuffer(codes, dtype=np.int32)], pa.array(terms[order], pa.large_string())
    )
    lists = pa.ListArray.from_arrays(np.frombuffer(ends, dtype=np.int64).astype(np.int32), named)
    return pd.Series(pd.arrays.ArrowExtensionArray(lists), column.index, dtype=LISTS, name=column.name)


class TermCounts(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """How often each of the commonest terms is in a row.

    Args:
        most: terms that are counted, the commonest of the rows fitted.
    """

    def __init__(self, most: int) -> None:
        self.most = most

    def fit(self, X: pd.Series, y: object = None) -> Self:
        """Choose the terms by the rows (n,) of `to_terms`."""
        del y
        _, codes, terms = _parts(X)
        counts = np.bincount(codes, minlength=len(terms)).astype(np.float32)
        seen = np.flatnonzero(counts)
        # Of equally common ones those that scikit-learn's vectorizers keep.
        chosen = seen if len(seen) <= self.most else np.sort(seen[(-counts[seen]).argsort()[: self.most]])
        # Rows without any term have an input all the same, that is 0.
        self.terms_ = terms[chosen].tolist() or [""]
        return self

    def transform(self, X: pd.Series) -> csr_matrix:
        """Return (n, terms) counts."""
        ends, codes, terms = _parts(X)
        place = pd.Index(self.terms_).get_indexer(pd.Index(terms))[codes]
        counted = place >= 0
        ends = np.concatenate([[0], np.cumsum(counted)])[ends]
        counts = csr_matrix(
            (np.ones(ends[-1], dtype=np.float32), place[counted], ends), shape=(len(X), len(self.terms_))
        )
        counts.sum_duplicates()
        return counts

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """Return the terms."""
        del input_features
        return np.asarray(self.terms_, dtype=object)


class TermScores(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A sparse matrix as the dense one that StandardScaler and `to_scores` give, which is not needed to fit it."""

    def fit(self, X: csr_matrix, y: object = None) -> Self:
        """Find the mean and the deviation of each column."""
        del y
        self.scaler_ = StandardScaler(with_mean=False).fit(X.astype(np.float64))
        return self

    def transform(self, X: csr_matrix) -> NDArray[np.float32]:
        """Return (n, d) standardised numbers."""
        dense = X.toarray()
        dense -= self.scaler_.mean_
        dense /= self.scaler_.scale_
        return to_scores(dense)

    def get_feature_names_out(self, input_features: NDArray[np.object_]) -> NDArray[np.object_]:
        """Return the names of the columns."""
        return input_features


def _parts(column: pd.Series) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.object_]]:
    """Return where the rows end (n + 1,), the number of each term in them, and the terms."""
    lists = pa.array(column)
    if isinstance(lists, pa.ChunkedArray):
        lists = lists.combine_chunks()
    flat = cast(pa.DictionaryArray, lists.flatten())
    ends = lists.offsets.to_numpy()
    return ends - ends[0], flat.indices.to_numpy(zero_copy_only=False), flat.dictionary.to_numpy(zero_copy_only=False)
