"""What the user can put right: one exception whose message is ready for the terminal."""


class DataError(ValueError):
    """The data or its description cannot be used; the message names the place, what was found and the remedy."""
