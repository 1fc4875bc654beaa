"""``make chaos``: runs killed by SIGKILL, one after the other, and what becomes of the host.

Every victim is a whole ``kvmtest run`` over a stand-in tree, whose check changes the host in every
way that the journal knows. It is stopped at a moment that is uniform over its length, or amid one
of the system calls that write its record; looked at, and killed. So are, in some ways, its guardian
and the ``kvmtest restore`` that comes after. In the end every value must be what it was.

    python -m chaos [--kills N] [--seed S]

Exit status: 0 all was restored, 1 something was not, or too few kills met a change.
"""

import argparse
import gc
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.sigkill import StandIn, Victim, forked, kill, made, meddle, stop
from support.stand_in import intel_host

import kvmtest.run
import kvmtest.session
from kvmtest.checks import Check, Context, check_of
from kvmtest.cli import main as kvmtest_main
from kvmtest.host.changes.journal import RECORD, record
from kvmtest.judge import Reading, measure
from kvmtest.properties import Property

__all__ = ["WAYS", "Tally", "Way", "chaos", "main"]

KILLS = 1000
# The least share of kills that must meet a changed host: else they prove little.
LEAST = 0.25
# Of the victims that are started; the others had ended before their kill.
MOST_ATTEMPTS = 3

MEDDLING = "kernel.fix-present"
"""The property whose check changes everything instead; it lacks nothing in the stand-in."""


@dataclass(frozen=True)
class Way:
    """Who is killed, and when.

    ``at_record``: amid the system calls that write the record, instead of any moment. ``restores``
    is how many times ``kvmtest restore`` is killed before it may end.
    """

    name: str
    at_record: bool = False
    guardian_too: bool = False
    restores: int = 0


WAYS = (
    Way("run"),
    Way("run and guardian", guardian_too=True),
    Way("run amid its record", at_record=True),
    Way("run amid its record, and guardian", at_record=True, guardian_too=True),
    Way("run, guardian, restore", guardian_too=True, restores=1),
    Way("run, guardian, restore amid its record", at_record=True, guardian_too=True, restores=2),
)


@dataclass
class Tally:
    """What became of the kills of one way."""

    kills: int = 0
    amid_change: int = 0
    changes: int = 0
    """Entries recorded when the runs were killed, in all."""

    by: Counter[str] = field(default_factory=Counter)
    """Who put the host back."""

    restores_killed: int = 0
    not_restored: list[str] = field(default_factory=list)


NOBODY, GUARDIAN, RESTORE, AGAIN = "nothing changed", "guardian", "restore", "2nd restore"


# The victims


class Points:
    """The module os as the record sees it; stops the process amid the ``stop``-th point.

    A point is before a system call, after one, and amid a write: with half of it written.
    """

    _CALLS = ("open", "ftruncate", "write", "fsync")

    def __init__(self, at: int) -> None:
        self.passed = 0
        self._at = at

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in self._CALLS:
            return real

        def call(*arguments: Any, **more: Any) -> Any:
            self._point()
            if name == "write":
                descriptor, data = arguments
                self._point(lambda: os.write(descriptor, data[: len(data) // 2]))
            done = real(*arguments, **more)
            self._point()
            return done

        return call

    def _point(self, first: Callable[[], object] = lambda: None) -> None:
        self.passed += 1
        if self.passed == self._at:
            first()
            os.kill(os.getpid(), signal.SIGSTOP)


def _command(
    words: Sequence[str], stand_in: StandIn, at: int, tell: Callable[[bytes], object]
) -> None:
    """Be a ``kvmtest`` command; stop at the point ``at`` of the record, 0 for nowhere."""
    points = Points(at)
    record.os = points  # type: ignore[attr-defined]
    kvmtest.session.check_of = _meddling(stand_in, at == AMID)  # type: ignore[attr-defined]
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        status = kvmtest_main([*words, "--root", str(stand_in.tree.root)])
    tell(b"%d %d\n" % (points.passed, status))


def _meddling(stand_in: StandIn, stops: bool) -> Callable[[Property], Check]:
    def check(context: Context) -> Generator[Reading, None, None]:
        meddle(context.journal, stand_in)
        if stops:
            os.kill(os.getpid(), signal.SIGSTOP)
        yield measure("btf", "changes made", len(context.journal.changes))

    return lambda prop: check if prop.id == MEDDLING else check_of(prop)


AMID = -1
"""Instead of a point of the record: when the check has changed everything."""

RUN = ("run", "--only", MEDDLING, "--only", "host.knob-effective")
RUN_STATUS = 4
"""The stand-in's MSRs are dead, so nothing is decided."""


@dataclass
class Process:
    """A command as a process: how long it takes, and how many points its record has."""

    words: Sequence[str]
    status: int
    seconds: float = 0.0
    points: int = 0

    def start(self, stand_in: StandIn, at: int = 0) -> Victim:
        return forked(lambda tell: _command(self.words, stand_in, at, tell))(stand_in.tree.root)

    def measure(self, stand_in: StandIn) -> None:
        """Let it run to its end, and see how long that takes."""
        began = time.perf_counter()
        said = self.ended(self.start(stand_in))
        self.seconds = time.perf_counter() - began
        self.points = int(said.split()[0])

    def ended(self, victim: Victim) -> bytes:
        """Await its end, which must be a good one."""
        with os.fdopen(victim.phases, "rb") as phases:
            said = phases.read()
        status = os.waitstatus_to_exitcode(os.waitpid(victim.pid, 0)[1])
        if status or int(said.split()[1]) != self.status:
            raise RuntimeError(f"kvmtest {' '.join(self.words)} ends with {said!r} by itself")
        return said

    def stopped(self, stand_in: StandIn, at_record: bool, chance: random.Random) -> Victim | None:
        """Start and stop it at random; None where it had ended before."""
        if at_record:
            victim = self.start(stand_in, chance.randint(1, max(1, self.points)))
            _, status = os.waitpid(victim.pid, os.WUNTRACED)
            is_stopped = os.WIFSTOPPED(status)
        else:
            victim = self.start(stand_in)
            is_stopped = stop(victim, chance.uniform(0, self.seconds))
            # Other work on the machine changes how long it takes: the kills follow it.
            self.seconds *= 1.01 if is_stopped else 0.95
        if is_stopped:
            return victim
        os.close(victim.phases)
        return None


# The kills


class Chaos:
    """Kills in all ways, over one stand-in."""

    def __init__(self, stand_in: StandIn, chance: random.Random) -> None:
        self.stand_in = stand_in
        self.chance = chance
        self.before = stand_in.state()
        self.run = Process(RUN, RUN_STATUS)
        self.restore = Process(("restore",), 0)
        self.run.measure(stand_in)
        stand_in.await_free()
        if stand_in.state() != self.before:
            raise RuntimeError("not even an undisturbed run leaves the host as it was")
        # One that has something to restore.
        self._kill(self._amid_changes(), guardian_too=True)
        self.restore.measure(stand_in)

    def round(self, way: Way, tally: Tally) -> bool:
        """Kill one run as ``way`` says; False where it had ended before."""
        victim = self.run.stopped(self.stand_in, way.at_record and not way.restores, self.chance)
        if victim is None:
            self.stand_in.await_free()
            return False
        tally.kills += 1
        tally.amid_change += self.stand_in.state() != self.before
        entries = self.stand_in.entries()
        tally.changes += entries
        self._kill(victim, way.guardian_too)
        by = GUARDIAN if entries else NOBODY
        if way.guardian_too:
            by = self._restored(way, tally) or by
        if self.stand_in.state() != self.before or self.stand_in.tree.exists(RECORD):
            differs = {
                name: value
                for name, value in self.stand_in.state().items()
                if value != self.before[name]
            }
            tally.not_restored.append(f"{way.name}, kill {tally.kills}: {differs or RECORD}")
        tally.by[by] += 1
        return True

    def _restored(self, way: Way, tally: Tally) -> str:
        """Restore, after as many killed attempts as ``way`` has; return who found work to do."""
        by = ""
        for _ in range(way.restores):
            was_there = self.stand_in.tree.exists(RECORD)
            victim = self.restore.stopped(self.stand_in, way.at_record, self.chance)
            if victim is None:
                by = by or (RESTORE if was_there else "")
                continue
            os.kill(victim.pid, signal.SIGKILL)
            os.waitpid(victim.pid, 0)
            os.close(victim.phases)
            self.stand_in.await_free()
            tally.restores_killed += 1
            if was_there:
                by = AGAIN
        if not by and self.stand_in.tree.exists(RECORD):
            by = RESTORE
        self.restore.ended(self.restore.start(self.stand_in))
        return by

    def _kill(self, victim: Victim, guardian_too: bool) -> None:
        guardian = self.stand_in.guardian_of(victim.pid) if guardian_too else None
        kill(victim, guardian, self.chance)
        os.close(victim.phases)
        self.stand_in.await_free()

    def _amid_changes(self) -> Victim:
        """Return a run that is stopped when it has changed everything."""
        victim = self.run.start(self.stand_in, AMID)
        _, status = os.waitpid(victim.pid, os.WUNTRACED)
        if os.WIFSTOPPED(status) and self.stand_in.entries():
            return victim
        raise RuntimeError("a run records no changes")


@contextmanager
def _fresh(chance: random.Random) -> Iterator[Chaos]:
    with tempfile.TemporaryDirectory(prefix="kvmtest-chaos-") as folder:
        tree = intel_host(Path(folder))
        yield Chaos(made(tree), chance)


def chaos(kills: int, seed: int, ways: Sequence[Way]) -> dict[str, Tally]:
    """Kill so many runs, by turns in each way; return what became of them.

    A stand-in that was not put back is replaced by a new one. Raises RuntimeError where nearly all
    runs had ended before their kill, or end badly by themselves.
    """
    chance = random.Random(seed)
    tallies = {way.name: Tally() for way in ways}
    done = attempts = 0
    while done < kills:
        with _fresh(chance) as stand:
            is_sound = True
            while done < kills and is_sound:
                way = ways[done % len(ways)]
                attempts += 1
                if attempts > MOST_ATTEMPTS * kills:
                    raise RuntimeError(f"most runs ended before their kill (seed {seed})")
                lost = len(tallies[way.name].not_restored)
                done += stand.round(way, tallies[way.name])
                is_sound = len(tallies[way.name].not_restored) == lost
    return tallies


def _table(tallies: dict[str, Tally]) -> Iterator[str]:
    who = (NOBODY, GUARDIAN, RESTORE, AGAIN)
    yield f"{'killed':42}{'kills':>6}{'amid change':>12}" + "".join(f"{name:>16}" for name in who)
    for name, tally in tallies.items():
        counts = "".join(f"{tally.by[each]:16}" for each in who)
        yield f"{name:42}{tally.kills:6}{tally.amid_change:12}{counts}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=KILLS, help=f"default: {KILLS}")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "little"))
    options = parser.parse_args()
    # Else the victims, which are forks, copy what they collect.
    gc.collect()
    gc.freeze()
    print(f"chaos: seed {options.seed}", flush=True)
    began = time.monotonic()
    try:
        tallies = chaos(options.kills, options.seed, WAYS)
    except RuntimeError as error:
        print(f"chaos: {error}")
        return 1
    seconds = time.monotonic() - began
    for line in _table(tallies):
        print(line)
    every = tallies.values()
    kills, amid = sum(t.kills for t in every), sum(t.amid_change for t in every)
    lost = [line for tally in every for line in tally.not_restored]
    print(
        f"{kills} runs killed in {seconds:.0f} s, {amid} of them with the host changed; "
        f"{sum(t.restores_killed for t in every)} restores killed; "
        f"{sum(t.changes for t in every)} recorded changes undone; {len(lost)} hosts not restored"
    )
    for line in lost:
        print(f"NOT RESTORED (seed {options.seed}): {line}")
    if amid < LEAST * kills:
        print(f"only {amid} of {kills} kills met a change: that proves little")
    return 1 if lost or amid < LEAST * kills else 0


if __name__ == "__main__":
    sys.exit(main())
