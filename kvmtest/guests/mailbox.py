"""The mailbox
===========

Host's side of guests/mailbox.h: commands go in, results come out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kvmtest._native import lib
from kvmtest.errors import KvmtestError

__all__ = [
    "Command",
    "Fault",
    "GuestFault",
    "Result",
    "cpuid",
    "exit_often",
    "loop",
    "nop",
    "rdmsr",
    "rdpmc",
    "read_results",
    "spin",
    "watch",
    "watched",
    "write_commands",
    "wrmsr",
]

# Intel SDM volume 3, table 6-1; AMD APM volume 2, table 8-1.
EXCEPTIONS = {
    0: "#DE", 1: "#DB", 2: "NMI", 3: "#BP", 4: "#OF", 5: "#BR", 6: "#UD", 7: "#NM", 8: "#DF",
    10: "#TS", 11: "#NP", 12: "#SS", 13: "#GP", 14: "#PF", 16: "#MF", 17: "#AC", 18: "#MC",
    19: "#XM", 20: "#VE", 21: "#CP", 28: "#HV", 29: "#VC", 30: "#SX",
}  # fmt: skip


class Command(NamedTuple):
    """One command; ``op`` is one of MAILBOX_*."""

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
    """What a command gave: four values of 64 bits, or the fault that ended it."""

    values: tuple[int, int, int, int]
    fault: Fault | None = None

    @property
    def value(self) -> int:
        """The first value; raises :class:`GuestFault` where the command faulted."""
        if self.fault:
            raise GuestFault(self.fault)
        return self.values[0]


class GuestFault(KvmtestError):
    """The guest took an exception that nobody expected; ``fault`` says which."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        super().__init__(f"the guest took {fault}")


def nop() -> Command:
    """Do nothing."""
    return Command(lib.MAILBOX_NOP)


def rdmsr(msr: int) -> Command:
    """Read an MSR; value: what it holds."""
    return Command(lib.MAILBOX_RDMSR, (msr,))


def wrmsr(msr: int, value: int) -> Command:
    """Write an MSR."""
    return Command(lib.MAILBOX_WRMSR, (msr, value))


def cpuid(leaf: int, subleaf: int = 0) -> Command:
    """Execute CPUID; values: EAX, EBX, ECX, EDX."""
    return Command(lib.MAILBOX_CPUID, (leaf, subleaf))


def rdpmc(counter: int) -> Command:
    """Read a performance counter; value: its count."""
    return Command(lib.MAILBOX_RDPMC, (counter,))


def loop(count: int) -> Command:
    """Execute a loop of two instructions ``count`` times, at least once."""
    return Command(lib.MAILBOX_LOOP, (max(1, count),))


def exit_often(count: int) -> Command:
    """Ring the doorbell ``count`` times, at least once."""
    return Command(lib.MAILBOX_EXIT, (max(1, count),))


def watch(ticks: int, threshold: int) -> Command:
    """Poll the TSC for ``ticks``; values: gaps (>= ``threshold``), polls, shortest, longest."""
    return Command(lib.MAILBOX_WATCH, (ticks, threshold))


def watched(polls: int, gaps: int) -> int:
    """Return how many instructions a list of one ``watch`` retires from resume to exit.

    ``polls`` and ``gaps`` are its result; the gaps must all have been logged.
    """
    each: int = polls * lib.MAILBOX_WATCH_POLL + gaps * lib.MAILBOX_WATCH_GAP
    return each + int(lib.MAILBOX_WATCH_OVERHEAD)


def spin() -> Command:
    """Spin for ever with interrupts on."""
    return Command(lib.MAILBOX_SPIN)


def write_commands(mailbox: Any, commands: Sequence[Command]) -> None:
    """Put a list into a ``struct mailbox *``; at most MAILBOX_CAPACITY."""
    if len(commands) > lib.MAILBOX_CAPACITY:
        raise ValueError(f"the mailbox holds {lib.MAILBOX_CAPACITY} commands, not {len(commands)}")
    for at, command in enumerate(commands):
        slot = mailbox.command[at]
        slot.op = command.op
        for number, argument in enumerate(command.arguments):
            slot.argument[number] = argument
        mailbox.result[at].status = lib.MAILBOX_PENDING
    mailbox.count = len(commands)
    mailbox.done = 0


def read_results(mailbox: Any) -> list[Result]:
    """Return the results that a ``struct mailbox *`` holds."""
    if mailbox.done > lib.MAILBOX_CAPACITY:
        raise KvmtestError(f"the guest says it has {mailbox.done} results: it has gone astray")
    return [_result(mailbox.result[at]) for at in range(mailbox.done)]


def _result(slot: Any) -> Result:
    if slot.status == lib.MAILBOX_FAULT:
        return Result((0, 0, 0, 0), Fault(slot.vector, slot.error, slot.rip))
    if slot.status != lib.MAILBOX_OK:
        raise KvmtestError(f"the guest does not know a command (status {slot.status})")
    one, two, three, four = slot.value
    return Result((one, two, three, four))
