"""Guests
======

A guest that has come up on a vCPU and takes commands through its mailbox.
"""

from collections.abc import Callable
from typing import NamedTuple

from kvmtest._native import lib
from kvmtest.errors import KvmtestError
from kvmtest.kvm import Exit, IoExit, Loop, Memory, Vcpu, Vm

from . import mailbox as box
from .image import Image, load
from .modes import enter_long_mode, enter_real_mode

__all__ = ["Gap", "Guest", "UnexpectedExit", "guest_memory", "long_guest", "real_guest"]

#: Instructions that one ``loop(n)`` alone retires from resume to exit: this plus 2 n.
LOOP_OVERHEAD: int = lib.MAILBOX_LOOP_OVERHEAD

#: Where KVM has its own TSS, far above the guest's memory: the address that most VMMs use.
TSS_ADDRESS = 0xFFFBD000


class UnexpectedExit(KvmtestError):
    """The guest came back in a way that its protocol does not know; ``exit`` is the exit."""

    def __init__(self, guest: str, exit: Exit | None) -> None:  # noqa: A002 - the field's word
        self.exit = exit
        super().__init__(f"the {guest} guest came back with {exit}; look at the kernel log")


class Gap(NamedTuple):
    """A hole in the guest's time: the TSC before and after it."""

    begin: int
    end: int


class Guest:
    """One guest on one vCPU, in memory that starts at guest-physical 0."""

    def __init__(
        self,
        vcpu: Vcpu,
        memory: Memory,
        image: Image,
        enter_mode: Callable[[Vcpu, Memory, Image], None],
    ) -> None:
        self.vcpu = vcpu
        self.memory = memory
        self.image = image
        self.mailbox = memory.struct("struct mailbox *", lib.GUEST_MAILBOX)
        memory.write(image.address, image.data)
        enter_mode(vcpu, memory, image)

    def boot(self, timeout: float = 1.0) -> None:
        """Run until the guest says hello; raises :class:`UnexpectedExit` or GuestFault."""
        self.mailbox.magic = 0
        self._until_done(timeout)
        if self.mailbox.magic != lib.MAILBOX_MAGIC:
            raise KvmtestError(
                f"the {self.image.name} guest did not say hello; build it again (make)"
            )

    def execute(self, *commands: box.Command, timeout: float = 1.0) -> list[box.Result]:
        """Have the guest execute commands, and return a result for each.

        A command that faults has its fault in its result. Raises :class:`UnexpectedExit` where the
        guest comes back otherwise (a deadline, say), and GuestFault for a fault outside commands.
        """
        box.write_commands(self.mailbox, commands)
        self._until_done(timeout)
        results = box.read_results(self.mailbox)
        if len(results) != len(commands):
            raise KvmtestError(f"the guest did {len(results)} of {len(commands)} commands")
        return results

    def resume(self, timeout: float = 1.0) -> None:
        """Run until the guest waits for commands; raises :class:`UnexpectedExit` or GuestFault."""
        self._until_done(timeout)

    def ring(self, count: int, *, stamps: int = 0, timeout: float = 1.0) -> Loop:
        """Have the guest exit ``count`` times in the native loop, stamping the last entries."""
        box.write_commands(self.mailbox, [box.exit_often(count)])
        return self._until_done(timeout, stamps)

    def gaps(self, count: int) -> list[Gap]:
        """Return the first ``count`` gaps that the last ``watch`` logged."""
        log = self.memory.struct("struct gap *", lib.GUEST_GAP_LOG)
        kept = min(count, lib.GUEST_GAP_CAPACITY)
        return [Gap(log[at].begin, log[at].end) for at in range(kept)]

    def _until_done(self, timeout: float, stamps: int = 0) -> Loop:
        loop = self.vcpu.run_loop(lib.MAILBOX_DOORBELL_PORT, stamps=stamps, timeout=timeout)
        if not isinstance(loop.exit, IoExit) or not loop.exit.is_out:
            raise UnexpectedExit(self.image.name, loop.exit)
        if loop.exit.port == lib.MAILBOX_FAULT_PORT:
            m = self.mailbox
            raise box.GuestFault(box.Fault(m.vector, m.error, m.rip))
        if loop.exit.port != lib.MAILBOX_DONE_PORT:
            raise UnexpectedExit(self.image.name, loop.exit)
        return loop


def long_guest(vm: Vm, vcpu: Vcpu | None = None, memory: Memory | None = None) -> Guest:
    """Give a VM its memory, unless it has it, and a 64-bit guest, ready to boot."""
    memory = memory or guest_memory(vm)
    return Guest(vcpu or vm.create_vcpu(), memory, load("long"), enter_long_mode)


def real_guest(vm: Vm, vcpu: Vcpu | None = None, memory: Memory | None = None) -> Guest:
    """Give a VM its memory, unless it has it, and a real-mode guest, ready to boot."""
    memory = memory or guest_memory(vm)
    return Guest(vcpu or vm.create_vcpu(), memory, load("real"), enter_real_mode)


def guest_memory(vm: Vm) -> Memory:
    """Give a VM without memory what a guest needs, and KVM its own TSS; before the first vCPU."""
    if vm.check_extension("KVM_CAP_SET_TSS_ADDR"):
        vm.set_tss_addr(TSS_ADDRESS)
    return vm.add_memory(lib.GUEST_MEMORY_SIZE)
