"""Tasks at work
=============

Shows how tasks that run several at once get on: a line for each that has ended, and on a terminal a
live line for each that is at work.
"""

import sys
import time
from typing import TextIO

from rich.console import Group
from rich.live import Live
from rich.text import Text

from kvmtest.errors import printable

from .terminal import console

__all__ = ["AtWork"]


class AtWork:
    """Shows ``count`` tasks on stderr. It has no thread: processes are forked beside it."""

    def __init__(self, count: int, stream: TextIO | None = None) -> None:
        self._count = count
        self._done = 0
        self._tasks: dict[str, tuple[float, str]] = {}
        self._console = console(stream or sys.stderr)
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True,
            redirect_stdout=False, redirect_stderr=False, get_renderable=self._lines,
        )  # fmt: skip

    def __enter__(self) -> "AtWork":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def began(self, name: str) -> None:
        """Take note that a task begins."""
        self._tasks[name] = time.monotonic(), "starting"
        self.tick()

    def said(self, name: str, text: str) -> None:
        """Show what a task is doing."""
        began, _ = self._tasks[name]
        self._tasks[name] = began, text

    def ended(self, name: str, words: str) -> None:
        """Print the line of a task that has ended."""
        del self._tasks[name]
        self._done += 1
        self._print(f"[{self._done}/{self._count}] {name}: {words}")

    def tick(self) -> None:
        """Show how much time has passed."""
        if self._live.is_started:
            self._live.refresh()

    def _print(self, line: str) -> None:
        prefix = "" if self._live.is_started else "kvmtest: lab: "
        self._console.print(Text(f"{prefix}{printable(line)}"), soft_wrap=True)

    def _lines(self) -> Group:
        now = time.monotonic()
        rows = [f"{n}: {text} ({now - began:.0f} s)" for n, (began, text) in self._tasks.items()]
        head = f"{self._done} of {self._count} done, at work:"
        lines = (Text(printable(row), no_wrap=True, overflow="ellipsis") for row in [head, *rows])
        return Group(*lines)
