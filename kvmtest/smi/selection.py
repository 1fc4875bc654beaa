"""Selection of a source
=====================

Selects the fastest of several proved sources; where that is slow, two fire in turns.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from .proof import SAFE_SHARE
from .source import Fire, Ready, Triggered

__all__ = ["FAST_HZ", "Proved", "Turns", "best"]

#: A source that reaches this rate needs no other beside it.
FAST_HZ = 20.0


class Proved(NamedTuple):
    """A proved source, the rate to use it at, and how long one trigger takes."""

    source: Ready
    rate_hz: float
    trigger_s: float = 0.0


def best(found: Sequence[Proved]) -> Proved:
    """Return the fastest source; where it is slow, the two fastest combined into one."""
    fastest, *others = sorted(found, key=lambda each: each.rate_hz, reverse=True)
    triggered = [each for each in (fastest, *others) if isinstance(each.source, Triggered)][:2]
    if fastest.rate_hz >= FAST_HZ or len(triggered) < 2 or fastest not in triggered:
        return fastest
    # Each alone may take as much of the machine's time as the machine bears: slow both down.
    share = sum(each.rate_hz * each.trigger_s for each in triggered)
    slower = min(1.0, SAFE_SHARE / share) if share else 1.0
    return _in_turns([each._replace(rate_hz=slower * each.rate_hz) for each in triggered])


def _in_turns(members: Sequence[Proved]) -> Proved:
    """Return a source that fires each member at the member's own rate."""
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
    """Fires the source whose turn is due first, and none before its turn.

    Each of ``fires`` has a turn once in its ``intervals_s`` seconds.
    """

    def __init__(self, fires: Sequence[Fire], intervals_s: Sequence[float]) -> None:
        self._fires = fires
        self._intervals_s = intervals_s
        self._due = [0.0] * len(fires)

    def __call__(self) -> None:
        """Wait for the next turn, and fire. Raises KvmtestError."""
        self.wait()
        at = self._next
        self._due[at] = time.monotonic() + self._intervals_s[at]
        self._fires[at]()

    def wait(self) -> None:
        """Wait until a turn is due."""
        time.sleep(max(0.0, self._due[self._next] - time.monotonic()))

    @property
    def _next(self) -> int:
        return min(range(len(self._due)), key=self._due.__getitem__)
