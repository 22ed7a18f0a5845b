"""What each column of a table is: a number, a category, a date, text, or nothing one could learn from."""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, get_args

import pandas as pd
from pandas.api import types

from equilog.compare.data.columns import as_text, plain
from equilog.compare.data.dates import date_formats, spread, to_dates
from equilog.compare.data.encoders import as_categories
from equilog.compare.data.gaps import is_marker
from equilog.compare.data.numerals import Mark, decimal_marks, numbers
from equilog.compare.errors import DataError
from equilog.error_text import listed

ChosenKind = Literal["number", "category", "date", "text", "ignore"]
"""What the user may say that a column is."""

Kind = ChosenKind | Literal["constant", "identifier"]
"""What a column is to the preprocessing; the last two, and "ignore", carry nothing that is to be learned."""

MOSTLY = 0.9
"""Share of the values that must be numbers (or dates) for the other few to count as missing."""

MOST_CATEGORIES = 32
"""Different values up to which text is a category, and categories with an input of their own."""

SAMPLE = 10_000
"""Cells of a column by which it is told whether it is worth reading all as numbers, and whether they are sentences."""

FEW_NUMBERS = 0.1
"""Share of numbers in the sample up to which a column is none of numbers: of so many cells it is never one half."""

THREADS = 4
"""That read columns at once."""

FEWEST_ROWS = 20
"""Rows from which a column of values that never recur is taken for an identifier rather than for chance."""

ID_NAME = re.compile(r"(?:^|[\W_])(?:id|uuid|guid|index|key)$|[a-z]I[Dd]$|^(?:ID|UUID|GUID|Id|Index|Key)$")


@dataclass(frozen=True)
class Column:
    """What a column is, and how its cells are read where they are text."""

    kind: Kind
    decimal: Mark = "."
    """The decimal mark of a number."""
    formats: tuple[str, ...] = ()
    """The formats of a date, as `dates.date_formats` returns them."""


@dataclass(frozen=True)
class TypedTable:
    """A table whose cells are numbers, dates and text, and what was inferred to make them so."""

    frame: pd.DataFrame
    columns: dict[str, Column]
    notes: tuple[str, ...]


def typed_table(
    frame: pd.DataFrame, *, decimal: Mark = ".", kinds: Mapping[str, ChosenKind] | None = None
) -> TypedTable:
    """Infer what each column is, and read its cells so.

    Text is what has more than `MOST_CATEGORIES` different values and either runs to three words or more, or
    seldom recurs; an identifier gives every row a value of its own and either counts up, is called an id or is
    made of single words with digits.

    Args:
        frame: the columns as a file held them.
        decimal: the decimal mark where no column shows which it is.
        kinds: what the user says that columns are; the others are inferred.

    Raises:
        DataError: a column of values that are neither numbers, dates nor text, or that are not what the user says.

    Example:
        >>> frame = pd.DataFrame({"age": ["31", "40", "?"], "town": ["Rome", "Oslo", None], "unit": "kg"})
        >>> {name: column.kind for name, column in typed_table(frame).columns.items()}
        {'age': 'number', 'town': 'category', 'unit': 'constant'}
    """
    cells = {str(name): _cells(frame[name], (kinds or {}).get(str(name))) for name in frame.columns}
    marks = decimal_marks({name: column for name, column in cells.items() if _is_text(column)}, decimal)

    def read(name: str) -> tuple[pd.Series, Column, str | None]:
        chosen, mark = (kinds or {}).get(name), marks.get(name, decimal)
        return _inferred(cells[name], mark) if chosen is None else _as_chosen(cells[name], chosen, mark)

    # Arrow, which most of the time goes into, lets other threads run.
    with ThreadPoolExecutor(THREADS) as threads:
        done = dict(zip(cells, threads.map(read, cells), strict=True))
    typed = {name: column for name, (column, _, _) in done.items()}
    columns = {name: column for name, (_, column, _) in done.items()}
    notes = tuple(note for _, _, note in done.values() if note)
    return TypedTable(pd.DataFrame(typed, index=frame.index), columns, notes)


def chosen_kinds(options: Sequence[str]) -> dict[str, ChosenKind]:
    """Return {column: kind} of options such as "born=date"; one may hold several, separated by commas.

    Raises:
        DataError: an option of another form, or an unknown kind.

    Example:
        >>> chosen_kinds(["born=date,zip=category", "net, yearly=number"])
        {'born': 'date', 'zip': 'category', 'net, yearly': 'number'}
    """
    chosen: dict[str, ChosenKind] = {}
    known = get_args(ChosenKind)
    for option in options:
        for name, kind in re.findall(r"\s*(.+?)=([^=,]*)(?:,|$)", option) or [(option, "")]:
            if kind.strip() not in known:
                raise DataError(
                    f"--types {option}: expected COLUMN=KIND, KIND being one of {', '.join(known)}; "
                    f'got "{kind.strip()}".'
                )
            chosen[name.strip()] = kind.strip()
    return chosen


def is_sentences(text: pd.Series) -> bool:
    """Return whether the values of a text column run to three words or more on average."""
    return bool(spread(text.dropna(), SAMPLE).str.count(r"\S+").mean() >= 3)


def _cells(column: pd.Series, chosen: ChosenKind | None) -> pd.Series:
    try:
        return plain(column)
    except DataError:
        if chosen != "ignore":
            raise
        return pd.Series(None, column.index, dtype="str", name=column.name)


def _is_text(column: pd.Series) -> bool:
    return isinstance(column.dtype, pd.StringDtype)


def _inferred(column: pd.Series, mark: Mark) -> tuple[pd.Series, Column, str | None]:
    note = None
    if _is_text(column):
        column, note = _numeric(column, mark)
    if column.nunique(dropna=False) < 2:
        return column, Column("constant"), note
    if _is_identifier(column):
        return column, Column("identifier"), note
    if types.is_datetime64_any_dtype(column.dtype):
        return to_dates(column, ()), Column("date"), note
    if not _is_text(column):
        return column, Column("number", mark), note
    formats = date_formats(column, MOSTLY)
    if formats:
        dates = to_dates(column, formats)
        return dates, Column("date", formats=formats), note
    distinct = column.nunique()
    if distinct > MOST_CATEGORIES and (is_sentences(column) or distinct > column.count() / 5):
        return column, Column("text"), note
    return as_categories(column), Column("category"), note


def _numeric(text: pd.Series, mark: Mark) -> tuple[pd.Series, str | None]:
    """Return a text column as numbers where it holds (nearly) nothing else, with a note if words were dropped.

    Cells that usually stand for a gap ("?", "n/a") are gaps in a number however many they are, and other words
    ("plenty") where they are few; where they are more than a tenth the column stays text, and the note says so if
    numbers still prevail.
    """
    if len(text) > SAMPLE and _has_few_numbers(spread(text, SAMPLE).dropna(), mark):
        return text, None
    parsed = numbers(text, mark)
    other = text.notna() & parsed.isna()
    numeric, words = int(parsed.notna().sum()), int((other & ~is_marker(text)).sum())
    if numeric == 0 or numeric < words:
        return text, None
    if not other.any():
        # Whole numbers stay whole: those that count the rows are to be told from amounts.
        whole = (parsed % 1 == 0).all() and not text.str.contains(mark, regex=False).any()
        return parsed.astype("int64") if whole and parsed.abs().max() < 2**53 else parsed, None
    quoted = listed(f'"{word}"' for word in text[other].unique())
    counted = f'Column "{text.name}" mixes {numeric} numbers with {int(other.sum())} other values ({quoted})'
    if numeric < MOSTLY * (numeric + words):
        return text, f"{counted}: taken as categories."
    return parsed, f"{counted}: these count as missing."


def _has_few_numbers(sample: pd.Series, mark: Mark) -> bool:
    words = sample[~is_marker(sample)]
    return len(words) >= SAMPLE / 100 and bool(numbers(words, mark).count() < FEW_NUMBERS * len(words))


def _as_chosen(column: pd.Series, kind: ChosenKind, mark: Mark) -> tuple[pd.Series, Column, str | None]:
    if kind == "number":
        values = numbers(column, mark) if _is_text(column) else column
        if types.is_datetime64_any_dtype(values.dtype) or not values.notna().any():
            raise DataError(f'--types {column.name}=number: column "{column.name}" holds no number.')
        return values, Column("number", mark), None
    if kind == "date":
        if types.is_datetime64_any_dtype(column.dtype):
            return to_dates(column, ()), Column("date"), None
        text = as_text(column)
        formats = date_formats(text, 0.5, compact=True)
        if not formats:
            first = f'"{text.dropna().iloc[0]}" and most other cells' if text.notna().any() else "an empty column"
            raise DataError(
                f"--types {column.name}=date: no known format of dates reads {first}. Write dates as year-month-day."
            )
        return to_dates(text, formats), Column("date", formats=formats), None
    if kind == "category":
        return as_categories(as_text(column)), Column("category"), None
    return column if kind == "ignore" else as_text(column), Column(kind), None


def _is_identifier(column: pd.Series) -> bool:
    if len(column) < FEWEST_ROWS or not column.is_unique:
        return False
    if types.is_float_dtype(column.dtype) or types.is_datetime64_any_dtype(column.dtype):
        return False
    if ID_NAME.search(str(column.name)):
        return True
    if types.is_numeric_dtype(column.dtype):
        return bool(column.max() - column.min() == len(column) - 1)
    words = column.dropna()
    codes = not words.str.contains(r"\s").any() and words.str.contains(r"\d").mean() > 0.5
    return bool(codes) and not date_formats(column, MOSTLY)
