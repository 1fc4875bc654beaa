"""Progress
========

One line about what is going on, with the time since the beginning: on a terminal alone.
"""

import sys
import time
from typing import TextIO

from rich.text import Text

from kvmtest.errors import printable
from kvmtest.properties import Property

from .terminal import console

__all__ = ["Progress"]


class Progress:
    """A live line on a terminal's stderr; nothing elsewhere.

    It reads ``0:12 [5/38] vmx.entry.toggled: what its check is at``, or has a step in place of the
    property. With ``lines`` each step is a line of its own, without the time, whatever stderr is:
    for a machine's console.
    """

    def __init__(self, stream: TextIO | None = None, *, lines: bool = False) -> None:
        self._lines = lines
        self._console = console(stream or sys.stderr)
        self._began = time.monotonic()
        self._step = "starting"
        self._detail = ""
        self._status = self._console.status(self)

    def __enter__(self) -> "Progress":
        if self.is_shown and not self._lines:
            self._status.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._status.stop()

    def __rich__(self) -> Text:
        """Return the line as of now; rich asks again a dozen times a second."""
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        text = ": ".join(filter(None, (self._step, self._detail)))
        said = printable(f"{minutes}:{seconds:02} {text}")
        return Text(said, no_wrap=True, overflow="ellipsis")

    @property
    def is_shown(self) -> bool:
        """Whether stderr is a terminal."""
        return self._console.is_terminal

    def property(self, prop: Property, number: int, count: int) -> None:
        """Show which property is being decided."""
        self.step(f"[{number}/{count}] {prop.id}")

    def step(self, text: str) -> None:
        """Show a step that begins."""
        self._step, self._detail = text, ""
        if self._lines:
            # Without rich, which takes longer on a slow machine than many properties do.
            self._console.file.write(f"{text}\n")
            self._console.file.flush()

    def detail(self, text: str) -> None:
        """Show what the step is at; nothing with ``lines``."""
        self._detail = text
