"""CPUID tables
============

What KVM_GET_SUPPORTED_CPUID returns and KVM_SET_CPUID2 takes, as a value that can be filtered.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from kvmtest._native import ffi

__all__ = ["Cpuid", "CpuidEntry"]


class CpuidEntry(NamedTuple):
    """struct kvm_cpuid_entry2; ``flags`` are KVM_CPUID_FLAG_*."""

    function: int
    index: int  # type: ignore[assignment]  # the kernel's word, over tuple.index
    flags: int
    eax: int
    ebx: int
    ecx: int
    edx: int


class Cpuid(tuple[CpuidEntry, ...]):
    """An immutable table of entries, in the kernel's order."""

    __slots__ = ()

    def find(self, function: int, index: int = 0) -> CpuidEntry | None:
        """Return the entry of a leaf and subleaf, or None."""
        matching = (e for e in self if (e.function, e.index) == (function, index))
        return next(matching, None)

    def where(self, keep: Callable[[CpuidEntry], bool]) -> "Cpuid":
        """Return the entries for which ``keep`` is true."""
        return Cpuid(filter(keep, self))

    def without(self, *functions: int) -> "Cpuid":
        """Return the table without some leaves."""
        return self.where(lambda entry: entry.function not in functions)

    def replace(self, function: int, index: int = 0, **registers: int) -> "Cpuid":
        """Return the table with registers (eax=..., ebx=...) of one leaf replaced.

        Raises :class:`KeyError` where there is no such leaf.
        """
        if self.find(function, index) is None:
            raise KeyError((function, index))
        return Cpuid(
            e._replace(**registers) if (e.function, e.index) == (function, index) else e
            for e in self
        )

    @classmethod
    def from_struct(cls, struct: Any) -> "Cpuid":
        """Return what a ``struct kvm_cpuid2 *`` holds."""
        return cls(_entries(struct))

    def to_struct(self) -> Any:
        """Return a ``struct kvm_cpuid2 *`` for KVM_SET_CPUID2."""
        struct = ffi.new("struct kvm_cpuid2 *", {"nent": len(self), "entries": len(self)})
        for slot, entry in zip(struct.entries, self, strict=True):
            slot.function, slot.index, slot.flags = entry.function, entry.index, entry.flags
            slot.eax, slot.ebx, slot.ecx, slot.edx = entry[3:]
        return struct


def _entries(struct: Any) -> Iterator[CpuidEntry]:
    for at in range(struct.nent):
        e = struct.entries[at]
        yield CpuidEntry(e.function, e.index, e.flags, e.eax, e.ebx, e.ecx, e.edx)
