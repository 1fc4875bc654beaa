"""Tracing
=======

An own instance of the kernel's tracing with one kprobe event in it
(Documentation/trace/kprobetrace.rst), made through the journal, so that both are removed whatever
happens.
"""

import os
import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from kvmtest.errors import KvmtestError
from kvmtest.host.facts.security import CONFIDENTIALITY, lockdown, without_lockdown
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing

__all__ = [
    "Hit",
    "Hits",
    "Journal",
    "KprobeEvent",
    "RunProbe",
    "TracingError",
    "hidden",
    "parse_hits",
]

TRACING = "/sys/kernel/tracing"
GROUP = "kvmtest"
KPROBE_EVENTS = f"{TRACING}/kprobe_events"

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


def hidden(tree: Tree) -> Missing | None:
    """Return why ``kprobe_events`` is not visible, or None where it is.

    Under lockdown=confidentiality tracefs can be mounted, and has no files, or none that opens
    (tracefs_create_file, fs/tracefs/inode.c).
    """
    if lockdown(tree) == CONFIDENTIALITY:
        return Missing(
            "kernel lockdown (confidentiality) refuses kprobes and tracefs", without_lockdown(tree)
        )
    if tree.exists(KPROBE_EVENTS):
        return None
    what = f"{KPROBE_EVENTS} is not visible"
    mounted = any(line.split()[1:3] == [TRACING, "tracefs"] for line in _mounts(tree))
    try:
        is_empty = not any(tree.path(TRACING).iterdir())
    except OSError:
        return Missing(f"{what}: {TRACING} may not be read", "run as root")
    if mounted and is_empty:
        why = "tracefs is mounted and empty, as lockdown=confidentiality leaves it"
        return Missing(f"{what}: {why}", without_lockdown(tree))
    if mounted:
        return Missing(f"{what}: tracefs is without it", "boot a kernel with CONFIG_KPROBE_EVENTS")
    return Missing(
        f"{what}: tracefs is not mounted there",
        f"run as root after: mount -t tracefs nodev {TRACING}",
    )


def _mounts(tree: Tree) -> list[str]:
    return (tree.read("/proc/mounts") or "").splitlines()


#: What a run asks for: event, place, and arguments by name.
_Wanted = tuple[str, str, tuple[tuple[str, str], ...]]


class TracingError(KvmtestError):
    """The trace can't be read, or says something that it can't say."""


class Journal(Protocol):
    """What tracing needs of the record of host changes."""

    @property
    def dry_run(self) -> bool:
        """Whether changes are only listed."""

    def write(self, name: str, value: str, *, undo: str | None = None) -> None:
        """Write ``value`` to the host's file ``name``."""

    def append(self, name: str, text: str, *, undo: str) -> None:
        """Append ``text`` to the host's file ``name``."""

    def make_directory(self, name: str) -> None:
        """Make the host's directory ``name``."""

    def kept(self) -> AbstractContextManager[None]:
        """Have what is changed in the block stay until the journal's close."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One hit of the probe: the task, the CPU, microseconds of CLOCK_MONOTONIC, the arguments.

    ``symbol`` is the function that the kernel says it was in.
    """

    pid: int
    cpu: int
    time_us: int
    values: Mapping[str, int]
    symbol: str


@dataclass(frozen=True, slots=True)
class Hits:
    """Hits in the order of time; ``lost`` tells that the kernel dropped some."""

    hits: tuple[Hit, ...] = ()
    lost: bool = False

    def __add__(self, other: "Hits") -> "Hits":
        return Hits(self.hits + other.hits, self.lost or other.lost)


def parse_hits(text: str, event: str) -> Hits:
    """Parse whole lines of ``trace`` or ``trace_pipe``. Raises TracingError.

    Hits of other events are left out, and so is the heading of ``trace``.
    """
    found: list[Hit] = []
    lost = False
    # Not by splitlines(): a task's name may hold what it takes for the end of a line.
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


class KprobeEvent:
    """A kprobe event ``event`` at ``place``, in an instance of that name; close it after use.

    ``arguments`` are fetched as 64-bit numbers, by the name that each gets in hits: ``%si`` or
    ``@SYMBOL+8``, as kprobetrace.rst has them. Hits are only those of the tasks named by
    :meth:`follow`. Raises JournalError where the kernel takes no such probe.
    """

    def __init__(
        self, tree: Tree, journal: Journal, event: str, place: str, arguments: Mapping[str, str]
    ) -> None:
        self.event = event
        self._journal = journal
        self._instance = f"{TRACING}/instances/{GROUP}-{event}"
        self._rest = ""
        fetch = " ".join(f"{name}={what}:x64" for name, what in arguments.items())
        own = f"{GROUP}/{event}"
        journal.append(KPROBE_EVENTS, f"p:{own} {place} {fetch}", undo=f"-:{own}")
        journal.make_directory(self._instance)
        # Its end takes these settings along; each undo only has to be something that is taken.
        self._set("trace_clock", "mono", "local")
        self._set("buffer_percent", "0", "50")
        self._set("set_event_pid", str(os.getpid()), "")
        self._set(f"events/{own}/enable", "1", "0")
        # Last: an instance with an open file can't be removed.
        path = Path(os.devnull) if journal.dry_run else tree.path(f"{self._instance}/trace_pipe")
        try:
            self._pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise TracingError(f"{path} can't be opened: {error.strerror}; run as root") from error

    def follow(self, tasks: Iterable[int]) -> None:
        """Take hits of these tasks (thread ids) alone from now on."""
        # Until the instance's end: without tasks it would take hits of all.
        with self._journal.kept():
            self._set("set_event_pid", " ".join(map(str, tasks)), "")

    def read(self) -> Hits:
        """Return the hits since the last read; never waits. Raises TracingError."""
        text = self._rest
        try:
            while data := os.read(self._pipe, 1 << 16):
                text += data.decode(errors="replace")
        except BlockingIOError:
            pass
        except OSError as error:
            raise TracingError(f"{self._instance} can't be read: {error.strerror}") from error
        whole, newline, self._rest = text.rpartition("\n")
        return parse_hits(whole + newline, self.event)

    def close(self) -> None:
        """Close the trace; the journal removes instance and probe."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _set(self, name: str, value: str, undo: str) -> None:
        self._journal.write(f"{self._instance}/{name}", value, undo=undo)


class RunProbe:
    """KprobeEvents that are made when they are first asked for, and stay to the run's end.

    To make one and to remove it takes the kernel longer than most checks. A module that is loaded
    anew gets its probes back from the kernel. Close it before the journal.
    """

    def __init__(self, tree: Tree, journal: Journal) -> None:
        self._tree = tree
        self._journal = journal
        self._probes: dict[_Wanted, KprobeEvent | Exception] = {}

    def get(self, event: str, place: str, arguments: Mapping[str, str]) -> KprobeEvent:
        """Return the probe, which has no hits yet and follows this task; raises as KprobeEvent.

        Whoever asks for another place or other arguments gets another probe; of one name in the
        kernel there is only one, so that a number is added to its event. What failed once is not
        tried again.
        """
        wanted = (event, place, tuple(arguments.items()))
        found = self._probes.get(wanted)
        if found is None:
            return self._made(wanted)
        if isinstance(found, Exception):
            raise found
        found.follow([os.getpid()])
        found.read()
        return found

    def _made(self, wanted: _Wanted) -> KprobeEvent:
        event, place, arguments = wanted
        namesakes = sum(event == other for other, _, _ in self._probes)
        name = f"{event}_{namesakes + 1}" if namesakes else event
        try:
            with self._journal.kept():
                probe = KprobeEvent(self._tree, self._journal, name, place, dict(arguments))
        except Exception as error:
            self._probes[wanted] = error
            raise
        self._probes[wanted] = probe
        return probe

    def close(self) -> None:
        """Close the traces."""
        for probe in self._probes.values():
            if isinstance(probe, KprobeEvent):
                probe.close()
