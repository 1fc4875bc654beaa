"""Counts of SMIs
==============

What tells on each CPU how many SMIs it took.
"""

from dataclasses import dataclass
from typing import Protocol

from kvmtest.host import msr
from kvmtest.host.machine import Machine
from kvmtest.host.msr import MSR_SMI_COUNT, MsrAccess
from kvmtest.missing import Missing

__all__ = ["MsrSmiCount", "SmiCount", "counts"]


class SmiCount(Protocol):
    """A count on each of ``cpus`` that goes up by one for each SMI, and wraps."""

    @property
    def name(self) -> str:
        """What it is, in words."""

    @property
    def cpus(self) -> tuple[int, ...]:
        """The CPUs that have it."""

    def read(self, cpu: int) -> int:
        """Return the count of ``cpu``. Raises KvmtestError."""

    def read_all(self) -> dict[int, int]:
        """Return the count of every CPU, by CPU number. Raises KvmtestError."""

    def increase(self, before: int, after: int) -> int:
        """Return how many SMIs came between two reads."""


@dataclass(frozen=True, slots=True)
class MsrSmiCount:
    """MSR_SMI_COUNT: SMIs since reset, in bits 31:0 (SDM volume 4, tables of the models)."""

    msrs: MsrAccess
    name: str = f"MSR {MSR_SMI_COUNT:#x}"

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


def counts(machine: Machine) -> SmiCount | Missing:
    """Return a count that works on every online CPU, or why there is none."""
    msrs = msr.access(machine.tree, MSR_SMI_COUNT)
    return msrs if isinstance(msrs, Missing) else MsrSmiCount(msrs)
