"""Foreign VMMs
============

The vCPU threads of a running VMM under ptrace(2): found, counted, paused outside of the guest and
let go on. The VMM sees none of it: KVM_RUN, which a pause interrupts, is made again.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress

from kvmtest.errors import KvmtestError
from kvmtest.host.facts.vmm import Vmm, runs
from kvmtest.host.tree import Tree

from .tracer import (
    Exited,
    Exiting,
    Gone,
    GroupStop,
    Interrupted,
    Killed,
    Stop,
    SyscallEntry,
    SyscallExit,
    Tracer,
)

__all__ = ["TracedVcpus", "VmmEnded"]

#: Upper bound on a pause: a thread leaves KVM_RUN at once unless the kernel holds it.
PATIENCE_S = 10.0
#: Interval at which a VMM's new threads are looked for.
TURN_S = 0.05


class VmmEnded(KvmtestError):
    """The VMM, or one of its vCPU threads, ended while it was watched."""


class TracedVcpus:
    """The vCPU threads of ``vmm``, by their vCPUs' descriptors, traced by this thread.

    ``serve`` must be called at short intervals: a signal to a vCPU thread stops it until then.
    """

    def __init__(self, tracer: Tracer, vmm: Vmm) -> None:
        self.vmm = vmm
        self.threads: dict[int, int] = {}
        self._tracer = tracer
        self._runs: dict[int, int] = {}
        self._counts = False

    def seize(self, known: Mapping[int, int], seconds: float) -> None:
        """Trace the threads that run vCPUs: the ``known`` ones, and those that make KVM_RUN now.

        Looks for the latter up to ``seconds``, and lets all other threads go.
        """
        self.threads = dict(known)
        for tid in known.values():
            self._seize(tid)
        until = time.monotonic() + seconds
        while self.vmm.vcpus.keys() - self.threads.keys() and time.monotonic() < until:
            # A VMM may make further threads meanwhile.
            for tid in set(self.vmm.tids(Tree())) - self._tracer.tracees:
                self._seize(tid, interrupts=True)
            if not self._tracer.tracees:
                break
            self._look_on(min(until, time.monotonic() + TURN_S))
        if not self._tracer.tracees:
            raise VmmEnded(f"process {self.vmm.pid} ({self.vmm.name}) has ended")
        for tid in self._tracer.tracees - set(self.threads.values()):
            self._tracer.detach(tid)

    def _seize(self, tid: int, *, interrupts: bool = False) -> None:
        with suppress(Gone):
            self._tracer.seize(tid)
            if interrupts:
                self._tracer.interrupt(tid)

    def _look_on(self, until: float) -> None:
        """Note the threads that make KVM_RUN, until then or until all are known."""
        while self.vmm.vcpus.keys() - self.threads.keys() and time.monotonic() < until:
            if not self._tracer.tracees:
                return
            stop = self._tracer.wait(max(0.0, until - time.monotonic()))
            if stop is not None:
                self._note(stop)
                self._go_on(stop, syscalls=stop.tid not in self.threads.values())

    def _note(self, stop: Stop) -> None:
        """Remember a thread that is in KVM_RUN, or about to be."""
        fd = None
        if isinstance(stop, SyscallEntry):
            fd = runs((stop.number, *stop.arguments))
        elif isinstance(stop, Interrupted):
            registers = self._tracer.registers(stop.tid)
            fd = runs(tuple(registers[name] for name in ("orig_rax", "rdi", "rsi")))
        if fd in self.vmm.vcpus and fd is not None:
            self.threads[fd] = stop.tid

    @contextmanager
    def counting(self) -> Iterator[dict[int, int]]:
        """Count the KVM_RUNs that return while the block serves; the counts are there at its end.

        They are by vCPU descriptor. Each system call of a vCPU thread is stopped twice for that,
        which slows the guest down.
        """
        counts: dict[int, int] = {}
        self._runs = dict.fromkeys(self.threads.values(), 0)
        with self.paused():
            self._counts = True
        try:
            yield counts
            with self.paused():
                self._counts = False
        finally:
            self._counts = False
        counts |= {fd: self._runs[tid] for fd, tid in self.threads.items()}

    def serve(self, seconds: float) -> None:
        """Let the VMM run for so long, and pass on what stops its vCPU threads."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            stop = self._tracer.wait(left)
            if stop is not None:
                self._go_on(stop, syscalls=self._counts)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep all vCPU threads outside of the guest while the block runs.

        Raises VmmEnded, and KvmtestError where a thread does not come to a stop.
        """
        stops = self._pause(self.threads.values())
        try:
            yield
        finally:
            for stop in stops.values():
                self._go_on(stop, syscalls=self._counts)

    def _pause(self, tids: Iterable[int]) -> dict[int, Stop]:
        awaited = set(tids)
        for tid in awaited:
            try:
                self._tracer.interrupt(tid)
            except Gone:
                raise self._ended() from None
        stops: dict[int, Stop] = {}
        until = time.monotonic() + PATIENCE_S
        while awaited - stops.keys():
            stop = self._tracer.wait(max(0.0, until - time.monotonic()))
            if stop is None:
                late = ", ".join(map(str, sorted(awaited - stops.keys())))
                for other in stops.values():
                    self._go_on(other, syscalls=False)
                raise KvmtestError(
                    f"thread {late} of process {self.vmm.pid} does not come to a stop; see "
                    "/proc/TID/stack"
                )
            if isinstance(stop, Interrupted | SyscallExit | GroupStop):
                stops[stop.tid] = stop
            else:
                # From an entry on, the interrupted call returns at once: to its exit.
                self._go_on(stop, syscalls=isinstance(stop, SyscallEntry))
        return stops

    def _go_on(self, stop: Stop, *, syscalls: bool) -> None:
        if isinstance(stop, Exiting | Exited | Killed) and stop.tid in self.threads.values():
            self._tracer.resume(stop, syscalls=False)
            raise self._ended()
        if isinstance(stop, Interrupted | SyscallExit):
            if isinstance(stop, SyscallExit) and stop.entry and stop.tid in self._runs:
                is_run = runs((stop.entry.number, *stop.entry.arguments)) is not None
                self._runs[stop.tid] += is_run
            self._tracer.restart_interrupted(stop)
        self._tracer.resume(stop, syscalls=syscalls)

    def _ended(self) -> VmmEnded:
        return VmmEnded(f"process {self.vmm.pid} ({self.vmm.name}) ended while it was watched")
