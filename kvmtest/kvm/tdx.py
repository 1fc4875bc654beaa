"""TDX
===

KVM's interface to Intel TDX: the sub-commands of KVM_MEMORY_ENCRYPT_OP on a VM of type
KVM_X86_TDX_VM and on its vCPUs (Documentation/virt/kvm/x86/intel-tdx.rst, Linux 6.16 and later).
A TD is made in this order::

    vm = system.create_vm(lib.KVM_X86_TDX_VM)
    vm.split_irqchip()
    can = tdx.capabilities(vm)
    tdx.init_vm(vm, can.configure(system.get_supported_cpuid()))
    memory = vm.add_private_memory(0x20000)              # and its first content, with write()
    vcpu = vm.create_vcpu()
    vcpu.set_cpuid(tdx.get_cpuid(vcpu))                  # it has x2APIC, as every TD
    tdx.init_vcpu(vcpu)
    tdx.init_mem_region(vcpu, memory, memory.guest_address, memory.size)
    tdx.finalize_vm(vm)
    vcpu.run()

No function here was run on hardware with TDX yet.
"""

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kvmtest._native import ffi, lib

from .cpuid import Cpuid, CpuidEntry
from .errors import KvmError
from .ioctl import ioctl
from .memory import Memory
from .tdx_status import status_in_words
from .vcpu import Vcpu
from .vm import Vm

__all__ = [
    "ATTRIBUTES",
    "PAGE",
    "Capabilities",
    "TdxError",
    "answer_tdvmcall",
    "capabilities",
    "finalize_vm",
    "get_cpuid",
    "init_mem_region",
    "init_vcpu",
    "init_vm",
]

#: TD attributes by name (TDX_TD_ATTR_* in arch/x86/include/asm/shared/tdx.h).
ATTRIBUTES = {
    "DEBUG": 1 << 0,
    "HGS_PLUS_PROF": 1 << 4,
    "PERF_PROF": 1 << 5,
    "PMT_PROF": 1 << 6,
    "ICSSD": 1 << 16,
    "LASS": 1 << 27,
    "SEPT_VE_DISABLE": 1 << 28,
    "MIGRATABLE": 1 << 29,
    "PKS": 1 << 30,
    "KL": 1 << 31,
    "TPA": 1 << 62,
    "PERFMON": 1 << 63,
}

PAGE = 4096
#: XFAM's two bits that every TD has: x87 and SSE.
XFAM = 0b11
#: CPUID leaf whose EAX[23:16] chooses the width of a TD's guest-physical addresses: 48 or 52.
ADDRESS_SIZES, ADDRESS_WIDTH, WIDTH_SHIFT = 0x80000008, 48, 16
#: KVM_MAX_CPUID_ENTRIES (arch/x86/include/asm/kvm_host.h).
MOST_ENTRIES = 256
#: The TDX module takes keys from the CPU's random numbers, which others may use up for a moment.
ENTROPY_TRIES = 1000
REGISTERS = ("eax", "ebx", "ecx", "edx")


class TdxError(KvmError):
    """A sub-command failed; ``hw_error`` is the SEAMCALL's status, 0 where there was none."""

    def __init__(self, command: str, number: int, on: str, hw_error: int = 0) -> None:
        super().__init__(command, number, on)
        self.hw_error = hw_error
        if hw_error:
            self.args = (f"{self}; the TDX module says {status_in_words(hw_error)}",)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """struct kvm_tdx_capabilities: what KVM and the TDX module let userspace configure.

    ``cpuid`` has the configurable bits of each leaf that INIT_VM may name.
    """

    supported_attrs: int
    supported_xfam: int
    cpuid: Cpuid
    kernel_tdvmcallinfo_1_r11: int = 0
    user_tdvmcallinfo_1_r11: int = 0
    kernel_tdvmcallinfo_1_r12: int = 0
    user_tdvmcallinfo_1_r12: int = 0

    def configure(self, wanted: Cpuid) -> Cpuid:
        """Return the table for INIT_VM: the configurable bits of ``wanted``, addresses of 48 bits.

        KVM refuses a leaf that is not configurable, and a table without leaf 0x80000008. Entries
        keep the flags of ``wanted``: KVM_TDX_CAPABILITIES has none, and without
        KVM_CPUID_FLAG_SIGNIFCANT_INDEX an entry is taken for every subleaf.
        """
        found = ((mask, wanted.find(mask.function, mask.index)) for mask in self.cpuid)
        return Cpuid(_configured(mask, entry) for mask, entry in found if entry)


def _configured(mask: CpuidEntry, wanted: CpuidEntry) -> CpuidEntry:
    values = {name: getattr(mask, name) & getattr(wanted, name) for name in REGISTERS}
    if mask.function == ADDRESS_SIZES:
        values["eax"] &= ~(0xFF << WIDTH_SHIFT)
        values["eax"] |= ADDRESS_WIDTH << WIDTH_SHIFT
    return wanted._replace(**values)


def capabilities(vm: Vm) -> Capabilities:
    """Return what TDs of this KVM may have (KVM_TDX_CAPABILITIES); raises :class:`TdxError`."""
    struct = ffi.new(
        "struct kvm_tdx_capabilities *",
        {"cpuid": {"nent": MOST_ENTRIES, "entries": MOST_ENTRIES}},
    )
    _command(vm.fd, "KVM_TDX_CAPABILITIES", _address(struct))
    return Capabilities(
        struct.supported_attrs,
        struct.supported_xfam,
        Cpuid.from_struct(struct.cpuid),
        struct.kernel_tdvmcallinfo_1_r11,
        struct.user_tdvmcallinfo_1_r11,
        struct.kernel_tdvmcallinfo_1_r12,
        struct.user_tdvmcallinfo_1_r12,
    )


def init_vm(
    vm: Vm,
    cpuid: Cpuid,
    *,
    attributes: int = 0,
    xfam: int = XFAM,
    measurements: Sequence[bytes] = (),
) -> None:
    """Make the VM a TD (KVM_TDX_INIT_VM), before its first vCPU; raises :class:`TdxError`.

    ``attributes`` combines ATTRIBUTES. ``measurements`` are up to three values of 48 bytes that a
    TD's report shows: MRCONFIGID, MROWNER and MROWNERCONFIG.
    """
    entries = [entry._asdict() for entry in cpuid]
    struct = ffi.new(
        "struct kvm_tdx_init_vm *",
        {
            "attributes": attributes,
            "xfam": xfam,
            "cpuid": {"nent": len(entries), "entries": entries},
        },
    )
    places = (struct.mrconfigid, struct.mrowner, struct.mrownerconfig)
    for place, value in zip(places, measurements, strict=False):
        ffi.buffer(place)[:] = value
    for left in reversed(range(ENTROPY_TRIES)):
        try:
            _command(vm.fd, "KVM_TDX_INIT_VM", _address(struct))
        except TdxError as error:
            if error.errno != errno.EAGAIN or not left:
                raise
        else:
            return


def init_vcpu(vcpu: Vcpu, rcx: int = 0) -> None:
    """Initialise a vCPU (KVM_TDX_INIT_VCPU); ``rcx`` is what the TD starts with in RCX and R8.

    The vCPU's CPUID must have x2APIC before. Raises :class:`TdxError`.
    """
    _command(vcpu.fd, "KVM_TDX_INIT_VCPU", rcx, on=repr(vcpu))


def init_mem_region(
    vcpu: Vcpu, source: Memory, address: int, size: int, *, measure: bool = True
) -> None:
    """Add private pages to a TD (KVM_TDX_INIT_MEM_REGION), with the content that ``source`` has.

    ``address`` and ``size`` are whole pages of ``source``, which is memory of
    :meth:`~kvmtest.kvm.Vm.add_private_memory`. ``measure`` extends the TD's measurement, MRTD, by
    the content. Raises :class:`TdxError`, or IndexError for pages that ``source`` has not.
    """
    region = ffi.new(
        "struct kvm_tdx_init_mem_region *",
        {
            "source_addr": source.host_address_of(address, size),
            "gpa": address,
            "nr_pages": size // PAGE,
        },
    )
    flags = lib.KVM_TDX_MEASURE_MEMORY_REGION if measure else 0
    # After a signal KVM has moved the region's members on, and ioctl's repetition goes on there.
    _command(vcpu.fd, "KVM_TDX_INIT_MEM_REGION", _address(region), flags, on=repr(vcpu))


def finalize_vm(vm: Vm) -> None:
    """End the measurement: the TD can run (KVM_TDX_FINALIZE_VM); raises :class:`TdxError`."""
    _command(vm.fd, "KVM_TDX_FINALIZE_VM")


def get_cpuid(vcpu: Vcpu) -> Cpuid:
    """Return the CPUID table that the TDX module shows the TD (KVM_TDX_GET_CPUID).

    Only between INIT_VM and FINALIZE_VM. Raises :class:`TdxError`.
    """
    struct = ffi.new("struct kvm_cpuid2 *", {"nent": MOST_ENTRIES, "entries": MOST_ENTRIES})
    _command(vcpu.fd, "KVM_TDX_GET_CPUID", _address(struct), on=repr(vcpu))
    return Cpuid.from_struct(struct)


def answer_tdvmcall(vcpu: Vcpu, status: int, *outputs: int) -> None:
    """Answer the TDVMCALL of a Tdx…Exit: the TD gets ``status`` in R10 when it is run again.

    ``outputs`` are R11 to R14 of get_tdvmcall_info. Status is one of TDVMCALL_STATUS_*
    (arch/x86/include/asm/shared/tdx.h), 0 for success.
    """
    overlay = ffi.cast("struct kvmtest_exit_tdx *", ffi.addressof(vcpu.kvm_run, "hw"))
    overlay.data[0] = status
    for at, value in enumerate(outputs):
        overlay.data[2 + at] = value


def _command(fd: int, command: str, data: int = 0, flags: int = 0, on: str = "") -> None:
    struct = ffi.new(
        "struct kvm_tdx_cmd *", {"id": getattr(lib, command), "flags": flags, "data": data}
    )
    try:
        ioctl(fd, "KVM_MEMORY_ENCRYPT_OP", struct)
    except KvmError as error:
        raise TdxError(command, error.errno, on, struct.hw_error) from None


def _address(struct: Any) -> int:
    return int(ffi.cast("uintptr_t", struct))
