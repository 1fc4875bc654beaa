"""SMIs as they come
=================

Looks at a count of SMIs again and again, and keeps for each CPU how many came, how fast, and when
the last one was seen.

The count is read at intervals, as nothing wakes a reader up for each SMI: the MSR and perf's PMU
``msr`` raise no interrupt, and for an event of the CPU cores many kernels program the counter to
overflow at the second event at the earliest (x86_perf_event_set_period, arch/x86/events/core.c).
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from .counts import SmiCount

__all__ = ["RECENT_S", "Row", "Tally", "watch"]

#: The seconds over which a rate is taken, at most.
RECENT_S = 10.0


@dataclass(frozen=True, slots=True)
class Row:
    """What came to one CPU: SMIs since the watch began, SMIs a second of late, the last one.

    ``last`` is the wall clock's time of the look that saw it, in seconds; None before the first.
    """

    cpu: int
    smis: int
    rate_hz: float
    last: float | None


@dataclass(slots=True)
class Tally:
    """What each CPU has taken since a watch began. Pure: the caller reads the counts and clocks."""

    began: float
    """The wall clock's time at which the watch began, in seconds."""

    smis: dict[int, int]
    """SMIs since then, by CPU."""

    last: dict[int, float] = field(default_factory=dict)
    """When each CPU's last SMI was seen, by the wall clock."""

    rises: Mapping[int, int] = field(default_factory=dict)
    """The SMIs that the latest look saw, by CPU; those without are left out."""

    seconds: float = 0.0
    """The time since the watch began."""

    _recent: deque[tuple[float, dict[int, int]]] = field(default_factory=deque)

    @classmethod
    def of(cls, cpus: tuple[int, ...], began: float) -> "Tally":
        """Begin a watch of these CPUs."""
        tally = cls(began, dict.fromkeys(cpus, 0))
        tally._recent.append((0.0, dict(tally.smis)))
        return tally

    def add(self, rises: Mapping[int, int], seconds: float, wall: float) -> None:
        """Take in a look, ``seconds`` after the watch began: the SMIs since the look before."""
        self.seconds = seconds
        self.rises = {cpu: rise for cpu, rise in rises.items() if rise}
        for cpu, rise in self.rises.items():
            self.smis[cpu] += rise
            self.last[cpu] = wall
        self._recent.append((seconds, dict(self.smis)))
        # One look stays that is as old as the rate's time, or older.
        while len(self._recent) > 2 and self._recent[1][0] <= seconds - RECENT_S:
            self._recent.popleft()

    @property
    def rows(self) -> list[Row]:
        """A row for each CPU."""
        then, before = self._recent[0]
        spell = self.seconds - then
        return [
            Row(cpu, smis, (smis - before[cpu]) / spell if spell else 0.0, self.last.get(cpu))
            for cpu, smis in self.smis.items()
        ]


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return True


def watch(
    count: SmiCount,
    interval_s: float,
    seconds: float | None,
    pause: Callable[[float], bool] = _sleep,
) -> Iterator[Tally]:
    """Give the tally at once and after each interval, for so many seconds; None: without end.

    It is one object that grows. ``pause`` waits and returns True; where it returns False, there is
    one more look. Raises KvmtestError where the count can't be read.
    """
    tally = Tally.of(count.cpus, time.time())
    begun, before = time.monotonic(), count.read_all()
    yield tally
    goes_on = True
    while goes_on and (seconds is None or tally.seconds < seconds):
        due = tally.seconds + interval_s
        due_at = begun + (due if seconds is None else min(due, seconds))
        goes_on = pause(max(due_at - time.monotonic(), 0.0))
        after = count.read_all()
        rises = {cpu: count.increase(before[cpu], after[cpu]) for cpu in after}
        tally.add(rises, time.monotonic() - begun, time.time())
        before = after
        yield tally
