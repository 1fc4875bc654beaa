"""The player of schedules
=======================

Plays a schedule on two vCPUs in processes of their own, and has the CPU refuse the next entry of
each that acted, so that KVM dumps its VMCS.
"""

import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NamedTuple, Self

from kvmtest.checks.witnesses.refused_entry import INVALID_GUEST_STATE, non_canonical
from kvmtest.errors import KvmtestError
from kvmtest.interleave.schedule import RUNS, VCPUS, Does, Schedule, Step, text, vcpus_of
from kvmtest.interleave.tracer import Tracer
from kvmtest.interleave.vcpu_process import VcpuProcess

from .ordered_vcpu import EMULATE, NEW, REFUSE, RUN, STAY, OrderedVcpu, count_at

__all__ = ["Look", "Player"]

_ORDERS = {Does.RUN: RUN, Does.KICK: RUN, Does.STAY: STAY, Does.EMULATE: EMULATE}
_ENDS = {Does.RUN: b"halted", Does.EMULATE: b"halted", Does.KICK: b"signal", Does.STAY: b"signal"}
#: The last step of a vCPU, which is not a schedule's.
_LOOK_ENDS = f"refused {INVALID_GUEST_STATE:#x}".encode()
_EINTR = -4
#: Upper bound on the guest's next turn, in an emulated machine too.
PATIENCE_S = 20.0


class Look(NamedTuple):
    """A vCPU's refused entry after a schedule; its dump has this FS base, and names ``cpu``."""

    vcpu: int
    fs_base: int
    cpu: int


class Player:
    """A context manager with two vCPUs' processes; all calls are by the thread that made it.

    ``toggle`` writes the knob's value, ``smi`` raises an SMI, and ``unplug`` takes a CPU offline
    and brings it online again. New vCPUs begin on ``cpus[0]``, and a move is to the other CPU. The
    caller's thread must be on the last of ``cpus``.
    """

    def __init__(
        self,
        cpus: tuple[int, ...],
        toggle: Callable[[int], None],
        smi: Callable[[], None],
        unplug: Callable[[int], None],
    ) -> None:
        self._cpus = cpus
        self._toggle = toggle
        self._smi = smi
        self._unplug = unplug
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._tracer = stack.enter_context(Tracer())
            self._vcpus = [
                stack.enter_context(
                    VcpuProcess(self._tracer, f"the process of vCPU {v}", OrderedVcpu().serve)
                )
                for v in VCPUS
            ]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    @property
    def pids(self) -> tuple[int, ...]:
        """The process of each vCPU."""
        return tuple(process.pid for process in self._vcpus)

    @property
    def first_cpu(self) -> int:
        """The CPU on which new vCPUs begin."""
        return self._cpus[0]

    def play(self, schedule: Schedule, knob: int = 1) -> list[Look]:
        """Play a schedule on new vCPUs, from that value of the knob on, and look at each vCPU."""
        return [each for each in self.steps(schedule, knob) if isinstance(each, Look)]

    def steps(self, schedule: Schedule, knob: int = 1) -> Iterator[Step | Look]:
        """As ``play``, but yield each step when it is over, and at the end each look."""
        try:
            yield from _Play(self, schedule, knob).run()
        except KvmtestError as error:
            raise KvmtestError(f"schedule {text(schedule)!r}: {error}") from error


class _Play:
    """One schedule as it is played."""

    def __init__(self, player: Player, schedule: Schedule, knob: int) -> None:
        self._player = player
        self._tracer = player._tracer
        self._schedule = schedule
        self._knob = knob
        self._addresses: dict[int, int] = {}
        self._cpu = dict.fromkeys(VCPUS, player._cpus[0])
        self._inside: int | None = None
        #: The vCPU that waits at the entry of its next KVM_RUN, and the end that it must come to.
        self._waits: tuple[int, bytes] | None = None
        self._ends: dict[int, bytes] = {}
        self._looks = [Look(vcpu, non_canonical(), self._cpu[vcpu]) for vcpu in vcpus_of(schedule)]

    def run(self) -> Iterator[Step | Look]:
        self._player._toggle(self._knob)
        for vcpu in vcpus_of(self._schedule):
            process = self._player._vcpus[vcpu]
            process.move(self._cpu[vcpu])
            (self._addresses[vcpu],) = struct.unpack("<Q", process.ask(NEW))
        for at, step in enumerate(self._schedule):
            self._step(step, self._schedule[at + 1 :])
            yield step
        if self._inside is not None:
            self._leave(self._inside)
        looks = [look._replace(cpu=self._cpu[look.vcpu]) for look in self._looks]
        for look in looks:
            self._approach(look.vcpu, _refusal(look), _LOOK_ENDS)
            self._go_through(look.vcpu)
        for look in looks:
            self._finish(look.vcpu)
        yield from looks

    def _step(self, step: Step, rest: Schedule) -> None:
        does, vcpu = step
        if does is Does.TOGGLE:
            self._approach_early(rest)
            self._knob ^= 1
            self._player._toggle(self._knob)
        elif does is Does.SMI:
            self._player._smi()
        elif does is Does.UNPLUG:
            self._player._unplug(self._player.first_cpu)
            # The kernel gave the tasks that were bound to the CPU all others.
            for each, process in enumerate(self._player._vcpus):
                process.move(self._cpu[each])
        elif vcpu is not None:
            self._act(does, vcpu)
        if self._inside is not None:
            # The step is over when the vCPU has surely been in the guest since.
            self._await_turn(self._inside)

    def _act(self, does: Does, vcpu: int) -> None:
        process = self._player._vcpus[vcpu]
        if does is Does.MOVE:
            here = self._player._cpus.index(self._cpu[vcpu])
            self._cpu[vcpu] = self._player._cpus[1 - here]
            process.move(self._cpu[vcpu])
        elif does is Does.LEAVE:
            self._leave(vcpu)
        else:
            self._approach(vcpu, _ORDERS[does], _ENDS[does])
            if does is Does.STAY:
                self._waits = None
                process.enter()
                self._inside = vcpu
                return
            if does is Does.KICK:
                process.kick()
            self._go_through(vcpu)

    def _approach_early(self, rest: Schedule) -> None:
        """Have the vCPU that runs next wait at its entry already: so a toggle comes after that."""
        if self._inside is not None or (rest and rest[0].vcpu is None):
            return
        if not rest:
            look = self._looks[0]
            self._approach(look.vcpu, _refusal(look), _LOOK_ENDS)
            return
        does, vcpu = rest[0]
        if vcpu is not None and does in RUNS:
            self._approach(vcpu, _ORDERS[does], _ENDS[does])

    def _approach(self, vcpu: int, order: bytes, end: bytes) -> None:
        """Bring a vCPU to the entry of the KVM_RUN that ``order`` makes."""
        if self._waits is None:
            self._finish(vcpu)
            self._player._vcpus[vcpu].order(order)
            self._player._vcpus[vcpu].reach_entry()
            self._waits = vcpu, end

    def _go_through(self, vcpu: int) -> None:
        """Have a vCPU go from the entry of its KVM_RUN to the exit, and wait there."""
        assert self._waits is not None
        assert self._waits[0] == vcpu
        _, self._ends[vcpu] = self._waits
        self._waits = None
        self._player._vcpus[vcpu].enter()
        self._player._vcpus[vcpu].reach_exit()

    def _leave(self, vcpu: int) -> None:
        process = self._player._vcpus[vcpu]
        process.kick()
        if process.reach_exit() != _EINTR:
            raise KvmtestError(f"vCPU {vcpu} left the guest before the signal came; try again")
        self._ends[vcpu] = _ENDS[Does.STAY]
        self._inside = None

    def _finish(self, vcpu: int) -> None:
        """Let a vCPU go on from the exit of its last KVM_RUN; hold its end to the expected one."""
        process = self._player._vcpus[vcpu]
        process.finish()
        expected = self._ends.pop(vcpu, None)
        if expected is not None and process.answer != expected:
            came, wanted = process.answer.decode(), expected.decode()
            raise KvmtestError(
                f"a KVM_RUN of vCPU {vcpu} ended with {came}, not {wanted}; look at the kernel log"
            )

    def _await_turn(self, vcpu: int) -> None:
        """Wait until the guest has counted on."""
        first, deadline = self._count(vcpu), time.monotonic() + PATIENCE_S
        while self._count(vcpu) == first:
            if time.monotonic() > deadline:
                raise KvmtestError(f"vCPU {vcpu} does not run on in the guest; try again")
            os.sched_yield()

    def _count(self, vcpu: int) -> int:
        pid = self._player._vcpus[vcpu].pid
        return count_at(self._tracer.read(pid, self._addresses[vcpu], 8))


def _refusal(look: Look) -> bytes:
    return REFUSE + struct.pack("<Q", look.fs_base)
