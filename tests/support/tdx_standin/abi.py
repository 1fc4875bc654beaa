"""KVM's interface as bytes: numbers and layouts of include/uapi/linux/kvm.h and asm/kvm.h.

They are written down here again, apart from kvmtest's own: what both took from one place would
never disagree.
"""

import struct
from typing import NamedTuple, Self

# System
CREATE_VM = 0xAE01
CHECK_EXTENSION = 0xAE03
GET_SUPPORTED_CPUID = 0xC008AE05
# VM
CREATE_VCPU = 0xAE41
SET_USER_MEMORY_REGION = 0x4020AE46
SET_TSS_ADDR = 0xAE47
SET_IDENTITY_MAP_ADDR = 0x4008AE48
SET_USER_MEMORY_REGION2 = 0x40A0AE49
ENABLE_CAP = 0x4068AEA3
GET_TSC_KHZ = 0xAEA3
MEMORY_ENCRYPT_OP = 0xC008AEBA
X86_SET_MSR_FILTER = 0x4188AEC6
GET_STATS_FD = 0xAECE
SET_MEMORY_ATTRIBUTES = 0x4020AED2
CREATE_GUEST_MEMFD = 0xC040AED4
# vCPU
RUN = 0xAE80
SET_REGS = 0x4090AE82
SET_SREGS = 0x4138AE84
GET_MSRS = 0xC008AE88
SET_MSRS = 0x4008AE89
SET_SIGNAL_MASK = 0x4004AE8B
SET_CPUID2 = 0x4008AE90
GET_CPUID2 = 0xC008AE91
SET_MP_STATE = 0x4004AE99
GET_MP_STATE = 0x8004AE98

CAP_MAX_VCPUS = 66
CAP_SPLIT_IRQCHIP = 121
CAP_X86_SMM = 117
CAP_X86_USER_SPACE_MSR = 188
CAP_PMU_CAPABILITY = 212
CAP_USER_MEMORY2 = 231
CAP_MEMORY_ATTRIBUTES = 233
CAP_GUEST_MEMFD = 234
CAP_VM_TYPES = 235

TDX_VM = 5
MEM_GUEST_MEMFD = 1 << 2
MEMORY_ATTRIBUTE_PRIVATE = 1 << 3
MAX_CPUID_ENTRIES = 256
PAGE = 4096

# Commands of KVM_MEMORY_ENCRYPT_OP (Documentation/virt/kvm/x86/intel-tdx.rst)
CAPABILITIES, INIT_VM, INIT_VCPU, INIT_MEM_REGION, FINALIZE_VM, GET_CPUID = range(6)
COMMANDS = (
    "KVM_TDX_CAPABILITIES",
    "KVM_TDX_INIT_VM",
    "KVM_TDX_INIT_VCPU",
    "KVM_TDX_INIT_MEM_REGION",
    "KVM_TDX_FINALIZE_VM",
    "KVM_TDX_GET_CPUID",
)
MEASURE_MEMORY_REGION = 1 << 0


COMMAND = struct.Struct("<IIQQ")


class Command(NamedTuple):
    """struct kvm_tdx_cmd."""

    id: int
    flags: int
    data: int
    hw_error: int

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        return cls(*COMMAND.unpack(data))

    def pack(self) -> bytes:
        return COMMAND.pack(*self)

    @property
    def name(self) -> str:
        return COMMANDS[self.id] if self.id < len(COMMANDS) else f"sub-command {self.id}"


CPUID_ENTRY = struct.Struct("<7I12x")


class CpuidEntry(NamedTuple):
    """struct kvm_cpuid_entry2."""

    function: int
    index: int
    flags: int
    eax: int
    ebx: int
    ecx: int
    edx: int

    @classmethod
    def unpack_all(cls, data: bytes) -> tuple[Self, ...]:
        return tuple(cls(*fields) for fields in CPUID_ENTRY.iter_unpack(data))

    def pack(self) -> bytes:
        return CPUID_ENTRY.pack(*self)


#: The head of struct kvm_cpuid2: nent, padding.
CPUID_HEAD = struct.Struct("<II")


INIT_VM_HEAD = struct.Struct("<QQ48s48s48s96s")


class InitVm(NamedTuple):
    """struct kvm_tdx_init_vm without its CPUID."""

    attributes: int
    xfam: int
    mrconfigid: bytes
    mrowner: bytes
    mrownerconfig: bytes
    reserved: bytes

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        return cls(*INIT_VM_HEAD.unpack(data))


MEMORY_REGION = struct.Struct("<IIQQQQI116x")


class MemoryRegion(NamedTuple):
    """struct kvm_userspace_memory_region2, whose first 32 bytes are the older structure."""

    slot: int
    flags: int
    guest_phys_addr: int
    memory_size: int
    userspace_addr: int
    guest_memfd_offset: int
    guest_memfd: int

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        return cls(*MEMORY_REGION.unpack(data))


#: struct kvm_tdx_init_mem_region: source_addr, gpa, nr_pages.
MEM_REGION = struct.Struct("<QQQ")
#: struct kvm_memory_attributes: address, size, attributes, flags.
MEMORY_ATTRIBUTES = struct.Struct("<QQQQ")
#: struct kvm_create_guest_memfd: size, flags, reserved.
GUEST_MEMFD = struct.Struct("<QQ48s")
#: struct kvm_enable_cap: cap, flags, args.
CAP_ENABLING = struct.Struct("<II4Q64x")
#: struct kvm_tdx_capabilities up to its CPUID.
TDX_CAPABILITIES = struct.Struct("<6Q2000x")
CAP_SIZE = CAP_ENABLING.size
OLD_MEMORY_REGION_SIZE = 32

#: struct kvm_msr_filter_range: flags, nmsrs, base, bitmap; a filter has sixteen.
_MSR_RANGE = struct.Struct("<III4xQ")
_MSR_RANGES = 16
MSR_FILTER_SIZE = 8 + _MSR_RANGES * _MSR_RANGE.size


def msr_filter(ranges: list[tuple[int, int, int, int]]) -> bytes:
    """Return a struct kvm_msr_filter that denies all MSRs but those of the ranges."""
    data = struct.pack("<II", 1, 0) + b"".join(_MSR_RANGE.pack(*each) for each in ranges)
    return data.ljust(MSR_FILTER_SIZE, b"\0")


def old_memory_region(slot: int, gpa: int, size: int, address: int) -> bytes:
    """Return a struct kvm_userspace_memory_region."""
    return struct.pack("<IIQQQ", slot, 0, gpa, size, address)
