"""Counts of SMIs
==============

Counters that tell how many SMIs each CPU took.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from kvmtest.host.facts import msr
from kvmtest.host.facts.mediated_pmu import PARAMETER
from kvmtest.host.facts.msr import MSR_SMI_COUNT, MsrAccess
from kvmtest.host.facts.perf_pmus import smi_event
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing
from kvmtest.pmu import CounterError, CounterGroup, Event, find_event

__all__ = ["MsrSmiCount", "PerfSmiCount", "SmiCount", "bystander_counts", "counts", "event_name"]

# PMCx02B of AMD's family 17h and later: ls_smi_rx, SMIs received (PPR, performance monitor events).
_LS_SMI_RX = "cpu/event=0x2b/"
_ZEN = 0x17


class SmiCount(Protocol):
    """A count on each of ``cpus`` that rises by one with each SMI; close it after use."""

    @property
    def name(self) -> str:
        """What counts, in words."""

    @property
    def cpus(self) -> tuple[int, ...]:
        """The CPUs that have it."""

    @property
    def is_since_reset(self) -> bool:
        """Whether it counts from the CPU's reset, and not from when it was opened."""

    def read(self, cpu: int) -> int:
        """Return the count of ``cpu``. Raises KvmtestError."""

    def read_all(self) -> dict[int, int]:
        """Return the count of every CPU, by CPU number. Raises KvmtestError."""

    def increase(self, before: int, after: int) -> int:
        """Return how many SMIs came between two reads."""

    def close(self) -> None:
        """Release what the count holds open."""


@dataclass(frozen=True, slots=True)
class MsrSmiCount:
    """MSR_SMI_COUNT: SMIs since reset, in bits 31:0 (SDM volume 4, tables of the models)."""

    msrs: MsrAccess
    name: str = f"MSR {MSR_SMI_COUNT:#x}"
    is_since_reset: bool = True

    @property
    def cpus(self) -> tuple[int, ...]:
        """The online CPUs."""
        return self.msrs.cpus

    def read(self, cpu: int) -> int:
        """Return the count of ``cpu``. Raises MsrError."""
        return self.msrs.read(MSR_SMI_COUNT, cpu) & 0xFFFF_FFFF

    def read_all(self) -> dict[int, int]:
        """Return the count of every CPU, by CPU number. Raises MsrError."""
        return {cpu: self.read(cpu) for cpu in self.cpus}

    def increase(self, before: int, after: int) -> int:
        """Return how many SMIs came between two reads, fewer than 2**32."""
        return (after - before) % (1 << 32)

    def close(self) -> None:
        """Do nothing: nothing is held open."""


class PerfSmiCount:
    """A perf event that counts SMIs on each of ``cpus``, from now on; it does not wrap.

    Raises CounterError.
    """

    is_since_reset = False

    def __init__(self, tree: Tree, event: Event, cpus: Sequence[int]) -> None:
        self.name = f"perf event {event.name}"
        self.cpus = tuple(cpus)
        self._groups: dict[int, CounterGroup] = {}
        with ExitStack() as opened:
            for cpu in cpus:
                self._groups[cpu] = opened.enter_context(CounterGroup(tree, [event], cpu=cpu))
                self._groups[cpu].enable()
            self._opened = opened.pop_all()

    def read(self, cpu: int) -> int:
        """Return the count of ``cpu``. Raises CounterError."""
        return self._groups[cpu].read().values[0]

    def read_all(self) -> dict[int, int]:
        """Return the count of every CPU, by CPU number. Raises CounterError."""
        return {cpu: self.read(cpu) for cpu in self.cpus}

    def increase(self, before: int, after: int) -> int:
        """Return how many SMIs came between two reads."""
        return after - before

    def close(self) -> None:
        """Close the events."""
        self._opened.close()


def counts(machine: Machine) -> SmiCount | Missing:
    """Return a count that works on every online CPU, or why there is none."""
    msrs = msr.access(machine.tree, MSR_SMI_COUNT, machine.cpu)
    if not isinstance(msrs, Missing):
        return MsrSmiCount(msrs)
    perf = _perf_count(machine)
    if not isinstance(perf, Missing):
        return perf
    reasons = [msrs, perf]
    cpu = machine.cpu
    if not isinstance(cpu, Missing) and cpu.vendor != "intel":
        reasons.reverse()  # Others have no MSR_SMI_COUNT, unless a hypervisor lends them one.
    whats = "; ".join(each.what for each in reasons)
    remedy = next((each.remedy for each in reasons if each.remedy), "")
    return Missing(f"nothing counts SMIs: {whats}", remedy)


def bystander_counts(machine: Machine) -> SmiCount | Missing:
    """Return a count that keeps nobody from starting a VM, or why there is none.

    With a mediated PMU an event of the CPU cores would, for as long as it is open (see
    :mod:`kvmtest.host.facts.mediated_pmu`); the machine's ``allow_other_vms`` permits that.
    """
    if machine.mediated_pmu is not True or machine.allow_other_vms:
        return counts(machine)
    if event_name(machine) != _LS_SMI_RX:
        return counts(machine)
    return Missing(
        "KVM's PMU is mediated, so nobody could start a VM with a PMU while perf counts SMIs",
        f"use --allow-other-vms, or load the KVM module with {PARAMETER}=0",
    )


def event_name(machine: Machine) -> str | Missing:
    """Return the perf event that counts SMIs on this machine's CPUs, or why there is none."""
    cpu = machine.cpu
    if isinstance(cpu, Missing):
        return cpu
    if not (cpu.is_amd_kind or cpu.vendor == "intel"):
        what = f"no perf event is known that counts SMIs on CPUs of {cpu.vendor}"
        return Missing(what, "run on an Intel or AMD CPU")
    if not cpu.is_amd_kind:
        event = smi_event(machine.tree)
        return event if isinstance(event, Missing) else "msr/smi/"
    if isinstance(machine.pmus, Missing):
        return machine.pmus
    if cpu.family < _ZEN:
        return Missing("AMD's event ls_smi_rx is not in this CPU", "run on family 17h or later")
    return _LS_SMI_RX


def _perf_count(machine: Machine) -> PerfSmiCount | Missing:
    if not machine.tree.is_live:
        return Missing("a stand-in tree has no perf events", "run on the machine itself")
    name, cpu = event_name(machine), machine.cpu
    if isinstance(cpu, Missing):
        return cpu
    if isinstance(name, Missing):
        return name
    try:
        return PerfSmiCount(machine.tree, find_event(machine.tree, name), cpu.online)
    except CounterError as error:
        return error.missing
