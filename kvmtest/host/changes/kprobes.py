"""Kprobes
=======

Places a kprobe event, in a tracing instance of its own, through the journal, which removes both
whatever happens (Documentation/trace/kprobetrace.rst).
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from kvmtest.host.changes.journal import Journal
from kvmtest.host.facts.tracefs import KPROBE_EVENTS, TRACING
from kvmtest.host.observe.trace import Hits, TracePipe, parse_hits
from kvmtest.host.tree import Tree

__all__ = [
    "KprobeEvent",
    "ProbePool",
]

GROUP = "kvmtest"
#: A probe as a check asks for it: event, place, and arguments by name.
_Wanted = tuple[str, str, tuple[tuple[str, str], ...]]


class KprobeEvent:
    """The kprobe event ``event`` at ``place``, in an instance of that name; close it after use.

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
        fetch = " ".join(f"{name}={what}:x64" for name, what in arguments.items())
        own = f"{GROUP}/{event}"
        journal.append(KPROBE_EVENTS, f"p:{own} {place} {fetch}", undo=f"-:{own}")
        journal.make_directory(self._instance)
        # Removing the instance ends these settings: each undo need only be a value that it takes.
        self._set("trace_clock", "mono", "local")
        self._set("buffer_percent", "0", "50")
        self._set("set_event_pid", str(os.getpid()), "")
        self._set(f"events/{own}/enable", "1", "0")
        # Last: an instance with an open file can't be removed.
        path = Path(os.devnull) if journal.dry_run else tree.path(f"{self._instance}/trace_pipe")
        self._pipe = TracePipe(path)

    def follow(self, tasks: Iterable[int]) -> None:
        """Record only hits of these tasks (thread ids) from now on."""
        # Kept until the instance's end: without tasks it would record the hits of all.
        with self._journal.kept():
            self._set("set_event_pid", " ".join(map(str, tasks)), "")

    def record(self, *, on: bool) -> None:
        """Go on recording hits, or pause: those recorded are still read."""
        with self._journal.kept():
            self._journal.write(f"{self._instance}/tracing_on", str(int(on)), undo="1", force=True)

    def read(self) -> Hits:
        """Return the hits since the last read; never waits. Raises TracingError."""
        return parse_hits(self._pipe.read(), self.event)

    def forget(self) -> None:
        """Drop the hits since the last read; never waits. Raises TracingError."""
        self._pipe.read()

    def close(self) -> None:
        """Close the trace; the journal removes instance and probe."""
        self._pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _set(self, name: str, value: str, undo: str) -> None:
        self._journal.write(f"{self._instance}/{name}", value, undo=undo)


class ProbePool:
    """The run's KprobeEvents: each is made when it is first asked for, and stays to the run's end.

    The kernel takes longer to make and remove one than most checks last: who has looked has it
    pause. When a module is loaded anew the kernel places its probes again. Close the pool before
    the journal.
    """

    def __init__(self, tree: Tree, journal: Journal) -> None:
        self._tree = tree
        self._journal = journal
        self._probes: dict[_Wanted, KprobeEvent | Exception] = {}

    def get(self, event: str, place: str, arguments: Mapping[str, str]) -> KprobeEvent:
        """Return the probe, which records this task's hits from now on; raises as KprobeEvent.

        Another place or other arguments give another probe, whose event gets a number: the kernel
        takes each name once. A probe that failed is not tried again.
        """
        wanted = (event, place, tuple(arguments.items()))
        found = self._probes.get(wanted)
        if found is None:
            return self._made(wanted)
        if isinstance(found, Exception):
            raise found
        found.follow([os.getpid()])
        found.record(on=True)
        found.forget()
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
