"""A run that is interrupted at any moment puts the host back, keeps its evidence and says so."""

import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.stand_in import KNOB, await_free, environment, intel_host, snapshot

from kvmtest.evidence import Evidence, load
from kvmtest.host.changes.journal import RECORD
from kvmtest.host.tree import Tree

SEED = 20250730
INTERRUPTIONS = {signal.SIGINT: 40, signal.SIGTERM: 8}

# So many that toggling the knob, and reading MSRs on all of them, takes a while.
CPUS = 1024

# The command as its entry point starts it, but that it says when it begins (what Python itself does
# before that with a signal is not ours), when it decides its property, and when it has first turned
# the knob on.
COMMAND = f"""
import sys, kvmtest.cli
from kvmtest.host.changes.journal import Journal
write, scope, told = Journal.write, Journal.scope, []
def telling_scope(journal):
    print("begun", flush=True)
    return scope(journal)
def telling_write(journal, name, value):
    write(journal, name, value)
    if (name, value, told) == ({KNOB!r}, "1", []):
        told.append(print("changed", flush=True))
Journal.write, Journal.scope = telling_write, telling_scope
print("ready", flush=True)
sys.exit(kvmtest.cli.main())
"""


@dataclass(frozen=True)
class Interrupted:
    """How a run ended that got a signal."""

    status: int
    out: str
    err: str
    evidence: Evidence | None
    files: frozenset[str]


@dataclass(frozen=True)
class Host:
    """A stand-in tree, and where its runs write to."""

    tree: Tree
    outputs: Path

    def start(self, name: str) -> "subprocess.Popen[bytes]":
        """Start a run; return when its command begins."""
        words = ["run", "--root", str(self.tree.root), "--only", "host.knob-effective"]
        words += ["-o", str(self.outputs / name)]
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,  # Else a line that is awaited would take along what follows it.
            env=environment(),
        )
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        return process

    def seconds(self) -> float:
        """Return how long an undisturbed run takes."""
        process = self.start("undisturbed")
        begin = time.perf_counter()
        _, err = process.communicate()
        assert (process.returncode, err) == (4, b"")
        return time.perf_counter() - begin

    def await_line(self, process: "subprocess.Popen[bytes]", line: str) -> None:
        """Wait until the run says that it has come so far: "begun", or "changed"."""
        assert process.stdout
        for said in iter(process.stdout.readline, b""):
            if said == f"{line}\n".encode():
                return
        raise AssertionError(f"it ended and was not {line}")

    def interrupt(
        self, name: str, number: signal.Signals, delay: float, after: str = ""
    ) -> Interrupted:
        """Send a run a signal ``delay`` seconds after its start, or after what it said.

        Return when it has ended.
        """
        process = self.start(name)
        if after:
            self.await_line(process, after)
        try:
            out, err = process.communicate(timeout=delay)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            out, err = process.communicate(timeout=30)
        await_free(self.tree)
        folder = self.outputs / name
        files = frozenset(p.name for p in folder.iterdir()) if folder.exists() else frozenset()
        evidence = load(folder) if "evidence.json" in files else None
        return Interrupted(process.returncode, out.decode(), err.decode(), evidence, files)


@pytest.fixture
def hosts(tmp_path: Path) -> list[Host]:
    """Two machines, to be interrupted at the same time."""
    trees = [intel_host(tmp_path / f"host{n}", cpus=CPUS, knob=0) for n in range(2)]
    return [Host(tree, tmp_path / f"outputs{n}") for n, tree in enumerate(trees)]


def check(ended: Interrupted, number: signal.Signals) -> str:
    """Check all that must hold of an interrupted run; return in which phase it was."""
    assert "Traceback" not in ended.err, ended.err
    assert "Exception ignored" not in ended.err, ended.err
    if ended.evidence is None:
        assert ended.files == frozenset()
        # In the first milliseconds SIGTERM kills as it does any program.
        assert ended.status in (128 + number, -signal.SIGTERM)
        # Before anything was begun, or while it was.
        begun = f"INTERRUPTED: {number.name} stopped the run on " in ended.out
        said = "" if begun or ended.status < 0 else "kvmtest: interrupted\n"
        assert (bool(ended.out), ended.err) == (begun, said)
        return "early"
    assert ended.evidence.exit_status == ended.status
    assert ended.files == {"evidence.json", "junit.xml", "ktap.txt", "kernel.log"}
    assert ended.err == ""
    if not ended.evidence.kvmtest.interrupted:
        assert ended.status == 4
        return "ended"
    assert ended.status == 128 + number
    said = " ".join(ended.out.split())
    assert f"INTERRUPTED: {number.name} stopped the run on " in said
    assert "the host is as it was" in said.replace(f" exit {ended.status}", "", 1)
    changes = ended.evidence.journal.changes
    assert all(change.undone for change in changes)
    return "changed" if changes else "begun"


@pytest.mark.parametrize("number", INTERRUPTIONS, ids=lambda s: s.name)
def test_a_run_interrupted_at_any_moment_restores_the_host(
    hosts: list[Host], number: signal.Signals
) -> None:
    rng = random.Random(SEED)
    before = [snapshot(host.tree) for host in hosts]
    count = INTERRUPTIONS[number]
    # A moment in each of so many equal parts of the run, or soon after its begin or its change; the
    # last is beyond its end, also on a machine that is slower now than when its length was taken.
    kinds = ["", "begun", "", "changed"]
    moments = [((at + rng.random()) / count, kinds[at % 4]) for at in range(count - 1)]
    moments.append((3.0, ""))
    share = {"": 1, "begun": 0, "changed": 0.02}

    def interrupt_all(host: Host, mine: list[tuple[float, str]]) -> list[Interrupted]:
        span = host.seconds()
        return [
            host.interrupt(str(at), number, moment * share[after] * span, after)
            for at, (moment, after) in enumerate(mine)
        ]

    with ThreadPoolExecutor(len(hosts)) as pool:
        halves = pool.map(interrupt_all, hosts, [moments[: count // 2], moments[count // 2 :]])
        ended = [each for half in halves for each in half]
    phases = [check(each, number) for each in ended]
    assert [snapshot(host.tree) for host in hosts] == before
    assert not any(host.tree.exists(RECORD) for host in hosts)
    assert len(phases) == count
    # Else the signals came where there was nothing to show.
    assert {"early", "begun", "changed", "ended"} <= set(phases), phases


def test_a_second_interruption_waits_for_the_end(hosts: list[Host]) -> None:
    host = hosts[0]
    before = snapshot(host.tree)
    process = host.start("twice")
    host.await_line(process, "changed")
    for _ in range(50):
        process.send_signal(signal.SIGINT)
        time.sleep(0)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, b"")
    await_free(host.tree)
    assert snapshot(host.tree) == before
    evidence = load(host.outputs / "twice")
    assert evidence.kvmtest.interrupted
    assert [r.id for r in evidence.results] == ["host.knob-effective"]
