"""The trace
=========

Reads the hits of a kprobe event from an instance's ``trace`` or ``trace_pipe``
(Documentation/trace/ftrace.rst, kprobetrace.rst).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from kvmtest.errors import KvmtestError

__all__ = ["Hit", "Hits", "TracingError", "parse_hits"]

# "  name-1234    [001] d..2.  5678.123456: event: (place+0x0/0x10 [module]) a=0x1 b=0x2"
_HIT = re.compile(
    r"\s*.+-(?P<pid>\d+)\s+(?:\([ \d-]+\)\s+)?\[(?P<cpu>\d+)\]\s+(?:\S+\s+)?"
    r"(?P<seconds>\d+)\.(?P<micros>\d{6}): (?P<event>\w+): "
    r"\((?P<symbol>[^+ )]+).*?\)(?P<values>(?: \w+=\S+)*)\s*",
    re.ASCII,
)
# Of a probe whose arguments are all fetched as x64.
_VALUES = re.compile(r"(?: \w+=0x[0-9a-f]{1,16})*", re.ASCII)
_LOST = re.compile(r"CPU:\d+ \[LOST (\d+ )?EVENTS\]")


class TracingError(KvmtestError):
    """The trace can't be read, or holds a line that is none."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One hit of a probe: the task, the CPU, microseconds of CLOCK_MONOTONIC, the arguments.

    ``symbol`` is the function that the kernel names.
    """

    pid: int
    cpu: int
    time_us: int
    values: Mapping[str, int]
    symbol: str


@dataclass(frozen=True, slots=True)
class Hits:
    """Hits in the order of time; ``lost`` tells whether the kernel dropped some."""

    hits: tuple[Hit, ...] = ()
    lost: bool = False

    def __add__(self, other: "Hits") -> "Hits":
        return Hits(self.hits + other.hits, self.lost or other.lost)


def parse_hits(text: str, event: str) -> Hits:
    """Parse whole lines of ``trace`` or ``trace_pipe``. Raises TracingError.

    Skips hits of other events, and the heading of ``trace``.
    """
    found: list[Hit] = []
    lost = False
    # Not splitlines(): a task's name may hold a character that ends a line for it.
    for line in text.split("\n"):
        if not line.strip() or line.startswith("#"):
            continue
        if _LOST.match(line):
            lost = True
            continue
        match = _HIT.fullmatch(line)
        is_own = match is not None and match["event"] == event
        if match is None or (is_own and not _VALUES.fullmatch(match["values"])):
            raise TracingError(f"{line[:100]!r} is no line of a trace; report this kernel's format")
        if is_own:
            time_us = int(match["seconds"]) * 1_000_000 + int(match["micros"])
            pairs = (pair.partition("=") for pair in match["values"].split())
            values = {name: int(value, 16) for name, _, value in pairs}
            task, cpu = int(match["pid"]), int(match["cpu"])
            found.append(Hit(task, cpu, time_us, values, match["symbol"]))
    return Hits(tuple(found), lost)
