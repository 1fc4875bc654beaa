"""Guests
======

A guest is an image on a vCPU that takes commands through a transport.
"""

import time
from typing import NamedTuple

from kvmtest._native import lib
from kvmtest.errors import KvmtestError
from kvmtest.kvm import Deadline, Exit, IoExit, Loop, Memory, Vcpu, Vm

from .commands import Command, GuestFault, Result, TscGap, gap, ring
from .image import Image, load
from .mailbox import Mailbox
from .modes import enter_long_mode, enter_real_mode
from .registers import Registers
from .transport import Transport

__all__ = [
    "Guest",
    "Rings",
    "UnexpectedExit",
    "guest_memory",
    "long_guest",
    "private_guest",
    "real_guest",
]

#: Where KVM has its own TSS, far above the guest's memory: the address that most VMMs use.
TSS_ADDRESS = 0xFFFBD000


class UnexpectedExit(KvmtestError):
    """The guest exited for a reason that its transport does not know; ``exit`` is the exit."""

    def __init__(self, guest: str, exit: Exit | None) -> None:  # noqa: A002 - the field's word
        self.exit = exit
        super().__init__(f"the {guest} guest came back with {exit}; look at the kernel log")


class Rings(NamedTuple):
    """How many doorbells were answered; TSC (entry, exit) of the last KVM_RUNs, oldest first."""

    doorbells: int
    stamps: list[tuple[int, int]]


class Guest:
    """One guest on one vCPU, its image loaded and the vCPU set to start it.

    ``memory`` is what the image was loaded into, None where the host does not see it.

    The only call that runs a guest is ``vcpu.run_loop(doorbell_port, stamps=, timeout=)``. A
    stand-in for a vCPU executes the commands that it finds in the mailbox, or in a transport of its
    own, and returns an object with ``doorbells``, ``stamps`` and ``exit``, the last an IoExit of
    GUEST_DONE_PORT.
    """

    def __init__(
        self, vcpu: Vcpu, image: Image, transport: Transport, memory: Memory | None = None
    ) -> None:
        self.vcpu = vcpu
        self.image = image
        self.transport = transport
        self._memory = memory

    @property
    def memory(self) -> Memory:
        """The guest's memory; raises KvmtestError where the host does not see it."""
        if self._memory is None:
            raise KvmtestError(f"the memory of the {self.image.name} guest is private")
        return self._memory

    def boot(self, timeout: float = 1.0) -> None:
        """Run until the guest has come up; raises :class:`UnexpectedExit` or GuestFault."""
        self.transport.expect_guest()
        self._until_done(timeout)
        if not self.transport.is_up:
            raise KvmtestError(
                f"the {self.image.name} guest did not say hello; build it again (make)"
            )

    def execute(self, *commands: Command, timeout: float = 1.0) -> list[Result]:
        """Have the guest execute commands, and return a result for each.

        A command that faults has its fault in its result. Raises :class:`UnexpectedExit` for any
        other exit (:class:`~kvmtest.kvm.Deadline` after ``timeout`` seconds, say), and GuestFault
        for a fault outside commands.
        """
        self.transport.send(commands)
        self._until_done(timeout)
        results = self.transport.receive()
        if len(results) != len(commands):
            raise KvmtestError(f"the guest did {len(results)} of {len(commands)} commands")
        return results

    def execute_timed(
        self, command: Command, timeout: float = 1.0
    ) -> tuple[Result, tuple[int, int]]:
        """Have the guest execute a command, and return its result and the TSC around it.

        The TSC is that around the command's own KVM_RUN: before it and after it, the guest may exit
        to read the command and to give the result. Raises as :meth:`execute`.
        """
        self.transport.send([command])
        while not self.transport.has_begun(0):
            exit_ = self.vcpu.run_loop(lib.GUEST_DOORBELL_PORT, timeout=timeout).exit
            if not self.transport.serve(self.vcpu, exit_):
                raise UnexpectedExit(self.image.name, exit_)
        loops = self._until_done(timeout, stamps=1)
        (result,) = self.transport.receive()
        return result, loops[0].stamps[-1]

    def resume(self, timeout: float = 1.0) -> None:
        """Run until the guest waits for commands; raises :class:`UnexpectedExit` or GuestFault."""
        self._until_done(timeout)

    def ring(self, count: int, *, stamps: int = 0, timeout: float = 1.0) -> Rings:
        """Have the guest exit ``count`` times in the native loop; keep the last ``stamps``."""
        self.transport.send([ring(count)])
        loops = self._until_done(timeout, stamps)
        stamped = [stamp for loop in loops for stamp in loop.stamps]
        last = stamped[-stamps:] if stamps else []
        return Rings(sum(loop.doorbells for loop in loops), last)

    def gaps(self, count: int) -> list[TscGap]:
        """Return the first ``count`` gaps that the last ``watch`` logged.

        The guest runs only where its memory is private.
        """
        logged = range(min(count, lib.GUEST_GAP_CAPACITY))
        if self._memory is None:
            return [TscGap(*self.execute(gap(at))[0].values[:2]) for at in logged]
        log = self._memory.struct("struct guest_gap *", lib.GUEST_GAP_LOG)
        return [TscGap(log[at].begin, log[at].end) for at in logged]

    def run(self, timeout: float = 1.0) -> Exit | None:
        """Run until an exit that neither the transport nor the native loop serves; return it."""
        return self._run(timeout, 0)[-1].exit

    def _until_done(self, timeout: float, stamps: int = 0) -> list[Loop]:
        loops = self._run(timeout, stamps)
        exit_ = loops[-1].exit
        if not isinstance(exit_, IoExit) or not exit_.is_out:
            raise UnexpectedExit(self.image.name, exit_)
        if exit_.port == lib.GUEST_FAULT_PORT:
            raise GuestFault(self.transport.fault)
        if exit_.port != lib.GUEST_DONE_PORT:
            raise UnexpectedExit(self.image.name, exit_)
        return loops

    def _run(self, timeout: float, stamps: int) -> list[Loop]:
        """Run until an exit that is not the transport's own; return the loops up to each exit."""
        deadline, left = time.monotonic() + timeout, timeout
        loops = []
        while True:
            loop = self.vcpu.run_loop(lib.GUEST_DOORBELL_PORT, stamps=stamps, timeout=left)
            loops.append(loop)
            if not self.transport.serve(self.vcpu, loop.exit):
                break
            left = max(0.0, deadline - time.monotonic())
        if isinstance(loop.exit, Deadline):
            loop.exit = Deadline(timeout)  # not what was left of it
        return loops


def long_guest(vm: Vm, vcpu: Vcpu, memory: Memory | None = None) -> Guest:
    """Return a 64-bit guest with a mailbox, ready to boot; a VM without memory is given some.

    The vCPU has its CPUID: where that lacks long mode, KVM_SET_SREGS may refuse it (EINVAL).
    """
    memory, image = memory or guest_memory(vm), load("long")
    enter_long_mode(vcpu, memory, image)
    return Guest(vcpu, image, Mailbox(memory), memory)


def private_guest(vm: Vm, vcpu: Vcpu, memory: Memory | None = None) -> Guest:
    """Return a guest as :func:`long_guest` does, but with registers; its memory is private."""
    memory, image = memory or guest_memory(vm), load("long_registers")
    enter_long_mode(vcpu, memory, image)
    return Guest(vcpu, image, Registers())


def real_guest(vm: Vm, vcpu: Vcpu | None = None, memory: Memory | None = None) -> Guest:
    """Return a real-mode guest, which can :meth:`Guest.ring` alone, as :func:`long_guest` does."""
    memory = memory or guest_memory(vm)
    vcpu, image = vcpu or vm.create_vcpu(), load("real")
    enter_real_mode(vcpu, memory, image)
    return Guest(vcpu, image, Mailbox(memory), memory)


def guest_memory(vm: Vm) -> Memory:
    """Give a VM without memory what a guest needs, and KVM its own TSS; before the first vCPU."""
    if vm.check_extension("KVM_CAP_SET_TSS_ADDR"):
        vm.set_tss_addr(TSS_ADDRESS)
    return vm.add_memory(lib.GUEST_MEMORY_SIZE)
