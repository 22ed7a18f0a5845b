"""Dates and times as people write them.

pandas and skrub's Cleaner infer one format for a column, from its first cell, and know neither times of day alone nor
years of two digits; here all cells decide, between formats that are listed.
"""

from collections.abc import Sequence

import pandas as pd

from equilog.compare.data.gaps import is_marker

ISO = "ISO8601"
"""Year-month-day with or without a time, as pandas names it."""

DAYS = {
    "%d.%m.%Y": "day.month.year", "%m/%d/%Y": "month/day/year", "%d/%m/%Y": "day/month/year",
    "%d-%m-%Y": "day-month-year", "%m-%d-%Y": "month-day-year", "%Y/%m/%d": "year/month/day",
    "%Y.%m.%d": "year.month.day", "%d.%m.%y": "day.month.year", "%m/%d/%y": "month/day/year",
    "%d/%m/%y": "day/month/year", "%d-%m-%y": "day-month-year", "%d %b %Y": "day month year",
    "%d %B %Y": "day month year", "%d. %B %Y": "day month year", "%d-%b-%Y": "day-month-year",
    "%d-%b-%y": "day-month-year", "%b %d, %Y": "month day, year", "%B %d, %Y": "month day, year",
    "%b %d %Y": "month day year", "%B %d %Y": "month day year", "%a, %d %b %Y": "weekday, day month year",
    "%A, %d %B %Y": "weekday, day month year", "%A, %B %d, %Y": "weekday, month day, year",
    "%b %Y": "month year", "%B %Y": "month year", "%b-%Y": "month-year", "%m/%Y": "month/year",
}  # fmt: skip
"""Ways of writing a day, in the order in which they are preferred where they read as many cells."""

TIMES = {
    "%H:%M": "hour:minute", "%H:%M:%S": "hour:minute:second", "%H:%M:%S.%f": "hour:minute:second",
    "%I:%M %p": "hour:minute am or pm", "%I:%M%p": "hour:minute am or pm", "%I:%M:%S %p": "hour:minute:second am or pm",
}  # fmt: skip

FORMATS = {
    ISO: "year-month-day",
    **DAYS,
    **TIMES,
    **{f"{day} {time}": f"{name}, time" for day, name in DAYS.items() for time in TIMES},
}
"""All formats that are tried, and their names."""

COMPACT = {"%Y%m%d": "yearmonthday", "%Y%m%d%H%M%S": "yearmonthdayhourminutesecond"}
"""Digits alone: a date where the user says so."""

NAMES = {**FORMATS, **COMPACT}

SAMPLE = 300
"""Different cells by which the formats are chosen."""

MOST_FORMATS = 3
LEAST_SHARE = 0.02
"""A column may hold so many formats, of which each must read this share of its cells."""

FEW = 15
"""Cells on which a format is tried first."""

LONGEST = 40
"""Letters of the usual cell from which a column is prose."""

NAMED_PARTS = ("%a", "%A", "%b", "%B", "%p")

NAMES_OF_PARTS = r"(?i)\b(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)|\d ?[ap]m\b"
"""What a cell has where a part of a date is a name; each weekday comes with a month."""

FOR_EVER = 9000
"""A year from which a date means "no end": as a number it would drown all others, so it counts as missing."""


def date_formats(text: pd.Series, most: float, *, compact: bool = False) -> tuple[str, ...]:
    """Return the formats by which a share of `most` of a text column reads as dates, the commonest first, or none.

    Args:
        text: the cells; those that stand for a gap do not count.
        most: the share.
        compact: whether digits alone, 20240228, may be a date.

    Example:
        >>> date_formats(pd.Series(["2024-02-28", "29.02.2024", "-", "2024-03-01"], dtype="str"), 0.9)
        ('ISO8601', '%d.%m.%Y')
    """
    cells = text.dropna()
    cells = cells[~is_marker(cells)]
    sample = spread(cells.drop_duplicates(), SAMPLE)
    # Most columns of text are none of dates, and a look is a hundred times as quick as a hundred formats.
    likely = sample.str.contains(r"\d" if compact else r"\d[-/.: ]\w|[A-Za-z][-. ]\d", regex=True)
    if sample.empty or likely.mean() < most or sample.str.len().median() > LONGEST:
        return ()
    formats = _chosen(sample, [*(COMPACT if compact else {}), *_possible(sample)])
    return formats if formats and _read(cells, formats).notna().mean() >= most else ()


def spread(cells: pd.Series, most: int) -> pd.Series:
    """Return so many cells from all over a column, whose first rows may be of one kind."""
    return cells.iloc[:: max(1, len(cells) // most)]


def _possible(sample: pd.Series) -> list[str]:
    """Return the formats whose signs the cells have: a colon where there is a time, its name where there is a month."""
    signs = {
        ":": bool(sample.str.contains(":", regex=False).any()),
        "names": bool(sample.str.contains(NAMES_OF_PARTS, regex=True).any()),
    }
    return [
        form
        for form in FORMATS
        if (signs[":"] or ":" not in form) and (signs["names"] or not any(part in form for part in NAMED_PARTS))
    ]


def _chosen(sample: pd.Series, candidates: Sequence[str]) -> tuple[str, ...]:
    few = spread(sample, FEW)
    reads = {form: _read(sample, [form]).notna() for form in candidates if _read(few, [form]).notna().any()}
    formats: list[str] = []
    rest = sample.index
    while len(rest) and len(formats) < MOST_FORMATS:
        counts = {
            form: int(read[rest].sum())
            for form, read in reads.items()
            if not any(_is_swapped(form, chosen) for chosen in formats)
        }
        best = max(counts, key=lambda form: counts[form], default=None)
        if best is None or counts[best] < max(1, LEAST_SHARE * len(sample)):
            break
        formats.append(best)
        rest = rest[~reads[best][rest]]
    return tuple(formats)


def _is_swapped(form: str, other: str) -> bool:
    """Return whether two formats differ in the order of day and month alone: a column has one order."""
    return form != other and sorted(form) == sorted(other)


def _read(column: pd.Series, formats: Sequence[str]) -> pd.Series:
    cells = column.reset_index(drop=True)
    dates = pd.Series(pd.NaT, cells.index, dtype="datetime64[us, UTC]")
    for form in formats:
        missing = dates.isna() & cells.notna()
        read = pd.to_datetime(cells[missing], format=form, errors="coerce", utc=True)
        dates = dates.where(~missing, read.astype(dates.dtype).reindex(dates.index))
    return dates.set_axis(column.index)


def to_dates(column: pd.Series, formats: Sequence[str], *, for_ever: bool = False) -> pd.Series:
    """Return a column as dates in UTC, NaT for what is none; 9999-12-31 and the like stand for "no end" and are none.

    Args:
        column: text, or dates already.
        formats: keys of `FORMATS` or `COMPACT`; a cell goes by the first that reads it.
        for_ever: whether dates that mean "no end" are kept.
    """
    is_date = pd.api.types.is_datetime64_any_dtype(column.dtype)
    dates = pd.to_datetime(column, utc=True) if is_date else _read(column, formats)
    return dates if for_ever else dates.where(dates.dt.year < FOR_EVER)
