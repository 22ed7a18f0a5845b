"""Japanese sentences whose named entities are marked by hand, read from the package hironsancorpus (MIT).

500 sentences of Wikipedia, about 30 words each, with entities of nine types.
"""

from dataclasses import dataclass
from functools import cache

from benchmarks.quality.words import packaged


@dataclass(frozen=True)
class Morpheme:
    """A line of the file: a word with what a tagger said of it."""

    form: str
    script: str
    tags: tuple[str, ...]
    """Part of speech, from coarse to fine."""
    mark: str
    """B-type where an entity begins, I-type where it goes on, else O."""

    @property
    def parts(self) -> list[str]:
        """Itself, script, four parts of speech, its first and last character and its last two."""
        form = self.form
        named = [f"{level}-{tag}" for level, tag in enumerate(self.tags)]
        return [form, f"s-{self.script}", *named, f"{form[:1]}-", f"1-{form[-1:]}", f"2-{form[-2:]}"]


@dataclass(frozen=True)
class Entity:
    """Words `first` to `last`, both included."""

    first: int
    last: int
    kind: str


@cache
def sentences(longest: int) -> tuple[tuple[Morpheme, ...], ...]:
    """Return the sentences of at most `longest` words.

    Raises:
        DataError: where the package is not installed.
    """
    blocks = packaged("hironsancorpus", "iob_sents.txt", "study").read_text(encoding="utf-8").split("\n\n")
    read = (tuple(_morpheme(line.split("\t")) for line in block.splitlines() if line) for block in blocks)
    return tuple(sentence for sentence in read if 0 < len(sentence) <= longest)


def entities(sentence: tuple[Morpheme, ...]) -> list[Entity]:
    """Return what the marks say."""
    found: list[Entity] = []
    for place, word in enumerate(sentence):
        kind = word.mark[2:]
        if word.mark.startswith("B"):
            found.append(Entity(place, place, kind))
        elif word.mark.startswith("I") and found and (found[-1].last, found[-1].kind) == (place - 1, kind):
            found[-1] = Entity(found[-1].first, place, kind)
    return found


def _morpheme(columns: list[str]) -> Morpheme:
    form, script, *tags = columns
    return Morpheme(form, script, tuple(tags[:4]), columns[-1])
