"""Commands
========

What a guest can be asked to do, and what it answers: values, whichever transport carries them. The
guest's side is guests/commands.h.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from kvmtest._native import lib
from kvmtest.errors import KvmtestError

__all__ = [
    "Command",
    "Fault",
    "GuestFault",
    "Result",
    "TscGap",
    "cpuid",
    "gap",
    "hlt",
    "loop",
    "nop",
    "rdmsr",
    "rdpmc",
    "read_result",
    "ring",
    "spin",
    "vmcall",
    "vmclear",
    "vmlaunch",
    "vmptrld",
    "vmread",
    "vmresume",
    "vmwrite",
    "vmxoff",
    "vmxon",
    "watch",
    "wrmsr",
]

# Intel SDM volume 3, table 6-1; AMD APM volume 2, table 8-1.
EXCEPTIONS = {
    0: "#DE", 1: "#DB", 2: "NMI", 3: "#BP", 4: "#OF", 5: "#BR", 6: "#UD", 7: "#NM", 8: "#DF",
    10: "#TS", 11: "#NP", 12: "#SS", 13: "#GP", 14: "#PF", 16: "#MF", 17: "#AC", 18: "#MC",
    19: "#XM", 20: "#VE", 21: "#CP", 28: "#HV", 29: "#VC", 30: "#SX",
}  # fmt: skip


class Command(NamedTuple):
    """One command; ``op`` is one of COMMAND_* in guests/commands.h, unsigned 64-bit arguments."""

    op: int
    arguments: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Fault:
    """An exception that the guest took: vector, error code (0 where it has none) and RIP."""

    vector: int
    error: int
    rip: int

    @property
    def name(self) -> str:
        """The exception's mnemonic, e.g. #GP."""
        return EXCEPTIONS.get(self.vector, f"vector {self.vector}")

    def __str__(self) -> str:
        return f"{self.name}({self.error:#x}) at RIP {self.rip:#x}"


@dataclass(frozen=True, slots=True)
class Result:
    """A command's four values of 64 bits, or the fault that ended it.

    Each command says what its values are; those that it does not give are of no meaning.
    """

    values: tuple[int, int, int, int]
    fault: Fault | None = None

    @property
    def value(self) -> int:
        """The first value; raises :class:`GuestFault` where the command faulted."""
        if self.fault:
            raise GuestFault(self.fault)
        return self.values[0]


class GuestFault(KvmtestError):
    """The guest took an exception, in a command or outside; ``fault`` says which."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        super().__init__(f"the guest took {fault}")


class TscGap(NamedTuple):
    """A hole in the guest's time that a ``watch`` saw: the TSC before and after it."""

    begin: int
    end: int


def nop() -> Command:
    """Do nothing."""
    return Command(lib.COMMAND_NOP)


def rdmsr(msr: int) -> Command:
    """RDMSR; value: the MSR's."""
    return Command(lib.COMMAND_RDMSR, (msr,))


def wrmsr(msr: int, value: int) -> Command:
    """WRMSR."""
    return Command(lib.COMMAND_WRMSR, (msr, value))


def cpuid(leaf: int, subleaf: int = 0) -> Command:
    """CPUID; values: EAX, EBX, ECX, EDX."""
    return Command(lib.COMMAND_CPUID, (leaf, subleaf))


def rdpmc(counter: int) -> Command:
    """RDPMC; value: the counter's."""
    return Command(lib.COMMAND_RDPMC, (counter,))


def loop(count: int) -> Command:
    """Execute a loop of two instructions ``count`` times, at least once."""
    return Command(lib.COMMAND_LOOP, (max(1, count),))


def ring(count: int) -> Command:
    """Exit to GUEST_DOORBELL_PORT ``count`` times, at least once."""
    return Command(lib.COMMAND_RING, (max(1, count),))


def watch(ticks: int, threshold: int) -> Command:
    """Poll the TSC for ``ticks``; values: gaps (>= ``threshold``), polls, shortest, longest."""
    return Command(lib.COMMAND_WATCH, (ticks, threshold))


def gap(index: int) -> Command:
    """Return a gap that the last ``watch`` logged; values: its begin and end."""
    return Command(lib.COMMAND_GAP, (index,))


def spin() -> Command:
    """Spin for ever, with interrupts on."""
    return Command(lib.COMMAND_SPIN)


def hlt() -> Command:
    """HLT: ends at an interrupt, or when L1 skips it; else KVM_RUN returns a HltExit."""
    return Command(lib.COMMAND_HLT)


def vmcall() -> Command:
    """VMCALL; of an L2, exits to L1."""
    return Command(lib.COMMAND_VMCALL)


# Of an L1, whose driver is kvmtest.guests.l1. The first value is the outcome, VMX_* in
# guests/vmx.h; after VMX_FAIL_VALID the second is the VM-instruction error.


def vmxon(region: int, revision: int) -> Command:
    """Set CR4.VMXE, write the revision into the region, and VMXON."""
    return Command(lib.COMMAND_VMXON, (region, revision))


def vmxoff() -> Command:
    """VMXOFF."""
    return Command(lib.COMMAND_VMXOFF)


def vmclear(region: int, revision: int) -> Command:
    """Write the revision into the region, and VMCLEAR."""
    return Command(lib.COMMAND_VMCLEAR, (region, revision))


def vmptrld(region: int) -> Command:
    """VMPTRLD."""
    return Command(lib.COMMAND_VMPTRLD, (region,))


def vmread(field: int) -> Command:
    """VMREAD; second value: the field's."""
    return Command(lib.COMMAND_VMREAD, (field,))


def vmwrite(field: int, value: int) -> Command:
    """VMWRITE."""
    return Command(lib.COMMAND_VMWRITE, (field, value))


def vmlaunch() -> Command:
    """VMLAUNCH; after VMX_EXITED the further values: exit reason, qualification, L2's RIP.

    The result comes when L1 runs again, after the exit from L2.
    """
    return Command(lib.COMMAND_VMLAUNCH)


def vmresume() -> Command:
    """VMRESUME; values as of :func:`vmlaunch`."""
    return Command(lib.COMMAND_VMRESUME)


def read_result(slot: Any) -> Result:
    """Return what a ``struct guest_result`` says; raises KvmtestError for an unknown status."""
    if slot.status == lib.RESULT_FAULT:
        return Result((0, 0, 0, 0), Fault(slot.vector, slot.error, slot.rip))
    if slot.status != lib.RESULT_OK:
        raise KvmtestError(f"the guest does not know a command (status {slot.status})")
    one, two, three, four = slot.value
    return Result((one, two, three, four))
