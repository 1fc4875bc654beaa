"""``make chaos``: fleets killed by SIGKILL, one after the other, and what becomes of their hosts.

Every victim is a whole ``kvmtest fleet run`` or ``resume`` over hosts on paper
(tests/support/paper_hosts.py), stopped at a moment that is uniform over its length, and killed: the
command alone, whose hosts' processes then put their hosts back; all of its processes at once; or a
host's process. At last ``kvmtest fleet resume`` runs to its end. Evidence that stood there stands
there unchanged, each run of the plan has its evidence once, from the job that was started last, no
job was started twice without need, and every host is as it was.

    python -m fleet_chaos [--kills N] [--seed S]

Exit status: 0 nothing was lost, 1 something was, or too few kills met a host at work.
"""

import argparse
import gc
import hashlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

from support.paper_hosts import OWN_STATE, PaperHost, start_of
from support.sigkill import Victim, await_free, children, forked, kill_together, stop

import kvmtest.commands.fleet_run
from kvmtest.cli import main as kvmtest_main
from kvmtest.evidence import load
from kvmtest.evidence.file import EVIDENCE
from kvmtest.fleet.drive import Opening
from kvmtest.fleet.folder_lock import LOCK
from kvmtest.fleet.plan import Plan
from kvmtest.fleet.results import Results
from kvmtest.fleet.tasks import Lane
from kvmtest.report.fleet_run import FleetRun

__all__ = ["WAYS", "Tally", "chaos", "main"]

KILLS = 100
# The least share of kills that must meet a host that is not as it was: else they prove little.
LEAST = 0.25
MOST_ATTEMPTS = 4

HOSTS = ("spr", "emr", "turin")
KERNELS = ("own", "stable", "new")
REPEAT = 2
JOB_SECONDS = 0.01

PLAN = f"""\
hosts:
{"".join(f"  {name}: {{ssh: root@{name}}}{chr(10)}" for name in HOSTS)}
kernels:
  own: {{own: true}}
  stable: {{debian: 6.12.117}}
  new: {{debian: 6.18}}
runs:
  - {{repeat: {REPEAT}}}
"""

REPORTING = b"r"
"""What a command tells when all hosts are put back."""

ALONE, ALL, ONE_HOST = "the command", "all its processes", "a host's process"
WAYS = (ALONE, ALL, ONE_HOST)


@dataclass
class Tally:
    """What became of the kills of one way."""

    kills: int = 0
    amid_work: int = 0
    """How many met a host that was not as it was."""

    evidence: int = 0
    """How many runs were done when their fleet was killed, in all."""

    again: int = 0
    """How many resumes were killed, too."""

    lost: list[str] = field(default_factory=list)


class Fleet:
    """A plan, its hosts, and the folder of its results."""

    def __init__(self, folder: Path) -> None:
        self.hosts = {name: PaperHost.made(name, folder, JOB_SECONDS) for name in HOSTS}
        self.plan = folder / "plan.yaml"
        self.plan.write_text(PLAN)
        self.results = folder / "results"
        self.seen: dict[Path, str] = {}
        """The evidence that stood there at a kill, by its digest."""

    def start(self) -> Victim:
        """Start ``fleet run``, or ``fleet resume`` where a run has begun."""
        has_begun = (self.results / "fleet.json").exists()
        words = ["resume", str(self.results)]
        if not has_begun:
            words = ["run", str(self.plan), "-o", str(self.results)]
        return forked(lambda tell: tell(b"%d" % self._command(words, tell)))(self.results)

    def _command(self, words: Sequence[str], tell: Callable[[bytes], object]) -> int:
        def opening(_: Plan, lane: Lane, *more: object, **named: object) -> Opening:
            return self.hosts[lane.host.name].opened

        def write_reports(results: Results) -> list[FleetRun]:
            tell(REPORTING)
            return own_write_reports(results)

        own_write_reports = kvmtest.commands.fleet_run.write_reports
        kvmtest.commands.fleet_run.write_reports = write_reports
        kvmtest.commands.fleet_run.opening = opening
        # Like a shell, which gives a command a group of its own.
        os.setpgid(0, 0)
        with Path(os.devnull).open("w") as null, redirect_stdout(null), redirect_stderr(null):
            return kvmtest_main(["fleet", *words])

    def ended(self, victim: Victim) -> int | None:
        """Await a command's end; return its exit status, None where it was killed."""
        with os.fdopen(victim.phases, "rb") as phases:
            said = phases.read().removeprefix(REPORTING)
        os.waitpid(victim.pid, 0)
        return int(said) if said else None

    def is_at_work(self) -> bool:
        return any(host.state != OWN_STATE for host in self.hosts.values())

    def evidence(self) -> dict[Path, str]:
        return {
            path: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in self.results.rglob(EVIDENCE)
        }

    def look(self) -> Iterator[str]:
        """Give what was lost since the last look."""
        now = self.evidence()
        for path, digest in self.seen.items():
            if now.get(path) != digest:
                became = "another" if path in now else "lost"
                yield f"{path.relative_to(self.results)} was there, and is {became}"
        self.seen = now

    def problems(self) -> Iterator[str]:
        """Give what is wrong when the last resume has ended."""
        yield from self.look()
        wanted = {
            self.results / host / kernel / str(number) / EVIDENCE
            for host in HOSTS
            for kernel in KERNELS
            for number in range(1, REPEAT + 1)
        }
        for path in wanted ^ self.seen.keys():
            is_what = "missing" if path in wanted else "too much"
            yield f"{path.relative_to(self.results)} is {is_what}"
        for name, host in self.hosts.items():
            if host.state != OWN_STATE:
                yield f"{name} is not as it was: {host.state}"
            yield from self._wrong_jobs(host)

    def _wrong_jobs(self, host: PaperHost) -> Iterator[str]:
        kept = {start_of(load(path)) for path in self.seen if path.parts[-4] == host.name}
        jobs = Counter(str(entry["job"]) for entry in host.history if "job" in entry)
        for job, count in jobs.items():
            if count > 1:
                yield f"{host.name}: the job {job} was started {count} times"
        for start in kept - {f"{job} 1" for job in jobs}:
            yield f"{host.name}: {start} is kept, and was never started"
        at_work = ""
        for entry in host.history:
            if "job" in entry:
                task = str(entry["job"]).rpartition(".")[0]
                if task == at_work:
                    yield f"{host.name}: {task} was started again while it was at work"
                at_work = task
            else:
                at_work = ""


def kill(victim: Victim, way: str, chance: random.Random) -> None:
    """Kill the stopped victim, or one of its hosts' processes, as ``way`` says."""
    hosts = children(victim.pid)
    if way == ONE_HOST and hosts:
        os.kill(chance.choice(hosts), signal.SIGKILL)
        os.kill(victim.pid, signal.SIGCONT)
        return
    if way == ALL:
        kill_together(hosts)
    os.kill(victim.pid, signal.SIGKILL)


def length() -> float:
    """Return the seconds until all hosts of a fleet are put back that nobody kills."""
    with tempfile.TemporaryDirectory(prefix="kvmtest-fleet-") as folder:
        fleet = Fleet(Path(folder))
        began = time.perf_counter()
        victim = fleet.start()
        os.read(victim.phases, 1)
        seconds = time.perf_counter() - began
        status = fleet.ended(victim)
        problems = list(fleet.problems())
        if status or problems:
            raise RuntimeError(f"a fleet ends with {status} by itself: {problems}")
        return seconds


def round_of(way: str, tally: Tally, seconds: float, chance: random.Random) -> bool:
    """Kill one fleet as ``way`` says, and perhaps its resumes; False where it had ended before."""
    with tempfile.TemporaryDirectory(prefix="kvmtest-fleet-") as folder:
        fleet = Fleet(Path(folder))
        kills = 0
        problems: list[str] = []
        for _ in range(chance.choice((1, 1, 2, 3))):
            victim = fleet.start()
            if not stop(victim, chance.uniform(0, 1.2 * seconds)):
                os.close(victim.phases)
                break
            kills += 1
            tally.amid_work += kills == 1 and fleet.is_at_work()
            problems += fleet.look()
            tally.evidence += len(fleet.seen)
            kill(victim, way, chance)
            fleet.ended(victim)
            lock = fleet.results / LOCK
            if chance.random() < 0.5 and lock.exists():
                # Else the next command finds processes that put hosts back.
                await_free(lock)
        if not kills:
            return False
        tally.kills += 1
        tally.again += kills - 1
        status = fleet.ended(fleet.start())
        problems += fleet.problems()
        if status:
            problems.append(f"the last resume ends with {status}")
        tally.lost += [f"{way}, kill {tally.kills}: {problem}" for problem in problems]
        return True


def chaos(kills: int, seed: int, ways: Sequence[str] = WAYS) -> dict[str, Tally]:
    """Kill so many fleets, by turns in each way; return what became of them.

    Raises RuntimeError where nearly all ended before their kill, or end badly by themselves.
    """
    chance = random.Random(seed)
    # The first one imports much.
    seconds = min(length() for _ in range(2))
    tallies = {way: Tally() for way in ways}
    done = 0
    for _ in range(MOST_ATTEMPTS * kills):
        way = ways[done % len(ways)]
        was_killed = round_of(way, tallies[way], seconds, chance)
        done += was_killed
        # Other work on the machine changes how long a fleet takes: the kills follow it.
        seconds *= 1.01 if was_killed else 0.95
        if done == kills:
            return tallies
    raise RuntimeError(f"most fleets ended before their kill (seed {seed})")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fleet_chaos", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--kills", type=int, default=KILLS, help=f"default: {KILLS}")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "little"))
    options = parser.parse_args()
    # Else the victims, which are forks, copy what they collect.
    gc.collect()
    gc.freeze()
    print(f"fleet chaos: seed {options.seed}", flush=True)
    began = time.monotonic()
    try:
        tallies = chaos(options.kills, options.seed)
    except RuntimeError as error:
        print(f"fleet chaos: {error}")
        return 1
    print(f"{'killed':20}{'kills':>6}{'amid work':>10}{'again':>6}{'done before':>12}{'lost':>6}")
    for way, tally in tallies.items():
        print(
            f"{way:20}{tally.kills:6}{tally.amid_work:10}{tally.again:6}{tally.evidence:12}"
            f"{len(tally.lost):6}"
        )
    amid = sum(tally.amid_work for tally in tallies.values())
    lost = [line for tally in tallies.values() for line in tally.lost]
    print(
        f"{options.kills} fleets killed in {time.monotonic() - began:.0f} s, {amid} of them with a "
        f"host at work; {len(lost)} problems"
    )
    for line in lost:
        print(f"LOST (seed {options.seed}): {line}")
    if amid < LEAST * options.kills:
        print(f"only {amid} of {options.kills} kills met a host at work: that proves little")
    return 1 if lost or amid < LEAST * options.kills else 0


if __name__ == "__main__":
    sys.exit(main())
