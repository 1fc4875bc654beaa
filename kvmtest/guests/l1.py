"""L1 with code of its own
======================

A guest that is a hypervisor: it executes VMXON, VMREAD, VMWRITE, VMLAUNCH and VMRESUME on command,
and L2 is another guest of the same image, with a mailbox of its own.

L1 decides nothing: the host's commands set the fields of vmcs12, enter L2, and say what becomes of
an exit::

    l1 = L1(guest)                                  # a booted 64-bit guest on a vCPU with VMX
    l1.write(guest_ia32_debugctl=1 << 14)           # VMWRITE, of any field of struct vmcs12
    l1.enter()                                      # VMLAUNCH or VMRESUME: None, VmExit or VmFail
    l1.execute(commands.rdmsr(0x1D9))               # by L2: its results, or a VmExit
    l1.leave()                                      # L2's VMCALL: L1 runs
    l1.read("guest_ia32_debugctl")                  # VMREAD
    l1.enter()                                      # L2 goes on after its VMCALL

A refused entry is a :class:`VmFail` with the VM-instruction error, or a :class:`VmExit` whose
reason has bit 31. :mod:`.nested` makes an L2 of the same contents without code in L1.
"""

from copy import copy
from typing import Any, NamedTuple, Self

from kvmtest._native import lib
from kvmtest.errors import KvmtestError
from kvmtest.kvm import Vcpu

from . import commands
from .commands import Command, Result
from .guest import Guest
from .mailbox import Mailbox
from .vmcs12 import CAPABILITIES, ENCODINGS, contents

__all__ = ["FAILED_ENTRY", "IA32_FEATURE_CONTROL", "L1", "VmExit", "VmFail", "allow_vmx"]

# Intel SDM volume 4, table 2-2.
IA32_FEATURE_CONTROL, LOCKED, VMX_OUTSIDE_SMX = 0x3A, 1 << 0, 1 << 2
IA32_VMX_BASIC, REVISION = 0x480, 0x7FFF_FFFF

#: In an exit reason: the entry to L2 failed, and L2 executed nothing (SDM volume 3, 27.8).
FAILED_ENTRY = 1 << 31


class VmExit(NamedTuple):
    """An exit from L2 to L1: exit reason (EXIT_REASON_*), exit qualification, and L2's RIP."""

    reason: int
    qualification: int
    rip: int

    @property
    def is_failed_entry(self) -> bool:
        """Whether this is an entry that failed while L2's state was loaded."""
        return bool(self.reason & FAILED_ENTRY)


class VmFail(NamedTuple):
    """A VMX instruction that failed: the VM-instruction error, None without a current VMCS.

    Numbers are those of the SDM, volume 3, 31.4: 7 is an entry with an invalid control field.
    """

    error: int | None


class L1:
    """L1 and L2 on one vCPU, made of a booted 64-bit guest with a mailbox; L1 runs at first.

    ``guest`` takes commands as whichever of the two runs. Raises MsrRefused where KVM gives its
    guests no VMX, and :class:`~kvmtest.errors.EnvironmentUnfit` where L1 gets too little of it.
    """

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self._own = guest.transport
        self._l2 = Mailbox(guest.memory, lib.GUEST_L2_MAILBOX)
        self._is_launched = False
        allow_vmx(guest.vcpu)
        indices = [IA32_VMX_BASIC, *CAPABILITIES.values()]
        values = guest.execute(*map(commands.rdmsr, indices))
        msrs = dict(zip(indices, (result.value for result in values), strict=True))
        revision = msrs[IA32_VMX_BASIC] & REVISION
        self._do(
            commands.vmxon(lib.GUEST_VMXON, revision),
            commands.vmclear(lib.GUEST_VMCS12, revision),
            commands.vmptrld(lib.GUEST_VMCS12),
        )
        symbols = guest.image.symbols
        sregs = guest.vcpu.get_sregs()
        self.write(**contents(sregs, msrs, symbols["l2_start"], symbols["vm_exit"]))

    def moved_to(self, guest: Guest) -> Self:
        """Return the same L1 and L2 in another guest, which has yet to get this one's state."""
        moved = copy(self)
        moved.guest, moved._own = guest, guest.transport
        moved._l2 = Mailbox(guest.memory, lib.GUEST_L2_MAILBOX)
        if self.is_in_l2:
            guest.transport = moved._l2
        return moved

    @property
    def is_in_l2(self) -> bool:
        """Whether L2 runs, and takes the commands."""
        return self.guest.transport is self._l2

    @property
    def l2_registers(self) -> Any:
        """L2's general registers while L1 runs, a ``struct guest_gprs *``; RSP is in vmcs12."""
        address = self.guest.image.symbols["l2_registers"]
        return self.guest.memory.struct("struct guest_gprs *", address)

    # vmcs12, while L1 runs

    def write(self, **fields: int) -> None:
        """Have L1 write fields of vmcs12, by their names in ``struct vmcs12``; any number of them.

        Raises KvmtestError with the VM-instruction error where a VMWRITE fails.
        """
        self._do(*(commands.vmwrite(ENCODINGS[name], value) for name, value in fields.items()))

    def read(self, field: str) -> int:
        """Return what L1 reads of a field of vmcs12; raises KvmtestError as :meth:`write`."""
        (result,) = self._do(commands.vmread(ENCODINGS[field]))
        return result.values[1]

    def try_command(self, command: Command) -> VmFail | None:
        """Have L1 execute a VMX instruction that may fail, and return how, None if it succeeds."""
        (result,) = self.guest.execute(command)
        return _failure(result)

    def skip(self) -> None:
        """Have L2 go on behind the instruction that exited."""
        self.write(guest_rip=self.read("guest_rip") + self.read("vm_exit_instruction_len"))

    # Entries to L2

    def enter(self, *, resume: bool | None = None, timeout: float = 1.0) -> VmExit | VmFail | None:
        """Have L1 enter L2; return None once L2 waits for commands, else why L1 runs again.

        L1 executes VMLAUNCH the first time and VMRESUME later, or what ``resume`` says. L2 goes on
        where it was; after the VMCALL of :meth:`leave`, behind it.
        """
        resume = self._is_launched if resume is None else resume
        if not self._is_launched:
            self._l2.expect_guest()
            self._l2.send([])
        self.guest.transport.send([commands.vmresume() if resume else commands.vmlaunch()])
        self.guest.resume(timeout)
        return self._back()

    def execute(self, *sent: Command, timeout: float = 1.0) -> list[Result] | VmExit | VmFail:
        """Have L2, which runs, execute commands; return their results, or why L1 runs again.

        The command that exited has no result yet. It goes on at the next entry: again, or behind
        its instruction after :meth:`skip`. :meth:`results` has all results of the list then.
        """
        self.guest.transport.send(sent)
        self.guest.resume(timeout)
        exit_ = self._back()
        return self.results() if exit_ is None else exit_

    def results(self) -> list[Result]:
        """Return the results of L2's list of commands so far."""
        return self._l2.receive()

    def leave(self) -> VmExit:
        """Have L2 exit to L1 by VMCALL; its next entry begins behind that. Return the exit.

        Raises KvmtestError if L2 exits otherwise.
        """
        exit_ = self.execute(commands.vmcall())
        if not isinstance(exit_, VmExit) or exit_.reason != lib.EXIT_REASON_VMCALL:
            raise KvmtestError(f"L2's VMCALL ended in {exit_}; look at the kernel log")
        self.skip()
        return exit_

    def _back(self) -> VmExit | VmFail | None:
        """Find out who came out of KVM_RUN, and let that one take commands; None if it is L2.

        L1's list of one command ends at an exit from L2, which may be the end of L2's list.
        """
        if not self._own.has_begun(1):
            self._is_launched = True
            self.guest.transport = self._l2
            if not self._l2.is_up:
                raise KvmtestError("L2 did not say hello; look at the kernel log")
            return None
        self.guest.transport = self._own
        (result,) = self._own.receive()
        how, reason, qualification, rip = result.values
        if result.fault or how != lib.VMX_EXITED:
            return _failure(result)
        exit_ = VmExit(reason, qualification, rip)
        self._is_launched |= not exit_.is_failed_entry
        return exit_

    def _do(self, *sent: Command) -> list[Result]:
        """Have L1 execute VMX instructions that must succeed."""
        results = []
        for start in range(0, len(sent), lib.MAILBOX_CAPACITY):
            results += self.guest.execute(*sent[start : start + lib.MAILBOX_CAPACITY])
        for command, result in zip(sent, results, strict=True):
            if failure := _failure(result):
                what = f"L1's command {command.op} of {command.arguments} failed: {failure}"
                raise KvmtestError(f"{what}; look at the kernel log")
        return results


def allow_vmx(vcpu: Vcpu) -> None:
    """Let a vCPU's guest use VMX, as firmware does; raises MsrRefused where KVM has none for it."""
    vcpu.set_msr(IA32_FEATURE_CONTROL, LOCKED | VMX_OUTSIDE_SMX)


def _failure(result: Result) -> VmFail | None:
    """Return how a VMX instruction failed, None if it did not; raises GuestFault."""
    if result.value == lib.VMX_FAIL_VALID:
        return VmFail(result.values[1])
    return VmFail(None) if result.value == lib.VMX_FAIL_INVALID else None
