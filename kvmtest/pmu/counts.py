"""Counts
======

Parses what a read of a perf group returns; pure.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

from kvmtest._native import lib

__all__ = ["READ_FORMAT", "Counts", "GroupFormat"]

#: The read_format of every event of a group. PERF_FORMAT_LOST is left out: it counts lost samples,
#: and a group that is read takes none.
READ_FORMAT: int = (
    lib.PERF_FORMAT_GROUP
    | lib.PERF_FORMAT_TOTAL_TIME_ENABLED
    | lib.PERF_FORMAT_TOTAL_TIME_RUNNING
    | lib.PERF_FORMAT_ID
)


class Counts(NamedTuple):
    """The counts of a group's events, in their order, and how long they were enabled and counted.

    A difference of two reads is what happened between them.
    """

    names: tuple[str, ...]
    values: tuple[int, ...]
    enabled_ns: int
    running_ns: int

    def of(self, name: str) -> int:
        """Return the count of the event that was written so. Raises KeyError."""
        return self.by_name()[name]

    def by_name(self) -> dict[str, int]:
        """Return each event's count."""
        return dict(zip(self.names, self.values, strict=True))

    def __sub__(self, before: "Counts") -> "Counts":
        values = tuple(a - b for a, b in zip(self.values, before.values, strict=True))
        enabled, running = self.enabled_ns - before.enabled_ns, self.running_ns - before.running_ns
        return Counts(self.names, values, enabled, running)


class GroupFormat:
    """What a group's descriptor gives under :data:`READ_FORMAT`.

    ``ids`` are the events' ids, in the order of ``names``.
    """

    def __init__(self, names: Sequence[str], ids: Sequence[int]) -> None:
        self.names = tuple(names)
        self._ids = tuple(ids)
        self._words = struct.Struct(f"={3 + 2 * len(ids)}Q")
        self.size = self._words.size

    def decode(self, data: bytes) -> Counts | None:
        """Return the counts; None for end of file: a pinned group that lost its counters.

        Raises :class:`ValueError` where they are not this group's.
        """
        if not data:
            return None
        words = self._words.unpack(data)
        if words[4::2] != self._ids:
            raise ValueError(f"counts of the events {words[4::2]}, not of {self._ids}")
        return Counts(self.names, words[3::2], words[1], words[2])
