"""Benchmark
=========

kvmtest against bare C (peer.c), on this machine and with the same guest: the native run loop, one
Python call per exit, and the way from KVM_CREATE_VM over a memory slot, KVM_CREATE_VCPU, sregs and
regs to the first exit. Prints each ratio beside its goal, and ends with 1 where one is missed.

The two take turns in short slices, C first and kvmtest first in turn, in one run and on one CPU.
What counts is the lowest time of each side: whatever else the machine does can only add to a slice,
and a slice is short enough to find the machine at rest now and then. The medians are printed beside
it. Whoever needs them steadier gives more rounds: bench/run.py [ROUNDS].
"""

import gc
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from kvmtest._native import lib
from kvmtest.guests import Guest, load, real_guest
from kvmtest.guests import mailbox as box
from kvmtest.kvm import IoExit, System

HERE = Path(__file__).resolve().parent
ROUNDS = 500
EXITS = 100
FOR_EVER = 0xFFFFFFFF


class Goal(NamedTuple):
    """What is compared, and how kvmtest must do: ``speed`` is C's time over ours, higher is better;
    ``cost`` ours over C's, lower is better."""

    name: str
    kind: str
    bound: float


GOALS = [
    Goal("native run loop, exits per second", "speed", 0.97),
    Goal("one Python run() per exit, exits per second", "speed", 0.80),
    Goal("KVM_CREATE_VM to first exit, time", "cost", 1.3),
]


class Peer:
    """The C side: asked for one slice at a time, answers in nanoseconds."""

    def __init__(self, program: Path, image: Path) -> None:
        guest = load("real")
        image.write_bytes(guest.data)
        self._process = subprocess.Popen(
            [str(program), str(image), str(guest.address), str(guest.symbols["start"])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, request: str) -> int:
        """Return the nanoseconds that a request took."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End the program."""
        self._process.communicate()


@contextmanager
def built_peer() -> Iterator[Peer]:
    """Compile the peer, and run it."""
    with tempfile.TemporaryDirectory() as folder:
        program, image = Path(folder, "peer"), Path(folder, "real.bin")
        includes = [f"-I{HERE.parent / name}" for name in ("c_helpers", "guests")]
        compiler = shlex.split(os.environ.get("CC", "cc"))
        source = str(HERE / "peer.c")
        subprocess.run(
            [*compiler, "-std=gnu11", "-O2", "-Wall", *includes, source, "-o", str(program)],
            check=True,
        )
        peer = Peer(program, image)
        try:
            yield peer
        finally:
            peer.close()


def time_run_loop(guest: Guest) -> int:
    """Answer doorbells in the native loop."""
    begin = time.monotonic_ns()
    loop = guest.vcpu.run_loop(lib.MAILBOX_DOORBELL_PORT, limit=EXITS)
    took = time.monotonic_ns() - begin
    assert loop.doorbells == EXITS
    return took


def time_runs(guest: Guest) -> int:
    """Answer doorbells one by one, looking at each exit."""
    run, port = guest.vcpu.run, lib.MAILBOX_DOORBELL_PORT
    begin = time.monotonic_ns()
    for _ in range(EXITS):
        exit_ = run()
        if not isinstance(exit_, IoExit) or exit_.port != port:
            raise AssertionError(exit_)
    return time.monotonic_ns() - begin


def time_create(system: System) -> int:
    """Create a VM with memory and a vCPU in real mode, and run the image to its first exit."""
    begin = time.monotonic_ns()
    vm = system.create_vm()
    image = load("real")
    vm.add_memory(lib.GUEST_MEMORY_SIZE).write(image.address, image.data)
    vcpu = vm.create_vcpu()
    sregs = vcpu.get_sregs()
    sregs.cs.base = sregs.cs.selector = 0  # the others are 0 since reset
    vcpu.set_sregs(sregs)
    regs = vcpu.get_regs()
    regs.rip, regs.rsp, regs.rflags = image.symbols["start"], lib.GUEST_STACK, 0x202
    vcpu.set_regs(regs)
    exit_ = vcpu.run()
    took = time.monotonic_ns() - begin
    assert isinstance(exit_, IoExit)
    assert exit_.port == lib.MAILBOX_DONE_PORT
    vm.close()
    return took


def compare(ours: Callable[[], int], theirs: Callable[[], int], rounds: int) -> list[list[int]]:
    """Return the times of both, taken in turn; the first tenth is for warming up."""
    times: list[list[int]] = [[], []]
    sides = [(times[0], ours), (times[1], theirs)]
    for number in range(rounds + rounds // 10):
        for kept, measure in sides if number & 1 else reversed(sides):
            took = measure()
            if number >= rounds // 10:
                kept.append(took)
    return times


def report(goal: Goal, ours: list[int], theirs: list[int]) -> bool:
    """Print a comparison, and tell whether it reaches its goal."""

    def ratio(summary: Callable[[list[int]], float]) -> float:
        value = summary(ours) / summary(theirs)
        return 1 / value if goal.kind == "speed" else value

    best = ratio(min)
    reached = best >= goal.bound if goal.kind == "speed" else best <= goal.bound
    sign = ">=" if goal.kind == "speed" else "<="
    print(
        f"{'ok    ' if reached else 'MISSED'} {goal.name}: kvmtest / C = {best:.3f} "
        f"(goal {sign} {goal.bound}; medians {ratio(statistics.median):.3f}; "
        f"best {min(ours) / 1000:.0f} and {min(theirs) / 1000:.0f} us a slice)"
    )
    return reached


def main(rounds: int) -> int:
    """Compare all, and return the exit status."""
    cpu = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpu})
    gc.disable()
    reached = []
    with System() as system, system.create_vm() as vm, built_peer() as peer:
        guest = real_guest(vm)
        guest.boot()
        box.write_commands(guest.mailbox, [box.exit_often(FOR_EVER)])
        exits = f"exits {EXITS}"
        sides: list[tuple[Callable[[], int], str]] = [
            (lambda: time_run_loop(guest), exits),
            (lambda: time_runs(guest), exits),
            (lambda: time_create(system), "create"),
        ]
        for goal, (ours, request) in zip(GOALS, sides, strict=True):
            times = compare(ours, partial(peer.ask, request), rounds)
            reached.append(report(goal, *times))
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS))
