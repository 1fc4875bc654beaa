"""Counter groups
==============

perf_event_open(2) for events that are counted together or not at all. Around a guest's run::

    tree = Tree()
    events = [find_event(tree, name) for name in ("instructions:uG", "instructions:kG")]
    with CounterGroup(tree, events, pinned=True) as group:
        group.enable()
        before = group.read()
        vcpu.run()
        print((group.read() - before).of("instructions:uG"))
"""

import fcntl
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any, Self

from kvmtest._native import ffi, lib
from kvmtest.errors import UsageError
from kvmtest.host.tree import Tree

from .counts import READ_FORMAT, Counts, GroupFormat
from .event import Event
from .refusal import CounterError, not_counted, not_opened

__all__ = ["CounterGroup"]

# perf_event_open(2)'s word for any CPU, any thread, and no group.
ANY = -1


class CounterGroup:
    """Events that the kernel counts together, disabled at first; close it after use.

    It counts the calling thread, or the thread ``tid``; with ``cpu`` alone, everything on that CPU;
    with both, the thread while it runs on that CPU. A ``pinned`` group keeps its counters, or can't
    be read. Errors are explained with the facts of ``tree``. The first event leads.

    Raises :class:`CounterError`, which says what is missing, and UsageError.
    """

    def __init__(
        self,
        tree: Tree,
        events: Sequence[Event],
        *,
        tid: int | None = None,
        cpu: int | None = None,
        pinned: bool = False,
    ) -> None:
        names = [event.name for event in events]
        if not names or len(set(names)) < len(names):
            raise UsageError(f"a group needs one event or more, all different, not {names}")
        self.events = tuple(events)
        self.thread = threading.get_native_id() if tid is None and cpu is None else tid
        self._cpu = cpu
        self._tree = tree
        self._fds: list[int] = []
        self._leader = -1
        try:
            for event in events:
                self._fds.append(self._open(event, pinned))
            ids = [_id(fd) for fd in self._fds]
        except BaseException:
            self.close()
            raise
        self._leader = self._fds[0]
        self._format = GroupFormat(names, ids)
        self._size, self._decode = self._format.size, self._format.decode

    def _open(self, event: Event, pinned: bool) -> int:
        leads = not self._fds
        thread = ANY if self.thread is None else self.thread
        cpu = ANY if self._cpu is None else self._cpu
        group = ANY if leads else self._fds[0]
        fd: int = lib.perf_open(_attributes(event, leads, pinned), thread, cpu, group)
        if fd < 0:
            raise not_opened(self._tree, event, ffi.errno)
        return fd

    def enable(self) -> None:
        """Start counting all events."""
        fcntl.ioctl(self._leader, lib.PERF_EVENT_IOC_ENABLE, lib.PERF_IOC_FLAG_GROUP)

    def disable(self) -> None:
        """Stop counting; the counts stay."""
        fcntl.ioctl(self._leader, lib.PERF_EVENT_IOC_DISABLE, lib.PERF_IOC_FLAG_GROUP)

    def reset(self) -> None:
        """Set all counts to 0; the times run on."""
        fcntl.ioctl(self._leader, lib.PERF_EVENT_IOC_RESET, lib.PERF_IOC_FLAG_GROUP)

    def read(self) -> Counts:
        """Return all counts, read at once.

        Raises :class:`CounterError` where the group did not count all the time that it was enabled:
        such counts would be estimates.
        """
        counts = self._decode(os.read(self._leader, self._size))
        if counts is None:
            raise self._not_counted(0, 0)
        if counts.running_ns != counts.enabled_ns:
            raise self._not_counted(counts.enabled_ns, counts.running_ns)
        return counts

    def _not_counted(self, enabled_ns: int, running_ns: int) -> CounterError:
        cpu = None if self.thread is None else self._cpu
        return not_counted(self._tree, self.events, enabled_ns, running_ns, cpu)

    def close(self) -> None:
        """Close all events."""
        self._leader = -1
        while self._fds:
            os.close(self._fds.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _attributes(event: Event, leads: bool, pinned: bool) -> Any:
    """Return the ``struct perf_event_attr *`` of a group's event; its leader holds for all."""
    return ffi.new(
        "struct perf_event_attr *",
        {
            "type": event.type,
            "size": ffi.sizeof("struct perf_event_attr"),
            "config": event.config,
            "config1": event.config1,
            "config2": event.config2,
            "read_format": READ_FORMAT,
            "disabled": leads,
            "pinned": leads and pinned,
            **dict.fromkeys(event.excluded, 1),
        },
    )


def _id(fd: int) -> int:
    """Return the id that a group's read gives an event."""
    answer: bytes = fcntl.ioctl(fd, lib.PERF_EVENT_IOC_ID, bytes(8))
    return int.from_bytes(answer, sys.byteorder)
