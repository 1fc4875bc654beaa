"""Tasks at work
=============

Shows how tasks that run several at once get on: a line for each that has ended, and on a terminal a
live line for each that is at work.
"""

import sys
import time
from collections.abc import Callable
from typing import Generic, TextIO, TypeVar

from rich.console import Group
from rich.live import Live
from rich.text import Text

from kvmtest.errors import printable
from kvmtest.parallel import Ended

from .terminal import console

__all__ = ["AtWork"]


T = TypeVar("T")


class AtWork(Generic[T]):
    """Shows ``count`` tasks on stderr (kvmtest.parallel.Audience).

    ``words`` gets each result, and returns what is printed of it. Of what a task says, a text that
    ends in a newline stays on the screen. Where stderr is no terminal, lines begin with ``prefix``.
    There is no thread for the live lines: tasks are forked.
    """

    def __init__(
        self,
        count: int,
        words: Callable[[T], str],
        stream: TextIO | None = None,
        *,
        prefix: str = "kvmtest: lab: ",
    ) -> None:
        self._count = count
        self._words = words
        self._prefix = prefix
        self._done = 0
        self._tasks: dict[str, tuple[float, str]] = {}
        self._console = console(stream or sys.stderr)
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True,
            redirect_stdout=False, redirect_stderr=False, get_renderable=self._lines,
        )  # fmt: skip

    def __enter__(self) -> "AtWork[T]":
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
        if text.endswith("\n"):
            self._print(f"{name}: {text[:-1]}")
            return
        began, _ = self._tasks[name]
        self._tasks[name] = began, text

    def ended(self, ended: Ended[T]) -> None:
        """Print the line of a task that has ended."""
        del self._tasks[ended.name]
        self._done += 1
        words = self._words(ended.result) if ended.result is not None else ended.failure
        line = f"[{self._done}/{self._count}] {ended.name}: {words.splitlines()[0]}"
        self._print(f"{line} ({ended.seconds:.0f} s)")

    def tick(self) -> None:
        """Show how much time has passed."""
        if self._live.is_started:
            self._live.refresh()

    def interrupted(self) -> None:
        """Say that the tasks clean up."""
        self._print("interrupted: cleaning up; interrupt again to stop at once")

    def _print(self, line: str) -> None:
        prefix = "" if self._live.is_started else self._prefix
        self._console.print(Text(f"{prefix}{printable(line)}"), soft_wrap=True)

    def _lines(self) -> Group:
        now = time.monotonic()
        rows = [f"{n}: {text} ({now - began:.0f} s)" for n, (began, text) in self._tasks.items()]
        head = f"{self._done} of {self._count} done, at work:"
        # One line more than there are, and the terminal would keep what it can't take back.
        most = max(1, self._console.height - 3)
        more = [f"and {len(rows) - most} more"] if len(rows) > most else []
        shown = [head, *rows[:most], *more]
        lines = (Text(printable(row), no_wrap=True, overflow="ellipsis") for row in shown)
        return Group(*lines)
