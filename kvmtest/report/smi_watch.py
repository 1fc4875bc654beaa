"""SMIs as they come
=================

Shows a watch of SMIs: a live table by CPU on a terminal, a line for each look that saw some
elsewhere.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TextIO

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kvmtest.host.facts.cpu import cpu_list
from kvmtest.smi.watch import Row, Tally

from .sentence import number_of
from .terminal import console

__all__ = ["SmiScreen"]

#: Lines of a terminal that are not rows of the table: what is above, below, and the cursor's.
_OTHER_LINES = 5


class SmiScreen:
    """Shows a tally on stdout, or on ``stream``; a context in which the live table is there.

    ``head`` says what is watched. No thread refreshes the table: each :meth:`show` does.
    """

    def __init__(self, head: str, stream: TextIO | None = None) -> None:
        self._head = head
        self._console = console(stream)
        self._tally: Tally | None = None
        self._live = Live(
            console=self._console, auto_refresh=False, vertical_overflow="crop",
            redirect_stdout=False, redirect_stderr=False, get_renderable=self._table,
        )  # fmt: skip

    def __enter__(self) -> "SmiScreen":
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()
        if self._tally:
            self._line(_sum(self._tally))

    def show(self, tally: Tally) -> None:
        """Show what the latest look saw; what comes after the first is watched."""
        is_first = self._tally is None
        self._tally = tally
        if self._live.is_started:
            self._live.refresh()
            return
        if is_first:
            self._line(self._head)
        for line in _lines(tally):
            self._line(line)

    def _line(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)
        self._console.file.flush()

    def _table(self) -> RenderableType:
        tally = self._tally
        if tally is None:
            return Text(self._head)
        table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
        table.add_column("CPU", overflow="fold")
        for name in ("SMIs", "a second", "last seen"):
            table.add_column(name, justify="right", no_wrap=True)
        rows = _grouped(tally.rows, self._console.size.height - _OTHER_LINES)
        for cpus, row in rows:
            style = "bold" if row.cpu in tally.rises else "" if row.smis else "dim"
            table.add_row(cpus, str(row.smis), f"{row.rate_hz:.2f}", _clock(row.last), style=style)
        return Group(Text(self._head), table, Text(_since(tally), "dim"))


def _grouped(rows: Sequence[Row], room: int) -> list[tuple[str, Row]]:
    """Return a row for each CPU; where there is no room, for those to which the same came."""
    if len(rows) <= room:
        return [(str(row.cpu), row) for row in rows]
    alike: dict[tuple[int, float | None], list[Row]] = {}
    for row in rows:
        alike.setdefault((row.smis, row.last), []).append(row)
    groups = sorted(alike.values(), key=lambda group: -group[0].smis)
    return [(cpu_list(row.cpu for row in group), group[0]) for group in groups]


def _lines(tally: Tally) -> Iterator[str]:
    """Give a line for each number of SMIs that came to CPUs since the look before."""
    cpus: dict[int, list[int]] = {}
    for cpu, rise in tally.rises.items():
        cpus.setdefault(rise, []).append(cpu)
    for rise, group in sorted(cpus.items()):
        seen = _clock(tally.last[group[0]])
        yield f"{seen} {number_of(rise, 'SMI')} on {_cpus(group)}"


def _sum(tally: Tally) -> str:
    """Return in one line what came in all."""
    return f"{_each(tally.smis)} in {tally.seconds:.1f} s"


def _each(smis: Mapping[int, int]) -> str:
    least, most = min(smis.values()), max(smis.values())
    if least != most:
        return f"{least} to {number_of(most, 'SMI')} on {_cpus(smis)}"
    each = "each of " * (len(smis) > 1)
    return f"{number_of(most, 'SMI') if most else 'no SMI'} on {each if most else ''}{_cpus(smis)}"


def _since(tally: Tally) -> str:
    minutes, seconds = divmod(int(tally.seconds), 60)
    return f"{minutes}:{seconds:02} since {_clock(tally.began)}"


def _cpus(cpus: Sequence[int] | Mapping[int, int]) -> str:
    return f"CPU{'s' * (len(cpus) > 1)} {cpu_list(cpus)}"


def _clock(seconds: float | None) -> str:
    return "-" if seconds is None else time.strftime("%H:%M:%S", time.localtime(seconds))
