"""Read our docstrings as the parser of Google-style ones expects them."""

from typing import Any

from griffe import Extension, Object


class ExamplesSection(Extension):
    """Make "Example:" the section it is, and keep what a function returns from being taken for its type."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the two headings in place."""
        if obj.docstring is None:
            return
        text = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
        if obj.is_function:
            text = text.replace("\nReturns:\n    ", f"\nReturns:\n    {obj.returns}: ")
        obj.docstring.value = text
