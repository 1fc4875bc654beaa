"""The trace
=========

Reads the hits of a kprobe event, or any events, from an instance's ``trace`` or ``trace_pipe``
(Documentation/trace/ftrace.rst, kprobetrace.rst).
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from kvmtest.errors import KvmtestError

__all__ = [
    "Hit",
    "Hits",
    "Passed",
    "TracePipe",
    "TracingError",
    "has_lost",
    "parse_hits",
    "parse_passed",
]

# "  name-1234    [001] d..2.  5678.123456: event: (place+0x0/0x10 [module]) a=0x1 b=0x2"
_EVENT = r"\s*.+-(\d+)\s+(?:\([ \d-]+\)\s+)?\[(\d+)\]\s+(?:\S+\s+)?(\d+)\.(\d{6}): (\w+): "
_PLACED = _EVENT + r"\(([^+ )]+)[^)]*\)"
# Of a probe whose arguments are all fetched as x64.
_HIT = re.compile(_PLACED + r"((?: \w+=0x[0-9a-f]{1,16})*)\s*", re.ASCII)
_ANY_HIT = re.compile(_PLACED + r"(?: \w+=\S+)*\s*", re.ASCII)
_PASSED = re.compile(_EVENT + "(.*)", re.ASCII)
# "vcpu 0 reason HLT rip 0x..." (arch/x86/kvm/trace.h); some reasons are followed by their flags.
_REASON = re.compile(r"\breason (\S+)", re.ASCII)
_VCPU = re.compile(r"\bvcpu (\d{1,9})\b", re.ASCII)
_LOST = re.compile(r"CPU:\d+ \[LOST (\d+ )?EVENTS\]")


class TracingError(KvmtestError):
    """The trace can't be read, or holds a line that is none."""


class TracePipe:
    """An instance's ``trace_pipe``; close it after use. Raises TracingError.

    An instance whose pipe is open can't be removed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rest = ""
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise TracingError(f"{path} can't be opened: {error.strerror}; run as root") from error

    def read(self) -> str:
        """Return the whole lines since the last read; never waits."""
        text = self._rest
        try:
            while data := os.read(self._descriptor, 1 << 16):
                text += data.decode(errors="replace")
        except BlockingIOError:
            pass
        except OSError as error:
            raise TracingError(f"{self._path} can't be read: {error.strerror}") from error
        whole, newline, self._rest = text.rpartition("\n")
        return whole + newline

    def close(self) -> None:
        """Close it, once or more often."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Hit(NamedTuple):
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
        match = _HIT.fullmatch(line)
        if match is None:
            if _LOST.match(line):
                lost = True
            elif not _is_skipped(line, event):
                why = "is no line of a trace; report this kernel's format"
                raise TracingError(f"{line[:100]!r} {why}")
            continue
        task, cpu, seconds, micros, name, symbol, arguments = match.groups()
        if name == event:
            pairs = [pair.split("=") for pair in arguments.split()]
            values = {name: int(value, 16) for name, value in pairs}
            time_us = int(seconds) * 1_000_000 + int(micros)
            found.append(Hit(int(task), int(cpu), time_us, values, symbol))
    return Hits(tuple(found), lost)


class Passed(NamedTuple):
    """One event: the task, the CPU, microseconds of CLOCK_MONOTONIC, name and text."""

    pid: int
    cpu: int
    time_us: int
    event: str
    text: str

    @property
    def exit_reason(self) -> str:
        """The reason that a kvm_exit names, such as EPT_VIOLATION; "" where it names none."""
        match = _REASON.search(self.text)
        return match[1] if match else ""

    @property
    def vcpu(self) -> int | None:
        """The ID of the vCPU that a kvm_entry or kvm_exit names; None where it names none."""
        match = _VCPU.search(self.text)
        return int(match[1]) if match else None


def has_lost(text: str) -> bool:
    """Tell whether lines of a trace say that the kernel dropped events."""
    return any(map(_LOST.match, text.split("\n")))


def parse_passed(text: str) -> list[Passed]:
    """Parse whole lines of ``trace`` or ``trace_pipe``; skips what is no event."""
    matches = map(_PASSED.fullmatch, text.split("\n"))
    return [
        Passed(int(m[1]), int(m[2]), int(m[3]) * 1_000_000 + int(m[4]), m[5], m[6])
        for m in matches
        if m
    ]


def _is_skipped(line: str, event: str) -> bool:
    """Tell whether ``line`` is empty, or of the heading, or a hit of another event."""
    if not line.strip() or line.startswith("#"):
        return True
    other = _ANY_HIT.fullmatch(line)
    return other is not None and other[5] != event
