"""Nested guests
=============

A guest that has come up as L1 becomes L2, and L1 again, by KVM_SET_NESTED_STATE. Userspace writes
the vmcs12 that L1 would have made, so that L1 needs no code for it: see :mod:`.l1` for an L1 that
has. L2 is the same guest in the same memory; its I/O exits reach userspace, because vmcs12 does not
intercept them.
"""

from typing import Any

from kvmtest._native import ffi, lib
from kvmtest.kvm import Vcpu

from .guest import Guest
from .l1 import allow_vmx
from .vmcs12 import CAPABILITIES, NO_MEMORY, NO_PAGE, contents, of_nested_state, with_fields

__all__ = ["NestedGuest"]

CR4_VMXE = 1 << 13


class NestedGuest:
    """L1 and L2 in turn, in a guest that has come up as L1 on a vCPU with VMX in its CPUID.

    ``guest`` takes commands, as whichever of the two runs; in L2 only those that do not exit to L1:
    none of CPUID. Raises MsrRefused where KVM gives its guests no VMX, and
    :class:`~kvmtest.errors.EnvironmentUnfit` where they get too little of it.
    """

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        vcpu = guest.vcpu
        allow_vmx(vcpu)
        sregs = vcpu.get_sregs()
        sregs.cr4 |= CR4_VMXE
        vcpu.set_sregs(sregs)
        self._state = _running(vcpu, guest)

    @property
    def is_in_l2(self) -> bool:
        """Whether the vCPU is in L2."""
        state = ffi.from_buffer("char[]", self.guest.vcpu.get_nested_state())
        flags = ffi.cast("struct kvm_nested_state *", state).flags
        return bool(flags & lib.KVM_STATE_NESTED_GUEST_MODE)

    def enter_l2(self) -> None:
        """Have L1 launch L2, and run L2 until it waits for commands."""
        self.guest.vcpu.complete()
        self.guest.vcpu.set_nested_state(self._state)
        self.guest.boot()

    def leave_l2(self) -> None:
        """Have L1 end VMX operation, and run it from its start until it waits for commands."""
        self.guest.vcpu.complete()
        self.guest.vcpu.set_nested_state(_outside_vmx())
        self.guest.boot()

    def remove_virtual_apic_page(self) -> None:
        """Point vmcs12's virtual-APIC page at a page without memory: the next entry to L2 fails.

        KVM does not check the address but has the CPU refuse it (nested_get_vmcs12_pages,
        arch/x86/kvm/vmx/nested.c).
        """
        vcpu = self.guest.vcpu
        vcpu.complete()
        state = with_fields(vcpu.get_nested_state(), virtual_apic_page_addr=NO_MEMORY)
        vcpu.set_nested_state(state)

    def fail_entry(self) -> bool:
        """Enter L2 without its virtual-APIC page, which fails; return whether L1 then waits.

        L1 goes on after its last exit to userspace, as if that had been a VMLAUNCH.
        """
        self.guest.execute()
        return not self.is_in_l2


def _running(vcpu: Vcpu, guest: Guest) -> bytes:
    """Return the nested state after VMLAUNCH in L1 and before the VM-entry to L2."""
    size = ffi.sizeof("struct kvm_nested_state") + 4096
    state = ffi.new("char[]", size)
    nested = ffi.cast("struct kvm_nested_state *", state)
    nested.flags = lib.KVM_STATE_NESTED_GUEST_MODE | lib.KVM_STATE_NESTED_RUN_PENDING
    nested.format = lib.KVM_STATE_NESTED_FORMAT_VMX
    nested.size = size
    nested.hdr.vmx.vmxon_pa = lib.GUEST_VMXON
    nested.hdr.vmx.vmcs12_pa = lib.GUEST_VMCS12
    vmcs: Any = of_nested_state(state)
    vmcs.revision = lib.VMCS12_REVISION
    vmcs.launch_state = 1
    start = guest.image.symbols["start"]
    capabilities = vcpu.get_msrs(CAPABILITIES.values())
    for field, value in contents(vcpu.get_sregs(), capabilities, start, start).items():
        setattr(vmcs, field, value)
    return bytes(ffi.buffer(state))


def _outside_vmx() -> bytes:
    state = ffi.new("struct kvm_nested_state *")
    state.format = lib.KVM_STATE_NESTED_FORMAT_VMX
    state.size = ffi.sizeof("struct kvm_nested_state")
    state.hdr.vmx.vmxon_pa = state.hdr.vmx.vmcs12_pa = NO_PAGE
    return bytes(ffi.buffer(state))
