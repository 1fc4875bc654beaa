"""Nested guests
=============

A guest that has come up as L1 becomes L2, and L1 again, by KVM_SET_NESTED_STATE. Userspace writes
the vmcs12 that L1 would have made, so that L1 needs no code for it. L2 is the same guest in the
same memory; its I/O exits reach userspace, because vmcs12 does not intercept them.
"""

from typing import Any

from kvmtest._native import ffi, lib
from kvmtest.kvm import Vcpu

from .guest import Guest

__all__ = ["NO_MEMORY", "NestedGuest"]

# Intel SDM volume 4, table 2-2.
IA32_FEATURE_CONTROL, LOCKED, VMX_OUTSIDE_SMX = 0x3A, 1 << 0, 1 << 2
# The low half has the controls that must be 1, SDM volume 3, A.3 to A.5.
IA32_VMX_TRUE_PINBASED_CTLS, IA32_VMX_TRUE_PROCBASED_CTLS = 0x48D, 0x48E
IA32_VMX_TRUE_EXIT_CTLS, IA32_VMX_TRUE_ENTRY_CTLS = 0x48F, 0x490
USE_TPR_SHADOW = 1 << 21
ENTRY_LOAD_DEBUG_CONTROLS, ENTRY_IA32E_MODE = 1 << 2, 1 << 9
EXIT_HOST_ADDRESS_SPACE_SIZE = 1 << 9
CR4_VMXE = 1 << 13
NO_PAGE = (1 << 64) - 1
DR7 = 0x400
RFLAGS = 0x202
UNUSABLE = 1 << 16

#: A guest-physical page without memory.
NO_MEMORY = 0x4000_0000

SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")


class NestedGuest:
    """L1 and L2 in turn, in a guest that has come up as L1 on a vCPU with VMX in its CPUID.

    ``guest`` takes commands, as whichever of the two runs; in L2 only those that do not exit to L1:
    none of MSRs and CPUID. Raises MsrRefused where KVM gives its guests no VMX.
    """

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        vcpu = guest.vcpu
        vcpu.set_msr(IA32_FEATURE_CONTROL, LOCKED | VMX_OUTSIDE_SMX)
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
        """Point vmcs12's virtual-APIC page at :data:`NO_MEMORY`: the next entry to L2 fails.

        KVM does not check the address but has the CPU refuse it (nested_get_vmcs12_pages,
        arch/x86/kvm/vmx/nested.c).
        """
        vcpu = self.guest.vcpu
        vcpu.complete()
        state = ffi.from_buffer("char[]", bytearray(vcpu.get_nested_state()))
        _vmcs12(state).virtual_apic_page_addr = NO_MEMORY
        vcpu.set_nested_state(bytes(ffi.buffer(state)))

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
    vmcs = _vmcs12(state)
    vmcs.revision = lib.VMCS12_REVISION
    vmcs.launch_state = 1
    _write_controls(vmcs, vcpu)
    _write_state(vmcs, vcpu.get_sregs(), guest.image.symbols["start"])
    return bytes(ffi.buffer(state))


def _outside_vmx() -> bytes:
    state = ffi.new("struct kvm_nested_state *")
    state.format = lib.KVM_STATE_NESTED_FORMAT_VMX
    state.size = ffi.sizeof("struct kvm_nested_state")
    state.hdr.vmx.vmxon_pa = state.hdr.vmx.vmcs12_pa = NO_PAGE
    return bytes(ffi.buffer(state))


def _vmcs12(state: Any) -> Any:
    return ffi.cast("struct vmcs12 *", state + ffi.sizeof("struct kvm_nested_state"))


def _write_controls(vmcs: Any, vcpu: Vcpu) -> None:
    """Set the controls that must be 1, 64-bit mode, load debug controls, and a TPR shadow.

    Only with a TPR shadow does the entry need the virtual-APIC page.
    """
    msrs = vcpu.get_msrs(
        [
            IA32_VMX_TRUE_PINBASED_CTLS,
            IA32_VMX_TRUE_PROCBASED_CTLS,
            IA32_VMX_TRUE_EXIT_CTLS,
            IA32_VMX_TRUE_ENTRY_CTLS,
        ]
    )
    pin, processor, leave, enter = (value & 0xFFFF_FFFF for value in msrs.values())
    vmcs.pin_based_vm_exec_control = pin
    vmcs.cpu_based_vm_exec_control = processor | USE_TPR_SHADOW
    vmcs.vm_exit_controls = leave | EXIT_HOST_ADDRESS_SPACE_SIZE
    vmcs.vm_entry_controls = enter | ENTRY_IA32E_MODE | ENTRY_LOAD_DEBUG_CONTROLS
    vmcs.virtual_apic_page_addr = lib.GUEST_VIRTUAL_APIC
    vmcs.vmcs_link_pointer = NO_PAGE


def _write_state(vmcs: Any, sregs: Any, start: int) -> None:
    """Write guest state with which L2 starts as L1 did, and the same as host state for L1."""
    for role in ("guest", "host"):
        for register in ("cr0", "cr3", "cr4"):
            setattr(vmcs, f"{role}_{register}", getattr(sregs, register))
        for table in ("gdt", "idt"):
            setattr(vmcs, f"{role}_{table}r_base", getattr(sregs, table).base)
        for name in ("fs", "gs", "tr"):
            setattr(vmcs, f"{role}_{name}_base", getattr(sregs, name).base)
        for name in (*SEGMENTS, "tr"):
            setattr(vmcs, f"{role}_{name}_selector", getattr(sregs, name).selector)
        setattr(vmcs, f"{role}_rip", start)
        setattr(vmcs, f"{role}_rsp", lib.GUEST_STACK)
    vmcs.cr0_read_shadow, vmcs.cr4_read_shadow = sregs.cr0, sregs.cr4
    for name in (*SEGMENTS, "tr"):
        segment = getattr(sregs, name)
        setattr(vmcs, f"guest_{name}_base", segment.base)
        setattr(vmcs, f"guest_{name}_limit", segment.limit)
        setattr(vmcs, f"guest_{name}_ar_bytes", _access_rights(segment))
    vmcs.guest_ldtr_ar_bytes = UNUSABLE
    vmcs.guest_gdtr_limit, vmcs.guest_idtr_limit = sregs.gdt.limit, sregs.idt.limit
    vmcs.guest_dr7, vmcs.guest_rflags = DR7, RFLAGS


def _access_rights(segment: Any) -> int:
    """Return a segment's access rights in a VMCS's format (SDM volume 3, table 25-2)."""
    return int(
        segment.type | segment.s << 4 | segment.dpl << 5 | segment.present << 7 | segment.avl << 12
        | segment.l << 13 | segment.db << 14 | segment.g << 15 | segment.unusable << 16
    )  # fmt: skip
