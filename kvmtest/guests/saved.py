"""Saved guests
============

A guest's state and memory as a VMM saves them for a snapshot or a live migration, L1 or L2 running.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from kvmtest._native import lib
from kvmtest.kvm import Vcpu

from .guest import Guest
from .vmcs12 import with_fields

__all__ = ["SavedGuest"]


@dataclass(frozen=True, slots=True)
class SavedGuest:
    """What :meth:`restore` needs: registers, nested state (struct kvm_nested_state), and memory."""

    regs: Any
    sregs: Any
    nested_state: bytes
    memory: bytes

    @classmethod
    def of(cls, guest: Guest) -> Self:
        """Save a guest that waits for commands; its MSRs are the caller's to read."""
        vcpu = guest.vcpu
        vcpu.complete()
        memory = guest.memory.read(0, lib.GUEST_MEMORY_SIZE)
        return cls(vcpu.get_regs(), vcpu.get_sregs(), vcpu.get_nested_state(), memory)

    def with_vmcs12(self, **fields: int) -> Self:
        """Return the same with other values in fields of vmcs12."""
        return replace(self, nested_state=with_fields(self.nested_state, **fields))

    def restore(
        self,
        guest: Guest,
        *,
        first: Mapping[int, int] | None = None,
        last: Mapping[int, int] | None = None,
    ) -> None:
        """Give a vCPU and its guest's memory what was saved; the guest then waits for commands.

        ``first`` and ``last`` are MSRs to set before and after the nested state: VMMs do either.
        Raises KvmError where KVM refuses the state, MsrRefused where it refuses an MSR.
        """
        vcpu = guest.vcpu
        guest.memory.write(0, self.memory)
        _set_msrs(vcpu, first)
        vcpu.set_sregs(self.sregs)
        vcpu.set_nested_state(self.nested_state)
        vcpu.set_regs(self.regs)
        _set_msrs(vcpu, last)


def _set_msrs(vcpu: Vcpu, msrs: Mapping[int, int] | None) -> None:
    if msrs:
        vcpu.set_msrs(msrs)
