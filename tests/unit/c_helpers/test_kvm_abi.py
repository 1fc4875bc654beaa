"""The KVM ABI as the native module was built: numbers, sizes and offsets, typed in once more here.

They are those of the uapi headers of Linux 7.2. What c_helpers/kvm_abi.h declares must have them
whichever headers are installed; the others have not changed since they came.
"""

import re
from pathlib import Path

import pytest

from kvmtest._native import ffi, lib

# Declared by c_helpers/kvm_abi.h where the headers do not know them.
NUMBERS = {
    "KVM_CAP_USER_MEMORY2": 231,
    "KVM_CAP_MEMORY_FAULT_INFO": 232,
    "KVM_CAP_MEMORY_ATTRIBUTES": 233,
    "KVM_CAP_GUEST_MEMFD": 234,
    "KVM_CAP_VM_TYPES": 235,
    "KVM_CAP_PRE_FAULT_MEMORY": 236,
    "KVM_CAP_X86_APIC_BUS_CYCLES_NS": 237,
    "KVM_CAP_X86_GUEST_MODE": 238,
    "KVM_EXIT_MEMORY_FAULT": 39,
    "KVM_EXIT_TDX": 40,
    "KVM_SYSTEM_EVENT_TDX_FATAL": 7,
    "KVM_X86_QUIRK_SLOT_ZAP_ALL": 0x80,
    "KVM_X86_QUIRK_STUFF_FEATURE_MSRS": 0x100,
    "KVM_X86_QUIRK_IGNORE_GUEST_PAT": 0x200,
    "KVM_X86_QUIRK_VMCS12_ALLOW_FREEZE_IN_SMM": 0x400,
    "KVM_X86_DEFAULT_VM": 0,
    "KVM_X86_SW_PROTECTED_VM": 1,
    "KVM_X86_SEV_VM": 2,
    "KVM_X86_SEV_ES_VM": 3,
    "KVM_X86_SNP_VM": 4,
    "KVM_X86_TDX_VM": 5,
    "KVM_MEM_GUEST_MEMFD": 4,
    "KVM_SET_USER_MEMORY_REGION2": 0x40A0AE49,
    "KVM_SET_MEMORY_ATTRIBUTES": 0x4020AED2,
    "KVM_MEMORY_ATTRIBUTE_PRIVATE": 8,
    "KVM_CREATE_GUEST_MEMFD": 0xC040AED4,
    "KVM_TDX_CAPABILITIES": 0,
    "KVM_TDX_INIT_VM": 1,
    "KVM_TDX_INIT_VCPU": 2,
    "KVM_TDX_INIT_MEM_REGION": 3,
    "KVM_TDX_FINALIZE_VM": 4,
    "KVM_TDX_GET_CPUID": 5,
    "KVM_TDX_MEASURE_MEMORY_REGION": 1,
}

# As old as the interface, or nearly.
OLD_NUMBERS = {
    "KVM_API_VERSION": 12,
    "KVM_GET_API_VERSION": 0xAE00,
    "KVM_CREATE_VM": 0xAE01,
    "KVM_CHECK_EXTENSION": 0xAE03,
    "KVM_GET_VCPU_MMAP_SIZE": 0xAE04,
    "KVM_GET_SUPPORTED_CPUID": 0xC008AE05,
    "KVM_CREATE_VCPU": 0xAE41,
    "KVM_SET_USER_MEMORY_REGION": 0x4020AE46,
    "KVM_CREATE_IRQCHIP": 0xAE60,
    "KVM_RUN": 0xAE80,
    "KVM_GET_REGS": 0x8090AE81,
    "KVM_SET_REGS": 0x4090AE82,
    "KVM_GET_SREGS": 0x8138AE83,
    "KVM_SET_SREGS": 0x4138AE84,
    "KVM_INTERRUPT": 0x4004AE86,
    "KVM_GET_MSRS": 0xC008AE88,
    "KVM_SET_MSRS": 0x4008AE89,
    "KVM_SET_CPUID2": 0x4008AE90,
    "KVM_GET_CPUID2": 0xC008AE91,
    "KVM_NMI": 0xAE9A,
    "KVM_SET_GUEST_DEBUG": 0x4048AE9B,
    "KVM_GET_VCPU_EVENTS": 0x8040AE9F,
    "KVM_ENABLE_CAP": 0x4068AEA3,
    "KVM_SMI": 0xAEB7,
    "KVM_MEMORY_ENCRYPT_OP": 0xC008AEBA,
    "KVM_GET_NESTED_STATE": 0xC080AEBE,
    "KVM_SET_NESTED_STATE": 0x4080AEBF,
    "KVM_GET_STATS_FD": 0xAECE,
    "KVM_EXIT_IO": 2,
    "KVM_EXIT_DEBUG": 4,
    "KVM_EXIT_HLT": 5,
    "KVM_EXIT_MMIO": 6,
    "KVM_EXIT_SHUTDOWN": 8,
    "KVM_EXIT_FAIL_ENTRY": 9,
    "KVM_EXIT_INTERNAL_ERROR": 17,
}

SIZES = {
    "kvm_userspace_memory_region2": 160,
    "kvm_memory_attributes": 32,
    "kvm_create_guest_memfd": 64,
    "kvm_tdx_cmd": 24,
    "kvm_tdx_capabilities": 2056,
    "kvm_tdx_init_vm": 264,
    "kvm_tdx_init_mem_region": 24,
    "kvmtest_exit_memory_fault": 24,
    "kvmtest_exit_tdx": 64,
    "kvmtest_exit_hypercall": 72,
    "kvm_run": 2352,
    "kvm_regs": 144,
    "kvm_segment": 24,
    "kvm_sregs": 312,
    "kvm_debugregs": 128,
    "kvm_vcpu_events": 64,
    "kvm_mp_state": 4,
    "kvm_guest_debug": 72,
    "kvm_interrupt": 4,
    "kvm_cpuid_entry2": 40,
    "kvm_cpuid2": 8,
    "kvm_msr_entry": 16,
    "kvm_msrs": 8,
    "kvm_msr_list": 4,
    "kvm_userspace_memory_region": 32,
    "kvm_enable_cap": 104,
    "kvm_nested_state": 128,
    "kvm_sync_regs": 520,
    "kvm_stats_header": 24,
    "kvm_stats_desc": 16,
}

OFFSETS = {
    "kvm_userspace_memory_region2": {
        "slot": 0,
        "flags": 4,
        "guest_phys_addr": 8,
        "memory_size": 16,
        "userspace_addr": 24,
        "guest_memfd_offset": 32,
        "guest_memfd": 40,
    },
    "kvm_memory_attributes": {"address": 0, "size": 8, "attributes": 16, "flags": 24},
    "kvm_create_guest_memfd": {"size": 0, "flags": 8, "reserved": 16},
    "kvm_tdx_cmd": {"id": 0, "flags": 4, "data": 8, "hw_error": 16},
    "kvm_tdx_capabilities": {
        "supported_attrs": 0,
        "supported_xfam": 8,
        "kernel_tdvmcallinfo_1_r11": 16,
        "user_tdvmcallinfo_1_r11": 24,
        "kernel_tdvmcallinfo_1_r12": 32,
        "user_tdvmcallinfo_1_r12": 40,
        "cpuid": 2048,
    },
    "kvm_tdx_init_vm": {
        "attributes": 0,
        "xfam": 8,
        "mrconfigid": 16,
        "mrowner": 64,
        "mrownerconfig": 112,
        "cpuid": 256,
    },
    "kvm_tdx_init_mem_region": {"source_addr": 0, "gpa": 8, "nr_pages": 16},
    # From the start of kvm_run's union, which is at 32.
    "kvmtest_exit_memory_fault": {"flags": 0, "gpa": 8, "size": 16},
    "kvmtest_exit_tdx": {"flags": 0, "nr": 8, "data": 16},
    "kvmtest_exit_hypercall": {"nr": 0, "args": 8, "ret": 56, "flags": 64},
    "kvm_run": {
        "immediate_exit": 1,
        "exit_reason": 8,
        "cr8": 16,
        "apic_base": 24,
        "hw": 32,
        "io": 32,
        "mmio": 32,
        "internal": 32,
        "system_event": 32,
        "msr": 32,
        "kvm_valid_regs": 288,
        "kvm_dirty_regs": 296,
        "s": 304,
    },
}

# Members of the nameless structures in kvm_run, from kvm_run's start.
IN_KVM_RUN = {
    ("io", "direction"): 32,
    ("io", "size"): 33,
    ("io", "port"): 34,
    ("io", "count"): 36,
    ("io", "data_offset"): 40,
    ("mmio", "phys_addr"): 32,
    ("mmio", "data"): 40,
    ("mmio", "len"): 48,
    ("mmio", "is_write"): 52,
    ("fail_entry", "cpu"): 40,
    ("internal", "suberror"): 32,
    ("internal", "ndata"): 36,
    ("internal", "data"): 40,
    ("system_event", "type"): 32,
    ("system_event", "ndata"): 36,
    ("system_event", "data"): 40,
    ("msr", "reason"): 40,
    ("msr", "index"): 44,
    ("msr", "data"): 48,
    ("debug", "arch"): 32,
}


@pytest.mark.parametrize(("name", "value"), list((NUMBERS | OLD_NUMBERS).items()))
def test_a_number_is_the_kernels(name: str, value: int) -> None:
    assert getattr(lib, name) == value


@pytest.mark.parametrize(("name", "size"), list(SIZES.items()))
def test_a_structure_has_the_kernels_size(name: str, size: int) -> None:
    assert ffi.sizeof(f"struct {name}") == size


@pytest.mark.parametrize(
    ("name", "member", "offset"),
    [(name, member, at) for name, members in OFFSETS.items() for member, at in members.items()],
)
def test_a_member_is_where_the_kernel_has_it(name: str, member: str, offset: int) -> None:
    assert ffi.offsetof(f"struct {name}", member) == offset


@pytest.mark.parametrize(("path", "offset"), list(IN_KVM_RUN.items()))
def test_a_member_of_an_exit_is_where_the_kernel_has_it(path: tuple[str, str], offset: int) -> None:
    assert ffi.offsetof("struct kvm_run", *path) == offset


def test_every_structure_that_cffi_knows_agrees_with_the_compiler() -> None:
    """A layout that differs is refused at a structure's first use: use each."""
    typedefs, structures, unions = ffi.list_types()
    known = [f"struct {name}" for name in structures if not name.startswith("$")]
    assert len(known) > 50
    for name in [*typedefs, *known, *(f"union {name}" for name in unions)]:
        if name.removeprefix("struct ").startswith(("_", "FILE")):
            continue
        assert ffi.typeof(name).kind
        if ffi.typeof(name).kind == "struct" and ffi.typeof(name).fields is not None:
            assert ffi.sizeof(name) >= 0


def test_every_number_of_our_own_declarations_is_checked_here() -> None:
    header = Path(__file__).parents[3] / "c_helpers" / "kvm_abi.h"
    if not header.exists():
        pytest.skip("needs the source tree: c_helpers/kvm_abi.h")
    text = header.read_text()
    defined = set(re.findall(r"^#define (KVM_\w+) ", text, re.M))
    defined |= set(re.findall(r"^\t(KVM_TDX_\w+)[,= ]", text, re.M)) - {"KVM_TDX_CMD_NR_MAX"}
    assert defined == NUMBERS.keys()
    declared = set(re.findall(r"^struct (kvm\w+) \{", text, re.M))
    assert declared <= SIZES.keys() & OFFSETS.keys()
