"""SMIs of a lab's machine
=======================

Three MSRs of the emulated machine control its SMIs. The first holds their mean distance in ticks of
the TSC, 0 for none; they come while a guest runs, and with bit 63 also while none does. The next
counts the SMIs raised, and a third makes the handler take longer. All three end with the emulated
machine, so nothing is left to undo if this process dies.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kvmtest.host.changes.msr import write_msr
from kvmtest.host.facts.tsc import tsc_hz
from kvmtest.host.machine import Machine
from kvmtest.missing import Missing
from kvmtest.smi.source import Periodic

__all__ = ["find"]

# Where Lab.details names the MSR.
_DETAIL = "smi_source_msr"
_OUTSIDE_GUESTS = 1 << 63
# The MSRs are the machine's; any CPU reaches them.
_CPU = 0
# From the first MSR to the others.
_RAISED, _TURNS = 1, 4
#: Turns of the handler's loop, of two instructions each, where there are several CPUs. With one CPU
#: the BIOS's handler stays: its 44 instructions are the least that a leak can count.
TURNS = 200


def find(machine: Machine, argument: str) -> Periodic | Missing:
    """Return the emulated machine's source, or what this machine lacks."""
    index = machine.lab.details.get(_DETAIL) if machine.lab else None
    if not isinstance(index, int):
        return Missing("this is no emulated machine of a lab that raises SMIs")
    msrs = machine.msr
    if isinstance(msrs, Missing):
        return msrs

    @contextmanager
    def switched(rate_hz: float, outside_guests: bool) -> Iterator[Callable[[], int]]:
        period = int(tsc_hz() / rate_hz)
        if len(msrs.cpus) > 1:
            write_msr(machine.tree, index + _TURNS, _CPU, TURNS)
        before = msrs.read(index + _RAISED, _CPU)
        write_msr(machine.tree, index, _CPU, period | _OUTSIDE_GUESTS if outside_guests else period)
        try:
            yield lambda: msrs.read(index + _RAISED, _CPU) - before
        finally:
            write_msr(machine.tree, index, _CPU, 0)

    return Periodic(
        "lab",
        "makes the emulated machine raise SMIs",
        f"MSR {index:#x} of the emulated machine, 0 again at the end; with several CPUs also "
        f"{index + _TURNS:#x}",
        fastest_hz=10_000,
        switched=switched,
    )
