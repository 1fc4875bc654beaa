"""Benchmark
=========

kvmtest's own cost, on this machine and with the same guest. Native loops are compared to bare C
(peer.c), calls from Python to bare Python over the same ioctls (bare.py). Goals are about kvmtest
alone: each is a ratio to the same work by the same means, or a call's own time. Prints each figure
beside its goal, and exits with 1 if one is missed.

Figures without a goal follow: Python's cost beyond C, which is the machine's. After each exit
the CPU refills the TLB and the caches that the switch to the guest and back has emptied, and an
interpreter touches some hundred pages for a call. The C side can touch as many pages, which shows
their share of the cost.

All sides of a comparison take turns in short slices, in one run and on one CPU, first and last in
turn. The lowest time of each counts: other load can only add to a slice, and a slice is short
enough to find the machine at rest now and then. The medians are printed beside it. More rounds make
them steadier: bench/run.py [ROUNDS].
"""

import gc
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import bare

from kvmtest._native import lib
from kvmtest.guests import Guest, commands, load, real_guest
from kvmtest.host.changes.toggler import Toggler
from kvmtest.kvm import IoExit, Stopped, System
from kvmtest.kvm.exits import decode
from kvmtest.workers import PATIENCE_S, Runner, Supervisor

HERE = Path(__file__).resolve().parent
ROUNDS = 300
EXITS = 100
CALLS = 1000
TOGGLES = 20_000
FOR_EVER = 0xFFFFFFFF
#: A file that takes "0" and "1" and is of this process alone: no host state is written.
OWN_FILE = Path("/proc/self/coredump_filter")
#: Pages that the C side touches after each exit, for the figures.
PAGES = (50, 100, 200)


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
            [
                *compiler,
                "-std=gnu11",
                "-O2",
                "-Wall",
                "-pthread",
                *includes,
                source,
                "-o",
                str(program),
            ],
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
    loop = guest.vcpu.run_loop(lib.GUEST_DOORBELL_PORT, limit=EXITS)
    took = time.monotonic_ns() - begin
    assert loop.doorbells == EXITS
    return took


def time_runs(guest: Guest) -> int:
    """Answer doorbells one by one, looking at each exit."""
    run, port = guest.vcpu.run, lib.GUEST_DOORBELL_PORT
    begin = time.monotonic_ns()
    for _ in range(EXITS):
        exit_ = run()
        if not isinstance(exit_, IoExit) or exit_.port != port:
            raise AssertionError(exit_)
    return time.monotonic_ns() - begin


def time_own(guest: Guest) -> int:
    """Call run() of a stopped vCPU, which enters no guest, and decode an I/O exit each time."""
    vcpu = guest.vcpu
    run, kvm_run, mapping = vcpu.run, vcpu.kvm_run, vcpu._buffer
    vcpu.stop()
    begin = time.monotonic_ns()
    for _ in range(CALLS):
        ended = run()
        exit_ = decode(kvm_run, mapping)
    took = time.monotonic_ns() - begin
    vcpu.clear_stop()
    assert isinstance(ended, Stopped)
    assert isinstance(exit_, IoExit)
    return took


def time_toggles(workers: Supervisor, thread: Runner) -> int:
    """Have a worker's thread toggle so often, and return the time until it is done."""
    with Toggler(OWN_FILE, limit=TOGGLES) as toggler:
        begin = time.monotonic_ns()
        workers.result(thread.ask(toggler.run), PATIENCE_S)
        return time.monotonic_ns() - begin


def time_create(system: System) -> int:
    """Create a VM with memory and a vCPU in real mode, and run the image to its first exit."""
    begin = time.monotonic_ns()
    vm = system.create_vm(pmu=True)  # to opt out of one is two ioctls more than others make
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
    assert exit_.port == lib.GUEST_DONE_PORT
    vm.close()
    return took


@dataclass(frozen=True)
class Times:
    """The slices of one side, in nanoseconds; each did the same ``count`` times."""

    slices: Sequence[int]
    count: int

    @property
    def best(self) -> float:
        """The nanoseconds that one takes, in the best slice."""
        return min(self.slices) / self.count

    @property
    def median(self) -> float:
        """The nanoseconds that one takes, in the median slice."""
        return statistics.median(self.slices) / self.count


@dataclass(frozen=True)
class Side:
    """What takes a slice of time, and how often it does what is compared in one slice."""

    measure: Callable[[], int]
    count: int


def take_turns(sides: Sequence[Side], rounds: int) -> list[Times]:
    """Return the times of all, taken in turn; the first tenth is for warming up."""
    kept: list[list[int]] = [[] for _ in sides]
    order = list(zip(kept, sides, strict=True))
    for number in range(rounds + rounds // 10):
        for times, side in order if number & 1 else reversed(order):
            took = side.measure()
            if number >= rounds // 10:
                times.append(took)
    return [Times(times, side.count) for times, side in zip(kept, sides, strict=True)]


def ratio(name: str, ours: Times, theirs: Times, whose: str, goal: float) -> bool:
    """Print how fast kvmtest is, as a share of another's speed; tell whether it reaches its goal.

    The goal's share is a least one: of C's or bare Python's speed, kvmtest has so much.
    """
    best, median = theirs.best / ours.best, theirs.median / ours.median
    reached = best >= goal
    print(
        f"{'ok    ' if reached else 'MISSED'} {name}: {best:.3f} of {whose}'s speed "
        f"(goal >= {goal}; medians {median:.3f}; {ours.best / 1e3:.2f} and "
        f"{theirs.best / 1e3:.2f} us)"
    )
    return reached


def own_time(name: str, ours: Times, goal_us: float) -> bool:
    """Print a call's own time; tell whether it reaches its goal."""
    reached = ours.best <= goal_us * 1e3
    print(
        f"{'ok    ' if reached else 'MISSED'} {name}: {ours.best / 1e3:.2f} us "
        f"(goal <= {goal_us} us; median {ours.median / 1e3:.2f})"
    )
    return reached


def beyond(name: str, times: Times, c: Times) -> None:
    """Print a figure of the machine: what something costs beyond C."""
    more = (times.best - c.best) / 1e3
    print(f"       {name}: {more:+.2f} us, {c.best / times.best:.3f} of C's speed")


def main(rounds: int) -> int:
    """Compare all, and return the exit status."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    gc.disable()
    with System() as system, system.create_vm() as vm, built_peer() as peer:
        guest = real_guest(vm)
        guest.boot()
        guest.transport.send([commands.ring(FOR_EVER)])
        vcpu = guest.vcpu

        def in_c(request: str, count: int) -> Side:
            return Side(lambda: peer.ask(request), count)

        c, loop, runs, bare_runs, own, *touching = take_turns(
            [
                in_c(f"exits {EXITS} 0", EXITS),
                Side(lambda: time_run_loop(guest), EXITS),
                Side(lambda: time_runs(guest), EXITS),
                Side(lambda: bare.time_exits(vcpu.fd, vcpu.kvm_run, EXITS), EXITS),
                Side(lambda: time_own(guest), CALLS),
                *(in_c(f"exits {EXITS} {pages}", EXITS) for pages in PAGES),
            ],
            rounds,
        )
        create, bare_create, c_create = take_turns(
            [
                Side(lambda: time_create(system), 1),
                Side(lambda: bare.time_create(system.fd, system.vcpu_mmap_size), 1),
                in_c("create", 1),
            ],
            rounds,
        )
        with Supervisor() as workers:
            thread = Runner("toggling", lambda: None)
            workers.start(thread)
            toggles, c_toggles = take_turns(
                [
                    Side(lambda: time_toggles(workers, thread), TOGGLES),
                    in_c(f"toggles {TOGGLES} {OWN_FILE}", TOGGLES),
                ],
                rounds,
            )
    reached = [
        ratio("an exit in the native run loop", loop, c, "C", 0.97),
        ratio("a toggle by a worker", toggles, c_toggles, "C", 0.98),
        ratio("run() to an exit", runs, bare_runs, "bare Python", 0.85),
        ratio("KVM_CREATE_VM to the first exit", create, bare_create, "bare Python", 0.85),
        own_time("run() without its KVM_RUN", own, 1.0),
    ]
    print("The machine's, without a goal: beyond C,")
    beyond("run() to an exit", runs, c)
    beyond("bare Python to an exit", bare_runs, c)
    for pages, times in zip(PAGES, touching, strict=True):
        beyond(f"C that touches {pages} pages after each exit", times, c)
    beyond("KVM_CREATE_VM to the first exit", create, c_create)
    beyond("bare Python, KVM_CREATE_VM to the first exit", bare_create, c_create)
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS))
