"""Names in error texts: those nearest to one that is not known, and lists cut short."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a sentence that suggests the known names nearest to `name`, or lists a few where none is near.

    Example:
        >>> did_you_mean("colour", ["color", "size"])
        'Did you mean color?'
        >>> did_you_mean("weight", ["color", "size"])
        'There are: color, size.'
    """
    # Compared in lower case: a wrong capital is the commonest slip and difflib counts it as a letter.
    by_lower = {other.lower(): other for other in known}
    near = get_close_matches(name.lower(), by_lower, n=2)
    if near:
        return f"Did you mean {' or '.join(by_lower[other] for other in near)}?"
    return f"There are: {listed(by_lower.values(), 12)}."


def listed(names: Iterable[str], most: int = 4) -> str:
    """Return the names with commas between, cut after `most` with the number of the others.

    Example:
        >>> listed(["a", "b", "c", "d", "e", "f"])
        'a, b, c, d and 2 more'
    """
    names = list(names)
    rest = len(names) - most
    return ", ".join(names) if rest <= 0 else f"{', '.join(names[:most])} and {rest} more"
