"""What kills runs: a stand-in tree that a victim changes in every way that the journal knows.

The victim, in a process of its own, is stopped at a random moment, looked at, and killed by
SIGKILL. What a victim does is a parameter: see ``Start``.
"""

import fcntl
import json
import os
import random
import select
import signal
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kvmtest.host.changes.journal import RECORD, Journal, parse, restore
from kvmtest.host.changes.lock import LOCK
from kvmtest.host.tree import Tree

# About as long as a guardian takes to undo, so that kills meet it before, amid and after that.
UNDO_SECONDS = 0.01

STARTING = b"s"  # Not told: from the first moment.
CHANGING = b"c"
UNDOING = b"u"

KNOBS = ("/sys/devices/cpu/freeze_on_smi", "/sys/devices/cpu_core/freeze_on_smi")
TOGGLED = "/sys/devices/cpu_atom/freeze_on_smi"
PARAMETERS = "/sys/module/kvm_intel/parameters"
INTERRUPT = "/proc/irq/24/smp_affinity_list"
PROBES = "/sys/kernel/tracing/kprobe_events"
INSTANCES = "/sys/kernel/tracing/instances"
RELOADED = "/sys/module/kvm_amd"
EFIVARS = "/sys/firmware/efi/efivars"
VARIABLE = f"{EFIVARS}/Name-00000000-0000-4000-8000-000000000000"

FILES = {
    **dict.fromkeys((*KNOBS, TOGGLED), "1"),
    f"{PARAMETERS}/dump_invalid_vmcs": "N",
    f"{PARAMETERS}/unrestricted_guest": "Y",
    f"{PARAMETERS}/nested": "Y",
    f"{PARAMETERS}/preemption_timer": "Y",
    "/sys/module/kvm/parameters/enable_pmu": "Y",
    "/sys/module/kvm/parameters/halt_poll_ns": "200000",
    "/sys/devices/system/cpu/cpu1/online": "1",
    "/proc/sys/kernel/nmi_watchdog": "1",
    "/proc/sys/kernel/printk": "4\t4\t1\t7",
    INTERRUPT: "1",
    PROBES: "p:other/probe do_exit",
    f"{RELOADED}/initstate": "live",
    f"{RELOADED}/parameters/nested": "1",
    f"{RELOADED}/parameters/avic": "N",
    VARIABLE: "\7\0\0\0value",
}
# What is changed in another way than by a write.
_OTHERWISE = (TOGGLED, INTERRUPT, PROBES, VARIABLE, f"{RELOADED}/")

# modprobe MODULE PARAMETER=VALUE...: sets parameters of the stand-in tree, where it is started.
PROGRAMS = {
    "modprobe": """#!/bin/sh
module=sys/module/$1; shift
for setting; do echo "${setting#*=}" > "$module/parameters/${setting%%=*}"; done
echo live > "$module/initstate"
""",
    "rmmod": """#!/bin/sh
rm "sys/module/$1/initstate"
""",
}


@dataclass(frozen=True)
class Victim:
    """A run to kill: ``phases`` yields CHANGING, then UNDOING, then ends when the victim does."""

    pid: int
    phases: int


Start = Callable[[Path], Victim]
"""Starts a victim over the stand-in tree below a path."""


@dataclass(frozen=True)
class StandIn:
    """A stand-in tree that a victim changes."""

    tree: Tree

    def state(self) -> dict[str, object]:
        """Return what must be the same before and after, as the kernel would show it."""
        files = {name: self.tree.read(name) for name in FILES}
        instances = {path.name for path in self.tree.path(INSTANCES).iterdir()}
        variables = {path.name for path in self.tree.path(EFIVARS).iterdir()}
        probes = _probes(files.pop(PROBES) or "")
        return {
            **files,
            "probes": probes,
            "instances": instances,
            "variables": variables,
        }

    def entries(self) -> int:
        """Return how many changes the record holds."""
        return len(parse(self.tree.read_bytes(RECORD) or b"").entries)

    def guardian_of(self, run: int) -> int | None:
        """Return the guardian of the run with that pid, or None where it has none yet.

        The lock's file may be that of an earlier run, whose pids are others' by now.
        """
        text = self.tree.path(LOCK).read_text()
        # Behind the owner may stand what is about to be cut off.
        owner = json.JSONDecoder().raw_decode(text)[0] if text else {}
        return owner["guardian"] if owner.get("pid") == run else None

    def await_free(self) -> None:
        """Block until nobody holds the lock: no victim, guardian or command of theirs lives."""
        await_free(self.tree.path(LOCK))


def _probes(text: str) -> set[str]:
    """Return the probes that the lines appended to kprobe_events leave in the kernel."""
    probes: set[str] = set()
    for line in text.splitlines():
        name = line[2:].split()[0]
        if line.startswith("-:"):
            probes.discard(name)
        else:
            probes.add(name)
    return probes


def made(tree: Tree) -> StandIn:
    """Make a stand-in of ``tree``, beside what is in it already."""
    for name, text in FILES.items():
        path = tree.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    tree.path(INSTANCES).mkdir()
    for name, script in PROGRAMS.items():
        program = tree.path(f"/usr/sbin/{name}")
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(script)
        program.chmod(0o755)
    return StandIn(tree)


# The victim


def change_everything(stand_in: StandIn, tell: Callable[[bytes], object]) -> None:
    """Change the host in every way, and undo."""
    journal = Journal.open(stand_in.tree)
    tell(CHANGING)
    meddle(journal, stand_in)
    tell(UNDOING)
    failures = journal.close()
    assert failures == []


def meddle(journal: Journal, stand_in: StandIn) -> None:
    """Change the host in every way, and toggle a knob from a thread meanwhile."""
    journal.write(TOGGLED, "0")
    done = threading.Event()
    toggler = threading.Thread(target=_toggle, args=(stand_in.tree.path(TOGGLED), done))
    toggler.start()
    for knob in KNOBS:
        journal.write(knob, "0")
    journal.append(PROBES, "p:kvmtest/entry vmx_vcpu_run", undo="-:kvmtest/entry")
    journal.make_directory(f"{INSTANCES}/kvmtest")
    journal.keep_affinities([], [(INTERRUPT, "1")])
    stand_in.tree.path(INTERRUPT).write_text("0-1\n")
    for name, text in FILES.items():
        if name not in KNOBS and not name.startswith(_OTHERWISE):
            journal.write(name, f"not {text}")
    journal.reload_module("kvm_amd", {"nested": "1", "avic": "N"}, {"nested": "0"})
    journal.keep_variable(VARIABLE)
    stand_in.tree.path(VARIABLE).write_bytes(b"\7\0\0\0other")
    with journal.made(f"{EFIVARS}/kvmtest-00000000-0000-4000-8000-000000000001") as fd:
        os.write(fd, b"refused")
        for _ in range(3):
            with journal.scope():
                journal.append(PROBES, "p:kvmtest/scoped vmx_vcpu_run", undo="-:kvmtest/scoped")
                journal.make_directory(f"{INSTANCES}/scoped")
                journal.write(KNOBS[1], "1")
    for value in "101010":
        journal.write(KNOBS[0], value)
    journal.append(PROBES, "p:kvmtest/exit vmx_handle_exit", undo="-:kvmtest/exit")
    done.set()
    toggler.join()


def _toggle(path: Path, done: threading.Event) -> None:
    while not done.is_set():
        for value in "01":
            path.write_text(f"{value}\n")


def forked(work: Callable[[Callable[[bytes], object]], None]) -> Start:
    """Return a Start whose victims are forks of this warm process that do ``work``."""

    def start(_: Path) -> Victim:
        phases, tell = os.pipe()
        with warnings.catch_warnings():
            # Python 3.12 warns where another test has left a thread behind.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            status = 70
            try:
                os.close(phases)
                work(lambda phase: os.write(tell, phase))
                status = 0
            finally:
                os._exit(status)
        os.close(tell)
        return Victim(pid, phases)

    return start


# The kill


def await_free(lock: Path) -> None:
    """Block until no process holds the lock of this file."""
    fd = os.open(lock, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    finally:
        os.close(fd)


def children(pid: int) -> list[int]:
    """Return the processes that a process started; none where it has gone."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except FileNotFoundError:
        return []
    return [int(word) for word in text.split()]


def kill_together(pids: Sequence[int]) -> None:
    """Kill processes of which none sees the death of another."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            os.kill(pid, number)


@dataclass(frozen=True)
class Way:
    """Who is killed, from which phase on, and the least share of kills that must meet a change."""

    name: str
    phase: bytes
    guardian_too: bool = False
    least: float = 0.25


@dataclass(frozen=True)
class Outcome:
    """What a kill met: the names whose value differed at that moment, and entries recorded."""

    differed: frozenset[str]
    entries: int


def spans(start: Start, stand_in: StandIn) -> dict[bytes, float]:
    """Run a victim to its end; return the seconds from each phase to the next, or to the end."""
    began = {STARTING: time.perf_counter()}
    victim = start(stand_in.tree.root)
    while phase := os.read(victim.phases, 1):
        began[phase] = time.perf_counter()
    end = time.perf_counter()
    os.close(victim.phases)
    assert os.waitpid(victim.pid, 0)[1] == 0, "the victim fails even when nobody kills it"
    stand_in.await_free()
    return {
        phase: after - then
        for (phase, then), after in zip(began.items(), [*began.values(), end][1:], strict=True)
    }


def kill_at_random(
    start: Start, stand_in: StandIn, way: Way, span: float, rng: random.Random
) -> Outcome | None:
    """Kill a victim within ``span`` seconds of its phase; have its changes undone as ``way`` says.

    Returns None where the victim had ended before.
    """
    before = stand_in.state()
    victim = start(stand_in.tree.root)
    while way.phase != STARTING and os.read(victim.phases, 1) not in (way.phase, b""):
        pass
    if not stop(victim, rng.uniform(0, span)):
        os.close(victim.phases)
        stand_in.await_free()
        return None
    state = stand_in.state()
    outcome = Outcome(
        frozenset(name for name in state if state[name] != before[name]), stand_in.entries()
    )
    kill(victim, stand_in.guardian_of(victim.pid) if way.guardian_too else None, rng)
    os.close(victim.phases)
    stand_in.await_free()
    if way.guardian_too:
        restored = restore(stand_in.tree)
        assert restored.failed == []
    return outcome


def stop(victim: Victim, delay: float) -> bool:
    """Stop the victim after ``delay`` seconds, or tell that it has ended before."""
    pidfd = os.pidfd_open(victim.pid)
    select.select([pidfd], [], [], delay)
    os.close(pidfd)
    os.kill(victim.pid, signal.SIGSTOP)
    _, status = os.waitpid(victim.pid, os.WUNTRACED)  # One that has ended stays a zombie till now.
    if os.WIFSTOPPED(status):
        return True
    assert status == 0, "the victim failed by itself"
    return False


def kill(victim: Victim, guardian: int | None, rng: random.Random) -> None:
    """Kill the stopped victim, and the process ``guardian`` before it or amid its undoing."""
    pidfd = open_pidfd(guardian)
    if pidfd is None:
        os.kill(victim.pid, signal.SIGKILL)
    else:
        if rng.random() < 0.5:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [])
        os.kill(victim.pid, signal.SIGKILL)
        if not select.select([pidfd], [], [], rng.uniform(0, UNDO_SECONDS))[0]:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [])
        os.close(pidfd)
    os.waitpid(victim.pid, 0)


def open_pidfd(pid: int | None) -> int | None:
    """Return a descriptor of the process, or None where it has gone, as after a clean end."""
    try:
        return None if pid is None else os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def check_kills(
    start: Start, stand_in: StandIn, kills: int, seed: int, ways: Sequence[Way], attempts: int
) -> list[Outcome]:
    """Kill ``kills`` victims in all ways; each time the host must be as it was before.

    Victims are killed on, up to ``attempts`` of them, until each kind of change of the host met a
    kill, and in each way so many kills met one as its ``least`` says: on a busy machine they are
    where they are by chance.
    """
    rng = random.Random(seed)
    before = stand_in.state()
    seconds = spans(start, stand_in)
    assert stand_in.state() == before, "not even an undisturbed victim undoes its changes"
    outcomes: list[Outcome] = []
    met: Counter[str] = Counter()
    count: Counter[str] = Counter()

    def few() -> list[str]:
        # Else the kills came where there was nothing to undo.
        return [name for name in before if not met[name]] + [
            way.name for way in ways if met[way.name] < way.least * count[way.name]
        ]

    for attempt in range(attempts):
        way = ways[len(outcomes) % len(ways)]
        outcome = kill_at_random(start, stand_in, way, seconds[way.phase], rng)
        where = f"seed {seed}, attempt {attempt}, kill {len(outcomes)}: {way.name}"
        assert stand_in.state() == before, where
        assert not stand_in.tree.exists(RECORD), where
        # Other work on the machine changes how long a victim takes: the kills follow it.
        seconds[way.phase] *= 0.9 if outcome is None else 1.02
        if outcome is None:
            continue
        outcomes.append(outcome)
        met.update(outcome.differed)
        met[way.name] += bool(outcome.differed)
        count[way.name] += 1
        if len(outcomes) >= kills and not few():
            break
    assert len(outcomes) >= kills, f"most victims ended before their kill (seed {seed})"
    assert not few(), f"seed {seed}: few kills, or none, met a change: {', '.join(few())}"
    return outcomes
