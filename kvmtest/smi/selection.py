"""Slow sources together
====================

Of several sources that proved themselves the fastest is used; two, where it is slow, in turns.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from .proof import SAFE_SHARE
from .source import Fire, Ready, Triggered

__all__ = ["FAST_HZ", "Proved", "Turns", "best"]

#: A source that raises SMIs so often does alone.
FAST_HZ = 20.0


class Proved(NamedTuple):
    """A source that proved itself, the rate to use it at, and how long a trigger takes."""

    source: Ready
    rate_hz: float
    trigger_s: float = 0.0


def best(found: Sequence[Proved]) -> Proved:
    """Return the fastest source, or the two fastest as one, where they are slow."""
    fastest, *others = sorted(found, key=lambda each: each.rate_hz, reverse=True)
    triggered = [each for each in (fastest, *others) if isinstance(each.source, Triggered)][:2]
    if fastest.rate_hz >= FAST_HZ or len(triggered) < 2 or fastest not in triggered:
        return fastest
    # Each alone takes as much of the machine's time as it bears.
    share = sum(each.rate_hz * each.trigger_s for each in triggered)
    slower = min(1.0, SAFE_SHARE / share) if share else 1.0
    return _in_turns([each._replace(rate_hz=slower * each.rate_hz) for each in triggered])


def _in_turns(members: Sequence[Proved]) -> Proved:
    """Return a source that fires each of the members at its own rate."""
    sources = [each.source for each in members if isinstance(each.source, Triggered)]
    rate_hz = sum(each.rate_hz for each in members)

    @contextmanager
    def opened() -> Iterator[Fire]:
        with ExitStack() as stack:
            fires = [stack.enter_context(source.opened()) for source in sources]
            yield Turns(fires, [1 / each.rate_hz for each in members])

    source = Triggered(
        " and ".join(each.name for each in sources),
        "; ".join(each.describes for each in sources),
        "; ".join(sorted({each.changes for each in sources})),
        fastest_hz=rate_hz,
        longest_s=sum(each.longest_s for each in sources) + max(1 / m.rate_hz for m in members),
        opened=opened,
    )
    return Proved(source, rate_hz, max(each.trigger_s for each in members))


class Turns:
    """Fires whichever has waited longest for its turn, and none before its time.

    Each of ``fires`` has its time once in ``intervals_s`` seconds.
    """

    def __init__(self, fires: Sequence[Fire], intervals_s: Sequence[float]) -> None:
        self._fires = fires
        self._intervals_s = intervals_s
        self._due = [0.0] * len(fires)

    def __call__(self) -> None:
        """Wait for a turn, and fire. Raises KvmtestError."""
        self.wait()
        at = self._next
        self._due[at] = time.monotonic() + self._intervals_s[at]
        self._fires[at]()

    def wait(self) -> None:
        """Wait until it is somebody's turn."""
        time.sleep(max(0.0, self._due[self._next] - time.monotonic()))

    @property
    def _next(self) -> int:
        return min(range(len(self._due)), key=self._due.__getitem__)
