"""Shells
======

What a fleet needs of a way into a host, whatever carries it: run a command, bring a file, fetch a
file. A host is not trusted: no answer is longer than the caller allows, and none takes longer.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from kvmtest.errors import EnvironmentUnfit, printable

__all__ = [
    "ANSWER",
    "PATIENCE",
    "CommandFailed",
    "ConnectionLost",
    "Ran",
    "Refused",
    "Shell",
    "TooMuch",
    "TooSlow",
    "patiently",
    "seconds_left",
    "while_lost",
]

T = TypeVar("T")

#: The most bytes of a command's output, where the caller says no other number, and of its errors.
ANSWER = 1 << 20
#: Seconds that a command may take, where the caller says no other number.
PATIENCE = 60.0

# Of a command's errors this much goes into a message.
_TOLD = 300
# strerror(3) of ENOSPC and EDQUOT.
_FULL = re.compile(rb"No space left on device|Disk quota exceeded")
# Seconds between two attempts to reach a host.
_PAUSE = 2.0


class ConnectionLost(EnvironmentUnfit):
    """The host can't be reached, or the connection broke; the command may have run or not."""


class Refused(EnvironmentUnfit):
    """The host has another key than it should have, or does not let us in; no use asking again."""


class TooSlow(EnvironmentUnfit):
    """A command did not end in time; it may be at work still."""


class TooMuch(EnvironmentUnfit):
    """A host sent more than was asked for."""


class CommandFailed(EnvironmentUnfit):
    """A command ended with a status other than 0; ``ran`` has its output."""

    def __init__(self, what: str, ran: "Ran") -> None:
        self.ran = ran
        super().__init__(what)


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended; killed by signal N, its status is 128 + N. Its text is the host's."""

    status: int
    output: bytes = b""
    errors: bytes = b""

    @property
    def text(self) -> str:
        """The output as text, without the white space at its ends."""
        return self.output.decode(errors="replace").strip()

    @property
    def complaint(self) -> str:
        """The last line of the errors, as it can be shown, or else of the output; "" for none."""
        lines = (self.errors.strip() or self.output.strip()).decode(errors="replace").splitlines()
        return printable(lines[-1].strip())[:_TOLD] if lines else ""

    def must(self, what: str) -> "Ran":
        """Return this where the command ended with status 0; raises CommandFailed otherwise.

        ``what`` failed, in words: on which host, and what.
        """
        if self.status == 0:
            return self
        why = self.complaint or f"the command ended with status {self.status}"
        full = "; free some space there" if _FULL.search(self.errors + self.output) else ""
        raise CommandFailed(f"{what}: {why}{full}", self)


class Shell(Protocol):
    """A way to run commands on one host, as root. It may be used again after any error."""

    @property
    def name(self) -> str:
        """How messages call the host."""

    def run(
        self,
        words: Sequence[str],
        given: bytes = b"",
        *,
        deadline: float = PATIENCE,
        most: int = ANSWER,
    ) -> Ran:
        """Run a command, given by its words, and wait ``deadline`` seconds at most for its end.

        The host's shell takes no word apart; ``["sh", "-c", SCRIPT, "sh", ...]`` is a script. A
        command that stays at work in the background must leave its output and errors to somebody
        else. ``given`` is its input. ``most``: bytes of output; errors have ANSWER at least.
        Raises ConnectionLost, Refused, TooSlow, TooMuch, and EnvironmentUnfit where there is no
        such way into any host.
        """

    def put(self, local: Path, remote: str, *, deadline: float = PATIENCE) -> None:
        """Bring a file, whole or not at all; raises as ``run``, and CommandFailed.

        The folder of ``remote`` exists.
        """

    def get(self, remote: str, *, most: int, deadline: float = PATIENCE) -> bytes:
        """Return the contents of a file of at most ``most`` bytes.

        Raises as ``run``, and CommandFailed.
        """


def seconds_left(until: float) -> float:
    """Return the seconds from now to ``until``, by time.monotonic(); 0 once that has passed."""
    return max(0.0, until - time.monotonic())


def patiently(shell: Shell, words: Sequence[str], until: float) -> Ran:
    """Run a command that can be run twice, again and again until the host can be reached.

    ``until`` is by time.monotonic(). Raises as Shell.run, ConnectionLost only then.
    """
    return while_lost(lambda: shell.run(words, deadline=min(PATIENCE, seconds_left(until))), until)


def while_lost(do: Callable[[], T], until: float, pause: float = _PAUSE) -> T:
    """Do what can be done twice until no ConnectionLost ends it; raises the last one at ``until``.

    ``pause``: seconds from one beginning to the next, at least.
    """
    lost: ConnectionLost | None = None
    while True:
        began = time.monotonic()
        try:
            return do()
        except TooSlow:
            if lost is None or time.monotonic() < until:
                raise
            # The host was away until too little time was left for an answer.
            raise lost from None
        except ConnectionLost as error:
            lost = error
            # A host that is down refuses at once; one whose network is away takes its time.
            next_time = max(began + pause, time.monotonic())
            if next_time >= until:
                raise
            time.sleep(seconds_left(next_time))
