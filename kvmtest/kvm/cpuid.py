"""CPUID tables
============

What KVM_GET_SUPPORTED_CPUID returns and KVM_SET_CPUID2 takes, as a value that can be filtered.
"""

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from kvmtest._native import ffi

from .struct_formats import unpacker

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


# Every vCPU gets a table: cffi would convert its members one by one.
_SIZE = ffi.sizeof("struct kvm_cpuid_entry2")
_MEMBERS = unpacker("struct kvm_cpuid_entry2", *CpuidEntry._fields)
_ENTRY = struct.Struct(f"{_MEMBERS.format}{_SIZE - _MEMBERS.size}x")


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
    def from_struct(cls, table: Any) -> "Cpuid":
        """Return what a ``struct kvm_cpuid2 *`` holds."""
        entries = _ENTRY.iter_unpack(ffi.buffer(table.entries, table.nent * _SIZE))
        return cls(map(CpuidEntry._make, entries))

    def to_struct(self) -> Any:
        """Return a ``struct kvm_cpuid2 *`` for KVM_SET_CPUID2."""
        table = ffi.new("struct kvm_cpuid2 *", {"nent": len(self), "entries": len(self)})
        ffi.buffer(table.entries, len(self) * _SIZE)[:] = b"".join(_ENTRY.pack(*e) for e in self)
        return table
