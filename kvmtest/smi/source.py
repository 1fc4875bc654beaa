"""Sources of SMIs
===============

What all sources have in common: SMIs come while a block is run, at a rate, and stop at its end.
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

if TYPE_CHECKING:  # doctor asks for sources alone, and is to be quick
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

#: Raises SMIs once, and returns when they are over. Raises KvmtestError.
Fire = Callable[[], None]


class Trigger(NamedTuple):
    """The TSC before and after one trigger: its SMIs were in between."""

    before: int
    after: int


@dataclass(slots=True)
class Raising:
    """What a source did during a block.

    ``triggers`` grows during the block; it stays empty for a source that is not triggered one by
    one. ``raised`` is how many SMIs such a source says that it raised: None where it can't tell,
    and before the block's end.
    """

    triggers: list[Trigger] = field(default_factory=list)
    raised: int | None = None


@dataclass(frozen=True, slots=True)
class Triggered:
    """A source whose every SMI is asked for.

    ``describes`` says what it does, ``changes`` what that changes on the host. ``opened`` is a
    context that gives what fires once. ``fastest_hz`` bounds the rate. A trigger that takes longer
    than ``longest_s`` shows a machine that does not bear it.
    """

    name: str
    describes: str
    changes: str
    fastest_hz: float
    longest_s: float
    opened: Callable[[], AbstractContextManager[Fire]]

    @contextmanager
    def raising(self, rate_hz: float) -> Iterator[Raising]:
        """Fire at ``rate_hz``, in a thread of its own, while the block is run.

        Raises UsageError for a rate that it does not take; and at the end of the block what a
        trigger raised, after which there were no more.
        """
        check_rate(self, rate_hz)
        raising = Raising()
        with self.opened() as fire, Supervisor(PATIENCE_S + self.longest_s) as workers:
            workers.start(_Firing(f"SMIs by {self.name}", fire, 1 / rate_hz, raising.triggers))
            yield raising


class _Firing:
    """A worker that fires every ``interval_s`` seconds, and records when."""

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
            # From its beginning, so that it is never faster than asked for. After one that took
            # long there is a rest all the same: an SMI that comes before the last is taken is lost.
            rest_s = begun + self._interval_s - time.monotonic()
            self._stopped.wait(max(rest_s, self._interval_s / 2))

    def stop(self) -> None:
        self._stopped.set()


@dataclass(frozen=True, slots=True)
class Periodic:
    """A source whose SMIs come by themselves, once it is switched on.

    ``switched`` takes a rate, and whether SMIs are wanted while no guest runs too. It is a context
    that gives how many SMIs it has raised since then, or None where nobody counts them. One that
    takes no rate, as it only waits, has ``patience_s``: how long a proof waits at most.
    """

    name: str
    describes: str
    changes: str
    fastest_hz: float
    switched: Callable[[float, bool], AbstractContextManager[Callable[[], int] | None]]
    patience_s: float | None = None

    @contextmanager
    def raising(self, rate_hz: float, *, outside_guests: bool = False) -> Iterator[Raising]:
        """Have SMIs come while the block is run: while a guest runs, or also ``outside_guests``.

        Raises UsageError for a rate that it does not take, KvmtestError where it can't be switched.
        """
        check_rate(self, rate_hz)
        raising = Raising()
        with self.switched(rate_hz, outside_guests) as raised:
            yield raising
        if raised:
            raising.raised = raised()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A source that has to change the host before it can fire.

    ``prepared`` does so through the journal, and gives the source that is ready then. What it
    changes is undone at the block's end, or by the journal.
    """

    name: str
    describes: str
    changes: str
    fastest_hz: float
    prepared: Callable[["Journal"], AbstractContextManager[Triggered]]


#: What can raise SMIs as it is.
Ready = Triggered | Periodic
Source = Ready | Prepared


def ready(source: Source, journal: "Journal") -> AbstractContextManager[Ready]:
    """Return a context in which the source can raise SMIs. Raises KvmtestError."""
    if isinstance(source, Prepared):
        return source.prepared(journal)
    return nullcontext(source)


def stamped(fire: Fire) -> Trigger:
    """Fire once, and return when."""
    before = lib.clock_tsc()
    fire()
    return Trigger(before, lib.clock_tsc())


@contextmanager
def opened_file(path: Path, flags: int, advice: str = "use another SMI source") -> Iterator[int]:
    """Give a descriptor of the file that a source works through, and close it at the block's end.

    ``flags`` are those of open(2). Raises KvmtestError, which ends with the ``advice``.
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
