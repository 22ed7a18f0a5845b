"""Turkish sentences whose words are tagged by hand, read from the package turkish-treebanks.

Kayadelen, Öztürel & Bohnet, "A Gold Standard Dependency Treebank for Turkish", LREC 2020 (Apache 2.0): 2,541 sentences
of web pages and 2,310 of Wikipedia. A word that grammar takes apart, a verb made into a noun say, is several tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from benchmarks.quality.words import packaged


@dataclass(frozen=True)
class Token:
    """A line of a CoNLL-U file."""

    form: str
    tag: str
    features: tuple[tuple[str, str], ...]
    """(attribute, value), in the order of the file; an attribute may come twice."""
    head: int
    """Place in the sentence of the token that it depends on, from 0; its own where it depends on none."""
    relation: str

    def value(self, attribute: str) -> str:
        """Return the attribute's value, the first where there are several, or "none"."""
        return next((value for name, value in self.features if name == attribute), "none")

    @property
    def parts(self) -> list[str]:
        """Itself, its last 1 to 5 letters, its first and first 3, and its shape."""
        word = self.form.lower()
        ends = [f"{length}-{word[-length:]}" for length in range(1, 6)]
        shape = f"{self.form[0].isupper()} {self.form.isalnum()} {any(letter.isdigit() for letter in word)}"
        return [word, *ends, f"{word[:1]}-", f"{word[:3]}-", shape]


@cache
def sentences(name: str, longest: int) -> tuple[tuple[Token, ...], ...]:
    """Return the sentences of "web" or "wiki" of at most `longest` tokens.

    Raises:
        DataError: where the package is not installed.
    """
    blocks = packaged("turkish-treebanks", f"{name}.conllu").read_text(encoding="utf-8").split("\n\n")
    lines = ([line.split("\t") for line in block.splitlines() if line[:1].isdigit()] for block in blocks)
    return tuple(tuple(map(_token, rows)) for rows in lines if 0 < len(rows) <= longest)


def _token(columns: Sequence[str]) -> Token:
    number, form, _, _, tag, features, head, relation, *_ = columns
    pairs = (tuple(feature.split("=", 1)) for feature in features.split("|") if feature != "_")
    named = tuple((name, value) for name, value in pairs)
    return Token(form, tag, named, (int(head) or int(number)) - 1, relation)
