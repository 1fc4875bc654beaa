"""Sources of SMIs
===============

What all sources have in common: a context in which SMIs come at a rate.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kvmtest._native import lib
from kvmtest.errors import KvmtestError, UsageError
from kvmtest.workers import PATIENCE_S, Supervisor

if TYPE_CHECKING:  # Doctor only lists the sources, and must be quick.
    from kvmtest.host.changes.journal import Journal

__all__ = [
    "Fire",
    "Periodic",
    "Prepared",
    "Raising",
    "Ready",
    "Source",
    "Trigger",
    "Triggered",
    "check_rate",
    "opened_file",
    "ready",
    "stamped",
]

#: Triggers SMIs once, and returns when they are over. Raises KvmtestError.
Fire = Callable[[], None]


class Trigger(NamedTuple):
    """The TSC before and after one trigger; its SMIs came in between."""

    before: int
    after: int


@dataclass(slots=True)
class Raising:
    """What a source did during a block.

    ``triggers`` grows during the block, for a triggered source. ``raised`` is how many SMIs a
    periodic source reports: None before the block's end, and where the source can't tell.
    """

    triggers: list[Trigger] = field(default_factory=list)
    raised: int | None = None


@dataclass(frozen=True, slots=True)
class Triggered:
    """A source that raises SMIs only when it is triggered.

    ``describes`` says what a trigger does, ``changes`` what that changes on the host. ``opened`` is
    a context that yields the trigger. ``fastest_hz`` bounds the rate. If a trigger takes longer
    than ``longest_s`` the machine does not bear it.
    """

    name: str
    describes: str
    changes: str
    fastest_hz: float
    longest_s: float
    opened: Callable[[], AbstractContextManager[Fire]]

    @contextmanager
    def raising(self, rate_hz: float) -> Iterator[Raising]:
        """Fire at ``rate_hz`` from a thread of its own while the block runs.

        Raises UsageError for a rate that the source does not take. A trigger's exception ends the
        firing, and is raised at the end of the block.
        """
        check_rate(self, rate_hz)
        raising = Raising()
        with self.opened() as fire, Supervisor(PATIENCE_S + self.longest_s) as workers:
            workers.start(_Firing(f"SMIs by {self.name}", fire, 1 / rate_hz, raising.triggers))
            yield raising


class _Firing:
    """A worker that fires every ``interval_s`` seconds and records when."""

    def __init__(self, name: str, fire: Fire, interval_s: float, triggers: list[Trigger]) -> None:
        self.name = name
        self._fire = fire
        self._interval_s = interval_s
        self._triggers = triggers
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.is_set():
            begun = time.monotonic()
            self._triggers.append(stamped(self._fire))
            # Counted from the trigger's beginning, so that the rate is never exceeded. A trigger
            # that took long is followed by a rest too: an SMI that arrives before the CPU has
            # taken the last one is lost.
            rest_s = begun + self._interval_s - time.monotonic()
            self._stopped.wait(max(rest_s, self._interval_s / 2))

    def stop(self) -> None:
        self._stopped.set()


@dataclass(frozen=True, slots=True)
class Periodic:
    """A source whose SMIs come by themselves once it is switched on.

    ``switched`` takes a rate, and whether SMIs are wanted outside guests too. It is a context that
    yields a function: how many SMIs it has raised since, or None where nobody counts them. A source
    that only waits takes no rate, and has ``patience_s``: the longest that a proof waits.
    """

    name: str
    describes: str
    changes: str
    fastest_hz: float
    switched: Callable[[float, bool], AbstractContextManager[Callable[[], int] | None]]
    patience_s: float | None = None

    @contextmanager
    def raising(self, rate_hz: float, *, outside_guests: bool = False) -> Iterator[Raising]:
        """Have SMIs come while the block runs: in guests only, or ``outside_guests`` too.

        Raises UsageError for a rate that the source does not take, and KvmtestError where it can't
        be switched on.
        """
        check_rate(self, rate_hz)
        raising = Raising()
        with self.switched(rate_hz, outside_guests) as raised:
            yield raising
        if raised:
            raising.raised = raised()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A source that must change the host before it can fire.

    ``prepared`` makes the change through the journal and yields the source. The change is undone
    at the block's end, or by the journal.
    """

    name: str
    describes: str
    changes: str
    fastest_hz: float
    prepared: Callable[["Journal"], AbstractContextManager[Triggered]]


#: A source that can raise SMIs as it is.
Ready = Triggered | Periodic
Source = Ready | Prepared


def ready(source: Source, journal: "Journal") -> AbstractContextManager[Ready]:
    """Return a context in which the source is ready to raise SMIs. Raises KvmtestError."""
    if isinstance(source, Prepared):
        return source.prepared(journal)
    return nullcontext(source)


def stamped(fire: Fire) -> Trigger:
    """Fire once; return the TSC before and after."""
    before = lib.clock_tsc()
    fire()
    return Trigger(before, lib.clock_tsc())


@contextmanager
def opened_file(path: Path, flags: int, advice: str = "use another SMI source") -> Iterator[int]:
    """Yield a descriptor of the file that a source works through, open for the block.

    ``flags`` are those of open(2). Raises KvmtestError, whose message ends with the ``advice``.
    """
    try:
        fd = os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        raise KvmtestError(f"can't open {path}: {error.strerror}; {advice}") from error
    try:
        yield fd
    finally:
        os.close(fd)


def check_rate(source: Source, rate_hz: float) -> None:
    """Raise UsageError for a rate that the source does not take."""
    if not 0 < rate_hz <= source.fastest_hz:
        raise UsageError(
            f"SMI source {source.name} takes rates up to {source.fastest_hz:g} Hz, not {rate_hz:g}"
        )
