"""Numbers as people write them: 1,234.5 or 1.234,5, with signs, currencies, percent and units.

skrub's ToFloat and pandas' readers must be told the decimal mark and take neither currencies nor units; which mark a
file means is what has to be inferred.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Literal

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from equilog.compare.data.gaps import is_marker

Mark = Literal[".", ","]
"""The decimal mark. The other one then separates thousands, as blanks and apostrophes always do."""

MARKS: tuple[Mark, Mark] = (".", ",")

SAMPLE = 10_000
"""Cells of a column that are looked at to infer its decimal mark."""

BLANK = " \u00a0\u2009\u202f"
SYMBOL = "".join(char for char in map(chr, range(0x24, 0x20D0)) if unicodedata.category(char) == "Sc")
CURRENCY = rf"(?:US|A|C|R)?[{SYMBOL}]|(?:USD|EUR|GBP|CHF|JPY|CNY|INR|AUD|CAD|SEK|NOK|DKK|PLN|CZK|Rs|kr)\b\.?"

CELL = rf"^(?P<before>[^\d.,]*)(?P<body>[.,]?\d[\d.,'’_{BLANK}]*)(?P<after>(?:[^\d.,'’_{BLANK}].*)?)$"
"""A cell around its first digits, so written that RE2 need not go back."""

BEFORE = re.compile(rf"(\(?)([+\-−–]?)[{BLANK}]*({CURRENCY})?[{BLANK}]*([\-−]?)", re.IGNORECASE)
UNIT = rf"[%‰°{SYMBOL}\w][^\d,;|\[\](){{}}]{{0,14}}[²³\d]?"
AFTER = re.compile(rf"(e[+-]?\d{{1,3}})?[{BLANK}]*({UNIT})?(\)?)", re.IGNORECASE)
"""What may stand before a number: a bracket or a sign, a currency. And after it: a power, a unit, a bracket."""

PLAIN = r"(?i)^[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d{1,3})?|inf|infinity)$"
"""What reads as a number as it stands."""

NOTHING = pa.scalar("", pa.large_string())


def numbers(text: pd.Series, decimal: Mark) -> pd.Series:
    """Return a text column as numbers, NaN where a cell holds none.

    One unit or currency may stand beside the numbers: cells of another one than the commonest are no numbers.

    Args:
        text: the cells, stripped.
        decimal: which mark is the decimal one where a cell could be read either way.

    Example:
        >>> numbers(pd.Series(["1,234.5", "$950", "(2)", "?"], dtype="str"), ".").tolist()
        [1234.5, 950.0, -2.0, nan]
        >>> numbers(pd.Series(["1.234,5 kg", "950 kg", "3 m"], dtype="str"), ",").tolist()
        [1234.5, 950.0, nan]
    """
    cells = _cells(text)
    if decimal == ".":
        # Most columns of numbers hold nothing else, and then the cast, all or nothing, is several times as fast.
        with suppress(pa.ArrowInvalid):
            return pd.Series(pc.cast(cells, pa.float64()).to_numpy(zero_copy_only=False), text.index, name=text.name)
    easy = pc.fill_null(pc.match_substring_regex(cells, PLAIN if decimal == "." else PLAIN.replace(r"\.", ",")), False)
    plain = pc.replace_substring(pc.if_else(easy, cells, None), decimal, ".")
    values = pc.cast(plain, pa.float64())
    if not pc.all(pc.or_(easy, pc.is_null(cells))).as_py():
        values = pc.coalesce(values, _written(pc.if_else(easy, None, cells), decimal))
    return pd.Series(values.to_numpy(zero_copy_only=False), text.index, name=text.name)


def decimal_marks(columns: Mapping[str, pd.Series], default: Mark) -> dict[str, Mark]:
    """Return the decimal mark of each text column of a file.

    A column whose cells can only be read one way says so itself; of the others the columns that do decide, and where
    none does, whether large numbers alone carry a mark (950 beside 1,234); the default comes last.

    Example:
        >>> file = pd.DataFrame({"price": ["0,5", "12,25"], "rent": ["950", "1.234"]}, dtype="str")
        >>> decimal_marks(dict(file.items()), ".")
        {'price': ',', 'rent': ','}
    """
    parts = {name: _parts(_sample(text)) for name, text in columns.items()}
    certain = {name: mark for name, cells in parts.items() if (mark := _only_reading(cells))}
    common = Counter(certain.values()).most_common(1)
    shared = common[0][0] if common else None
    return {name: certain.get(name) or shared or _of_thousands(cells) or default for name, cells in parts.items()}


def _cells(text: pd.Series) -> pa.Array:
    cells = pa.array(text, type=pa.large_string(), from_pandas=True)
    return cells.combine_chunks() if isinstance(cells, pa.ChunkedArray) else cells


def _sample(text: pd.Series) -> pd.Series:
    head = text.iloc[:SAMPLE].dropna()
    return head[~is_marker(head)]


def _parts(text: pd.Series) -> pa.Array:
    """Return the bodies of the numbers, nothing where most cells are no numbers."""
    parts = pc.extract_regex(_cells(text), CELL)
    is_number = pc.and_(_read(parts, "before", BEFORE)[0], _read(parts, "after", AFTER)[0])
    bodies = pc.if_else(is_number, _body(parts), None).drop_null()
    return bodies if len(bodies) >= len(text) / 2 else bodies.slice(0, 0)


def _read(parts: pa.StructArray, field: str, pattern: re.Pattern[str]) -> tuple[pa.Array, ...]:
    """Return whether what stands around the numbers is as it may be, and its groups; there are few different ones."""
    encoded = pc.struct_field(parts, field).dictionary_encode()
    matches = [pattern.fullmatch(words) for words in encoded.dictionary.to_pylist()]
    groups = [[match and (match[group] or "") for match in matches] for group in range(1, pattern.groups + 1)]
    return (
        pc.fill_null(pa.array([match is not None for match in matches], pa.bool_()).take(encoded.indices), False),
        *(pa.array(group, pa.large_string()).take(encoded.indices) for group in groups),
    )


def _body(parts: pa.StructArray) -> pa.Array:
    """Return the digits and marks of each cell, without the blanks and apostrophes that separate thousands."""
    body = pc.utf8_trim(pc.struct_field(parts, "body"), BLANK)
    joined = pc.replace_substring_regex(body, rf"['’_{BLANK}]", "")
    grouped = pc.match_substring_regex(body, rf"^\d{{1,3}}(?:['’_{BLANK}]\d{{3}})+(?:[.,]\d*)?$")
    return pc.if_else(pc.or_(grouped, pc.equal(joined, body)), joined, None)


def _only_reading(bodies: pa.Array) -> Mark | None:
    point, comma = (_count(bodies, _unmistakable(mark)) for mark in MARKS)
    return None if point == comma else "." if point > comma else ","


def _unmistakable(decimal: Mark) -> str:
    """Return the pattern of bodies that can be read with this decimal mark only."""
    d, t = re.escape(decimal), re.escape(_other(decimal))
    return (
        rf"^(?:\d*{d}\d{{0,2}}|\d*{d}\d{{4,}}|0+{d}\d+|\d{{4,}}{d}\d*|{d}\d+"
        rf"|\d{{1,3}}(?:{t}\d{{3}})+{d}\d*|\d{{1,3}}(?:{t}\d{{3}}){{2,}})$"
    )


def _of_thousands(bodies: pa.Array) -> Mark | None:
    """Return the decimal mark where the other one stands in the numbers from 1,000 on and in these alone."""
    small = _count(bodies, r"^\d{1,3}$")
    for mark in MARKS:
        large = _count(bodies, rf"^[1-9]\d{{0,2}}{re.escape(_other(mark))}\d{{3}}$")
        if small and large >= 2 and small + large == len(bodies):
            return mark
    return None


def _count(bodies: pa.Array, pattern: str) -> int:
    return int(pc.sum(pc.match_substring_regex(bodies, pattern)).as_py() or 0)


def _written(cells: pa.Array, decimal: Mark) -> pa.Array:
    """Return the values of cells with marks, signs or units, null where a cell is no number."""
    parts = pc.extract_regex(cells, CELL)
    sound_before, opening, sign, currency, minus = _read(parts, "before", BEFORE)
    sound_after, power, unit, closing = _read(parts, "after", AFTER)
    body = _body(parts)
    d, t = re.escape(decimal), re.escape(_other(decimal))
    valid = pc.match_substring_regex(body, rf"^(?:(?:\d+|\d{{1,3}}(?:{t}\d{{3}})+)(?:{d}\d*)?|{d}\d+)$")
    for condition in (sound_before, sound_after, pc.equal(pc.equal(opening, ""), pc.equal(closing, ""))):
        valid = pc.and_(valid, condition)
    valid = pc.and_(valid, _of_one_unit(_units(currency, unit), valid))
    digits = pc.replace_substring(pc.replace_substring(body, _other(decimal), ""), decimal, ".")
    values = pc.cast(pc.binary_join_element_wise(pc.if_else(valid, digits, None), power, NOTHING), pa.float64())
    signs = pc.binary_join_element_wise(opening, sign, minus, NOTHING)
    return pc.if_else(pc.match_substring_regex(signs, r"[(\-−–]"), pc.negate(values), values)


def _units(currency: pa.Array, unit: pa.Array) -> pa.Array:
    """Return what stands beside each number, its plural as its singular and 1st as 4th."""
    beside = pc.utf8_lower(pc.binary_join_element_wise(currency, unit, NOTHING))
    beside = pc.replace_substring_regex(pc.utf8_trim(beside, BLANK + "."), r"^(?:st|nd|rd|th)$", "th")
    return pc.replace_substring_regex(beside, r"(\p{L}{2,})s$", r"\1")


def _of_one_unit(unit: pa.Array, valid: pa.Array) -> pa.Array:
    """Return which cells have the commonest unit, or none."""
    counts = pc.value_counts(pc.if_else(pc.and_(valid, pc.not_equal(unit, "")), unit, None).drop_null()).to_pylist()
    commonest = max(counts, key=lambda entry: entry["counts"], default={"values": ""})["values"]
    return pc.is_in(unit, pa.array([commonest, ""], unit.type))


def _other(mark: Mark) -> Mark:
    return "," if mark == "." else "."
