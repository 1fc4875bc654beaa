"""vmcs12
======

The VMCS that an L1 makes for its L2: the fields' encodings, and the contents with which L2 starts.
Fields are named as in the kernel's ``struct vmcs12`` (arch/x86/kvm/vmx/vmcs12.h).
"""

from collections.abc import Mapping
from typing import Any

from kvmtest._native import ffi, lib
from kvmtest.errors import EnvironmentUnfit

__all__ = [
    "CAPABILITIES",
    "DR7",
    "ENCODINGS",
    "ENTRY_LOAD_DEBUG_CONTROLS",
    "EXIT_SAVE_DEBUG_CONTROLS",
    "HLT_EXITING",
    "NO_MEMORY",
    "NO_PAGE",
    "UNCONDITIONAL_IO_EXITING",
    "USE_MSR_BITMAPS",
    "contents",
    "of_nested_state",
    "with_fields",
]

#: A guest-physical page without memory.
NO_MEMORY = 0x4000_0000
#: In a field or a nested state that holds a page's address: there is none.
NO_PAGE = (1 << 64) - 1

# Controls, Intel SDM volume 3, 25.6 to 25.8.
HLT_EXITING, USE_TPR_SHADOW = 1 << 7, 1 << 21
UNCONDITIONAL_IO_EXITING, USE_MSR_BITMAPS = 1 << 24, 1 << 28
ENTRY_LOAD_DEBUG_CONTROLS, ENTRY_IA32E_MODE = 1 << 2, 1 << 9
EXIT_SAVE_DEBUG_CONTROLS, EXIT_HOST_ADDRESS_SPACE_SIZE = 1 << 2, 1 << 9

#: The capability MSR of each field of controls. Its low half has the controls that must be 1, its
#: high half those that may be (SDM volume 3, A.3 to A.5). The TRUE ones leave L1 all that is
#: optional, "load debug controls" among it.
CAPABILITIES = {
    "pin_based_vm_exec_control": 0x48D,
    "cpu_based_vm_exec_control": 0x48E,
    "vm_exit_controls": 0x48F,
    "vm_entry_controls": 0x490,
}
# What L2 needs: 64-bit mode, MSRs of its own, its DEBUGCTL from vmcs12; and a TPR shadow, as only
# with one does an entry need the virtual-APIC page.
_WANTED = {
    "pin_based_vm_exec_control": 0,
    "cpu_based_vm_exec_control": USE_TPR_SHADOW | USE_MSR_BITMAPS,
    "vm_exit_controls": EXIT_HOST_ADDRESS_SPACE_SIZE,
    "vm_entry_controls": ENTRY_IA32E_MODE | ENTRY_LOAD_DEBUG_CONTROLS,
}

#: All breakpoints off; bit 10 is always 1.
DR7 = 0x400
_RFLAGS = 0x202
_UNUSABLE = 1 << 16
_SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")

# Fields by the encoding of the first in a row; encodings go up by 2, and - is a field that
# struct vmcs12 lacks. SDM volume 3, appendix B.
_ROWS = {
    0x0000: "virtual_processor_id posted_intr_nv",
    0x0800: "guest_es_selector guest_cs_selector guest_ss_selector guest_ds_selector "
    "guest_fs_selector guest_gs_selector guest_ldtr_selector guest_tr_selector guest_intr_status "
    "guest_pml_index",
    0x0C00: "host_es_selector host_cs_selector host_ss_selector host_ds_selector host_fs_selector "
    "host_gs_selector host_tr_selector",
    0x2000: "io_bitmap_a io_bitmap_b msr_bitmap vm_exit_msr_store_addr vm_exit_msr_load_addr "
    "vm_entry_msr_load_addr - pml_address tsc_offset virtual_apic_page_addr apic_access_addr "
    "posted_intr_desc_addr vm_function_control ept_pointer eoi_exit_bitmap0 eoi_exit_bitmap1 "
    "eoi_exit_bitmap2 eoi_exit_bitmap3 eptp_list_address vmread_bitmap vmwrite_bitmap - "
    "xss_exit_bitmap encls_exiting_bitmap - tsc_multiplier",
    0x2400: "guest_physical_address",
    0x2800: "vmcs_link_pointer guest_ia32_debugctl guest_ia32_pat guest_ia32_efer "
    "guest_ia32_perf_global_ctrl guest_pdptr0 guest_pdptr1 guest_pdptr2 guest_pdptr3 guest_bndcfgs",
    0x2C00: "host_ia32_pat host_ia32_efer host_ia32_perf_global_ctrl",
    0x4000: "pin_based_vm_exec_control cpu_based_vm_exec_control exception_bitmap "
    "page_fault_error_code_mask page_fault_error_code_match cr3_target_count vm_exit_controls "
    "vm_exit_msr_store_count vm_exit_msr_load_count vm_entry_controls vm_entry_msr_load_count "
    "vm_entry_intr_info_field vm_entry_exception_error_code vm_entry_instruction_len tpr_threshold "
    "secondary_vm_exec_control",
    0x4400: "vm_instruction_error vm_exit_reason vm_exit_intr_info vm_exit_intr_error_code "
    "idt_vectoring_info_field idt_vectoring_error_code vm_exit_instruction_len "
    "vmx_instruction_info",
    0x4800: "guest_es_limit guest_cs_limit guest_ss_limit guest_ds_limit guest_fs_limit "
    "guest_gs_limit guest_ldtr_limit guest_tr_limit guest_gdtr_limit guest_idtr_limit "
    "guest_es_ar_bytes guest_cs_ar_bytes guest_ss_ar_bytes guest_ds_ar_bytes guest_fs_ar_bytes "
    "guest_gs_ar_bytes guest_ldtr_ar_bytes guest_tr_ar_bytes guest_interruptibility_info "
    "guest_activity_state - guest_sysenter_cs - vmx_preemption_timer_value",
    0x4C00: "host_ia32_sysenter_cs",
    0x6000: "cr0_guest_host_mask cr4_guest_host_mask cr0_read_shadow cr4_read_shadow",
    0x6400: "exit_qualification - - - - guest_linear_address",
    0x6800: "guest_cr0 guest_cr3 guest_cr4 guest_es_base guest_cs_base guest_ss_base guest_ds_base "
    "guest_fs_base guest_gs_base guest_ldtr_base guest_tr_base guest_gdtr_base guest_idtr_base "
    "guest_dr7 guest_rsp guest_rip guest_rflags guest_pending_dbg_exceptions guest_sysenter_esp "
    "guest_sysenter_eip",
    0x6C00: "host_cr0 host_cr3 host_cr4 host_fs_base host_gs_base host_tr_base host_gdtr_base "
    "host_idtr_base host_ia32_sysenter_esp host_ia32_sysenter_eip host_rsp host_rip",
}

#: The encoding of each field, for VMREAD and VMWRITE.
ENCODINGS = {
    name: first + 2 * at
    for first, row in _ROWS.items()
    for at, name in enumerate(row.split())
    if name != "-"
}


def contents(
    sregs: Any, capabilities: Mapping[int, int], guest_rip: int, host_rip: int
) -> dict[str, int]:
    """Return the fields with which L2 starts at ``guest_rip`` in the state of L1; others are 0.

    ``sregs`` are L1's (``struct kvm_sregs *``), and become host state too: after an exit L1 goes on
    at ``host_rip``. ``capabilities`` has L1's values of the MSRs in :data:`CAPABILITIES`. Raises
    :class:`~kvmtest.errors.EnvironmentUnfit` where these do not allow what L2 needs.
    """
    fields = {
        "vmcs_link_pointer": NO_PAGE,
        "virtual_apic_page_addr": lib.GUEST_VIRTUAL_APIC,
        "msr_bitmap": lib.GUEST_MSR_BITMAP,
        "guest_rip": guest_rip,
        "host_rip": host_rip,
        "guest_dr7": DR7,
        "guest_rflags": _RFLAGS,
        "guest_ldtr_ar_bytes": _UNUSABLE,
        "guest_gdtr_limit": sregs.gdt.limit,
        "guest_idtr_limit": sregs.idt.limit,
        "cr0_read_shadow": sregs.cr0,
        "cr4_read_shadow": sregs.cr4,
    }
    for name, index in CAPABILITIES.items():
        fields[name] = _controls(name, _WANTED[name], capabilities[index])
    for role in ("guest", "host"):
        for register in ("cr0", "cr3", "cr4"):
            fields[f"{role}_{register}"] = getattr(sregs, register)
        for table in ("gdt", "idt"):
            fields[f"{role}_{table}r_base"] = getattr(sregs, table).base
        for name in ("fs", "gs", "tr"):
            fields[f"{role}_{name}_base"] = getattr(sregs, name).base
        for name in (*_SEGMENTS, "tr"):
            fields[f"{role}_{name}_selector"] = getattr(sregs, name).selector
        fields[f"{role}_rsp"] = lib.GUEST_STACK
    for name in (*_SEGMENTS, "tr"):
        segment = getattr(sregs, name)
        fields[f"guest_{name}_base"] = segment.base
        fields[f"guest_{name}_limit"] = segment.limit
        fields[f"guest_{name}_ar_bytes"] = _access_rights(segment)
    return fields


def of_nested_state(state: Any) -> Any:
    """Return the ``struct vmcs12 *`` in a buffer of KVM_GET_NESTED_STATE's, a ``char[]``.

    It points into the buffer, which the caller keeps.
    """
    return ffi.cast("struct vmcs12 *", state + ffi.sizeof("struct kvm_nested_state"))


def with_fields(nested_state: bytes, **fields: int) -> bytes:
    """Return a nested state (KVM_GET_NESTED_STATE) with other values in fields of its vmcs12."""
    state: Any = ffi.from_buffer("char[]", bytearray(nested_state))
    for name, value in fields.items():
        setattr(of_nested_state(state), name, value)
    return bytes(ffi.buffer(state))


def _controls(name: str, wanted: int, capability: int) -> int:
    must, may = capability & 0xFFFF_FFFF, capability >> 32
    if lacking := wanted & ~may:
        raise EnvironmentUnfit(
            f"this KVM lets no L1 set {lacking:#x} in {name} (MSR {CAPABILITIES[name]:#x} is "
            f"{capability:#x}); load kvm_intel with nested=1 and its default parameters"
        )
    return must | wanted


def _access_rights(segment: Any) -> int:
    """Return a segment's access rights in a VMCS's format (SDM volume 3, table 25-2)."""
    return int(
        segment.type | segment.s << 4 | segment.dpl << 5 | segment.present << 7 | segment.avl << 12
        | segment.l << 13 | segment.db << 14 | segment.g << 15 | segment.unusable << 16
    )  # fmt: skip
