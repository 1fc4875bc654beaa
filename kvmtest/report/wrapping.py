"""Wrapping
========

Text in lines of a width, and the first lines of a page: its sentence with the exit status.
"""

import textwrap

from rich.text import Text

from kvmtest.errors import printable

__all__ = ["WIDTH", "headed", "wrapped"]

#: The width of a page; wider terminals leave room for longer lines alone.
WIDTH = 80


def headed(sentence: str, status: int, width: int, style: str) -> list[Text]:
    """Return a sentence that begins with a word and a colon, the exit status at its line's end.

    ``style`` is the word's.
    """
    end, width = f"exit {status}", min(width, WIDTH)
    lines = wrapped(sentence, width - len(end) - 2)
    first = lines[0]
    first.stylize(style, 0, len(first.plain.partition(":")[0]))
    first.append(" " * (width - len(first) - len(end)))
    first.append(end, "bold")
    return lines


def wrapped(
    text: str, width: int, indent: str = "", *, hanging: str = "", style: str = ""
) -> list[Text]:
    """Return text in lines; only a word that is longer than a line is broken."""
    text = printable(" ".join(text.split()))
    lines = textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent or hanging,
        break_on_hyphens=False,
    )  # fmt: skip
    return [Text(line, style) for line in lines or [""]]
