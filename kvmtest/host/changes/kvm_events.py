"""KVM's tracepoints
=================

Turns the tracepoints kvm:kvm_entry and kvm:kvm_exit on for some tasks, in a tracing instance of
their own, through the journal (Documentation/trace/events.rst).
"""

from collections.abc import Iterable
from typing import Self

from kvmtest.host.changes.journal import Journal
from kvmtest.host.facts.tracefs import TRACING
from kvmtest.host.observe.trace import Passed, TracePipe, has_lost, parse_passed
from kvmtest.host.tree import Tree

__all__ = ["ENTRY", "EVENTS", "EXIT", "KvmEvents"]

EVENTS = ENTRY, EXIT = "kvm_entry", "kvm_exit"
_INSTANCE = f"{TRACING}/instances/kvmtest-watch"


class KvmEvents:
    """The entries and exits of vCPUs that these ``tasks`` (thread ids) run; close it after use.

    Raises JournalError where the kernel has no such tracepoints.
    """

    def __init__(self, tree: Tree, journal: Journal, tasks: Iterable[int]) -> None:
        #: Whether the kernel dropped events, because they came faster than the trace holds them.
        self.lost = False
        self._journal = journal
        journal.make_directory(_INSTANCE)
        # Removing the instance ends these settings: each undo need only be a value that it takes.
        journal.write(f"{_INSTANCE}/trace_clock", "mono", undo="local")
        self.follow(tasks)
        for event in EVENTS:
            journal.write(f"{_INSTANCE}/events/kvm/{event}/enable", "1", undo="0")
        self._pipe = TracePipe(tree.path(f"{_INSTANCE}/trace_pipe"))

    def follow(self, tasks: Iterable[int]) -> None:
        """Record only events of these tasks from now on."""
        text = " ".join(map(str, tasks))
        self._journal.write(f"{_INSTANCE}/set_event_pid", text, undo="")

    def record(self, *, on: bool) -> None:
        """Go on recording, or pause: what is recorded is still read."""
        self._journal.write(f"{_INSTANCE}/tracing_on", str(int(on)), undo="1", force=True)

    def read(self) -> list[Passed]:
        """Return the events since the last read. Raises TracingError.

        Pause the recording before: events that come faster than they are read would never end.
        """
        text = self._pipe.read()
        self.lost |= has_lost(text)
        return parse_passed(text)

    def close(self) -> None:
        """Close the trace; the journal removes the instance."""
        self._pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
