"""One TD: the order that KVM demands, and its errors.

Each method is a branch of arch/x86/kvm/vmx/tdx.c, or of the KVM code that it relies on
(virt/kvm/kvm_main.c, guest_memfd.c), with its checks in the same order. The errors are those of
Linux 6.16 to 7.3.
"""

import errno
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple, TypeVar

from . import module
from .abi import (
    CAPABILITIES,
    FINALIZE_VM,
    GET_CPUID,
    INIT_MEM_REGION,
    INIT_VCPU,
    INIT_VM,
    MAX_CPUID_ENTRIES,
    MEASURE_MEMORY_REGION,
    MEM_GUEST_MEMFD,
    MEMORY_ATTRIBUTE_PRIVATE,
    PAGE,
    Command,
    CpuidEntry,
    InitVm,
    MemoryRegion,
)
from .measurement import Measurement

T = TypeVar("T")

_FUNCTION_X2APIC = 0x1
_ECX_X2APIC = 1 << 21
_GUEST_PHYS_BITS = 0x80000008
#: The leaf by which a TD knows that it is one: "IntelTDX    " in EBX, EDX and ECX.
IDENTITY = CpuidEntry(0x21, 0, 0, 0, 0x65746E49, 0x20202020, 0x5844546C)


class Refused(Exception):
    """KVM says no: an errno, and why. ``hw_error`` is the SEAMCALL's status, 0 without one."""

    def __init__(self, number: int, why: str, hw_error: int = 0) -> None:
        self.number = number
        self.why = why
        self.hw_error = hw_error
        super().__init__(f"{errno.errorcode[number]}: {why}")


class State(Enum):
    UNINITIALIZED = auto()
    INITIALIZED = auto()
    RUNNABLE = auto()


class Step(NamedTuple):
    """A call on the TD: what was called, its errno or 0, and why."""

    call: str
    number: int = 0
    why: str = ""


@dataclass
class TdVcpu:
    number: int
    initialized: bool = False
    rcx: int = 0
    cpuid: Sequence[CpuidEntry] = ()
    #: The exit reason of a #VE that the TD has not asked for yet.
    ve_reason: int | None = None

    @property
    def has_x2apic(self) -> bool:
        return any(e.function == _FUNCTION_X2APIC and e.ecx & _ECX_X2APIC for e in self.cpuid)


@dataclass
class Td:
    """A VM of type KVM_X86_TDX_VM, of a host with ``cpus``; ``faults`` are names in FAULTS."""

    cpus: int
    #: What the CPU has, as far as the module shows it to TDs.
    native: Sequence[CpuidEntry] = ()
    faults: Collection[str] = ()
    state: State = State.UNINITIALIZED
    attributes: int = 0
    xfam: int = 0
    #: How wide guest-physical addresses are: 48 or 52. The topmost bit marks shared memory.
    gpaw: int = 0
    cpuid: Sequence[CpuidEntry] = ()
    split_irqchip: bool = False
    vcpus: dict[int, TdVcpu] = field(default_factory=dict)
    slots: dict[int, MemoryRegion] = field(default_factory=dict)
    #: GPAs of the pages that were added, in that order.
    added: list[int] = field(default_factory=list)
    mrtd: bytes = b""
    steps: list[Step] = field(default_factory=list)
    _private: list[tuple[int, int, bool]] = field(default_factory=list)
    _measurement: Measurement = field(default_factory=Measurement)

    def step(self, call: str, make: Callable[[], T]) -> T:
        """Make a call, and keep it with its outcome among the steps."""
        try:
            result = make()
        except Refused as refused:
            self.steps.append(Step(call, refused.number, refused.why))
            raise
        self.steps.append(Step(call))
        return result

    # VM

    def check(self, command: Command, *, of_vcpu: bool) -> None:
        """tdx_get_cmd, and which commands a VM or a vCPU has."""
        is_late = self.state is State.RUNNABLE and self._accepts("order-memory")
        if of_vcpu and self.state is not State.INITIALIZED and not is_late:
            raise Refused(errno.EINVAL, f"{command.name} of a vCPU while the TD is {self._is()}")
        if command.hw_error:
            raise Refused(errno.EINVAL, "hw_error is not 0")
        known = (
            (INIT_VCPU, INIT_MEM_REGION, GET_CPUID)
            if of_vcpu
            else (CAPABILITIES, INIT_VM, FINALIZE_VM)
        )
        if command.id not in known:
            whose = "vCPU" if of_vcpu else "VM"
            raise Refused(errno.EINVAL, f"{command.name} is no command of a {whose}")

    @property
    def supported_attributes(self) -> int:
        """What KVM_TDX_CAPABILITIES says of attributes."""
        offered = "debug-offered" in self.faults
        return module.SUPPORTED_ATTRIBUTES | (module.ATTRIBUTE_DEBUG if offered else 0)

    def capabilities(self, flags: int, nent: int) -> Sequence[CpuidEntry]:
        """tdx_get_capabilities, its leaves."""
        if flags:
            raise Refused(errno.EINVAL, "flags are not 0")
        if nent < len(module.CONFIGURABLE):
            raise Refused(errno.E2BIG, f"room for {nent} CPUID entries")
        return module.CONFIGURABLE

    def init_vm(
        self, flags: int, parameters: InitVm, padding: int, cpuid: Sequence[CpuidEntry]
    ) -> None:
        """tdx_td_init, setup_tdparams, and the module's TDH.MNG.INIT."""
        if self.state is not State.UNINITIALIZED and not self._accepts("order-init-vm"):
            raise Refused(errno.EINVAL, "the TD is initialised already")
        if flags:
            raise Refused(errno.EINVAL, "flags are not 0")
        if len(cpuid) > MAX_CPUID_ENTRIES:
            raise Refused(errno.E2BIG, f"{len(cpuid)} CPUID entries")
        if any(parameters.reserved) or padding:
            raise Refused(errno.EINVAL, "a reserved field is not 0")
        if self.vcpus:
            raise Refused(errno.EBUSY, "there are vCPUs already")
        if extra := parameters.attributes & ~self._attributes():
            raise Refused(errno.EINVAL, f"attributes {extra:#x} are not supported")
        if extra := parameters.xfam & ~module.SUPPORTED_XFAM:
            raise Refused(errno.EINVAL, f"XFAM bits {extra:#x} are not supported")
        gpaw = _gpaw(cpuid)
        for entry in cpuid:
            if not module.configurable(entry.function, entry.index):
                leaf = f"{entry.function:#x}/{entry.index}"
                raise Refused(errno.EINVAL, f"CPUID leaf {leaf} can't be chosen")
            if module.refused_by_kvm(entry):
                raise Refused(errno.EINVAL, f"CPUID leaf {entry.function:#x} has TSX or WAITPKG")
        if error := module.hw_error(parameters.xfam, cpuid):
            raise Refused(errno.EINVAL, f"TDH.MNG.INIT: {error:#x}", error)
        self.attributes, self.xfam = parameters.attributes, parameters.xfam
        self.gpaw, self.cpuid = gpaw, cpuid
        self.state = State.INITIALIZED

    def enable_split_irqchip(self) -> None:
        self.split_irqchip = True

    def create_vcpu(self, number: int) -> TdVcpu:
        """kvm_vm_ioctl_create_vcpu, vt_vcpu_precreate and tdx_vcpu_create."""
        if number >= self.cpus:
            raise Refused(errno.EINVAL, f"vCPU {number} of at most {self.cpus}")
        if number in self.vcpus:
            raise Refused(errno.EEXIST, f"there is a vCPU {number}")
        if self.state is not State.INITIALIZED and not self._accepts("order-vcpu"):
            raise Refused(errno.EIO, f"a vCPU while the TD is {self._is()}")
        if not self.split_irqchip:
            raise Refused(errno.EINVAL, "the vCPU has no local APIC in the kernel")
        self.vcpus[number] = vcpu = TdVcpu(number)
        return vcpu

    def set_memory_region(self, region: MemoryRegion, file_size: int | None) -> None:
        """kvm_set_memory_region and kvm_gmem_bind; ``file_size`` is None without a guest_memfd."""
        if region.flags & ~MEM_GUEST_MEMFD:
            raise Refused(errno.EINVAL, f"flags {region.flags:#x} of a TD's slot")
        place = (region.guest_phys_addr, region.memory_size, region.userspace_addr)
        if any(value % PAGE for value in place):
            raise Refused(errno.EINVAL, "the slot is not of whole pages")
        if region.flags & MEM_GUEST_MEMFD:
            if file_size is None:
                raise Refused(errno.EBADF, "the slot's guest_memfd is none")
            if region.guest_memfd_offset % PAGE:
                raise Refused(errno.EINVAL, "guest_memfd_offset is not of whole pages")
            if region.guest_memfd_offset + region.memory_size > file_size:
                raise Refused(errno.EINVAL, "the slot ends behind its guest_memfd")
        if not region.memory_size:
            if region.slot not in self.slots:
                raise Refused(errno.EINVAL, f"there is no slot {region.slot}")
            del self.slots[region.slot]
            return
        if region.slot in self.slots and self.slots[region.slot].flags & MEM_GUEST_MEMFD:
            raise Refused(errno.EINVAL, "a slot with a guest_memfd can't be changed")
        for other in self.slots.values():
            if other.slot != region.slot and _overlap(other, region):
                raise Refused(errno.EEXIST, f"the slot overlaps slot {other.slot}")
        self.slots[region.slot] = region

    def set_memory_attributes(self, address: int, size: int, attributes: int, flags: int) -> None:
        """kvm_vm_ioctl_set_mem_attributes."""
        if flags or attributes & ~MEMORY_ATTRIBUTE_PRIVATE:
            raise Refused(errno.EINVAL, "unknown flags or attributes")
        if not size or address % PAGE or size % PAGE or address + size >= 1 << 64:
            raise Refused(errno.EINVAL, "the range is empty or not of whole pages")
        self._private.append((address, address + size, bool(attributes)))

    def finalize(self, flags: int) -> None:
        """tdx_td_finalize. KVM does not look at the flags."""
        if self.state is not State.INITIALIZED and not self._accepts("order-finalize"):
            raise Refused(errno.EINVAL, f"the TD is {self._is()}")
        self.mrtd = self._measurement.value()
        self.state = State.RUNNABLE

    # vCPU

    def init_vcpu(self, vcpu: TdVcpu, flags: int, rcx: int) -> None:
        """tdx_vcpu_init."""
        if flags:
            raise Refused(errno.EINVAL, "flags are not 0")
        if vcpu.initialized and not self._accepts("order-init-vcpu"):
            raise Refused(errno.EINVAL, "the vCPU is initialised already")
        if not vcpu.has_x2apic:
            raise Refused(errno.EINVAL, "the vCPU's CPUID is without x2APIC")
        vcpu.initialized, vcpu.rcx = True, rcx

    def check_mem_region(self, vcpu: TdVcpu, flags: int, source: int, gpa: int, pages: int) -> None:
        """The checks of tdx_vcpu_init_mem_region before its first page."""
        if not vcpu.initialized and not self._accepts("order-memory"):
            raise Refused(errno.EINVAL, "the vCPU is not initialised")
        if flags & ~MEASURE_MEMORY_REGION:
            raise Refused(errno.EINVAL, f"flags {flags:#x}")
        if not source or source % PAGE or gpa % PAGE or not pages:
            raise Refused(errno.EINVAL, "source, GPA or number of pages are 0 or not whole pages")
        last = gpa + pages * PAGE - 1
        if last >= 1 << 64 or last & self.shared_bit or gpa & self.shared_bit:
            raise Refused(errno.EINVAL, f"GPA {gpa:#x} is shared")

    def check_page(self, gpa: int) -> None:
        """kvm_gmem_populate for one page."""
        slot = self.slot_of(gpa)
        if slot is None or not slot.flags & MEM_GUEST_MEMFD:
            raise Refused(errno.EINVAL, f"GPA {gpa:#x} is in no slot with a guest_memfd")
        if not self.is_private(gpa):
            raise Refused(errno.EINVAL, f"GPA {gpa:#x} has no attribute PRIVATE")
        if gpa in self.added:
            raise Refused(errno.EEXIST, f"GPA {gpa:#x} was added already")

    def add_page(self, gpa: int, content: bytes, flags: int) -> None:
        """TDH.MEM.PAGE.ADD, and TDH.MR.EXTEND where the page is to be measured."""
        self.check_page(gpa)
        self.added.append(gpa)
        self._measurement.add_page(gpa)
        if flags & MEASURE_MEMORY_REGION:
            self._measurement.extend(gpa, content)

    @property
    def virtual_cpuid(self) -> Sequence[CpuidEntry]:
        """What the module shows the TD: the CPU's own bits, and those that userspace chose."""
        chosen = {(entry.function, entry.index): entry for entry in self.cpuid}
        own = [_virtual(entry, chosen.get(entry[:2])) for entry in self.native]
        return [*(each for each in own if each.function != IDENTITY.function), IDENTITY]

    def check_run(self, vcpu: TdVcpu) -> None:
        """tdx_vcpu_pre_run."""
        is_ready = vcpu.initialized and self.state is State.RUNNABLE
        if not is_ready and not self._accepts("order-run"):
            raise Refused(errno.EINVAL, f"KVM_RUN while the TD is {self._is()}")

    # Memory

    @property
    def shared_bit(self) -> int:
        return 1 << (self.gpaw - 1)

    def slot_of(self, gpa: int) -> MemoryRegion | None:
        for slot in self.slots.values():
            if slot.guest_phys_addr <= gpa < slot.guest_phys_addr + slot.memory_size:
                return slot
        return None

    def is_private(self, gpa: int) -> bool:
        for start, end, private in reversed(self._private):
            if start <= gpa < end:
                return private
        return False

    def added_ranges(self) -> list[tuple[int, int]]:
        """Return the added memory as ranges (GPA, size), none across the end of a slot."""
        ranges: list[tuple[int, int]] = []
        for gpa in sorted(self.added):
            if ranges and sum(ranges[-1]) == gpa and self.slot_of(gpa) is self.slot_of(gpa - 1):
                ranges[-1] = (ranges[-1][0], ranges[-1][1] + PAGE)
            else:
                ranges.append((gpa, PAGE))
        return ranges

    def _accepts(self, fault: str) -> bool:
        return fault in self.faults

    def _attributes(self) -> int:
        supported = module.SUPPORTED_ATTRIBUTES
        if {"debug-accepted", "debug-offered"} & set(self.faults):
            supported |= module.ATTRIBUTE_DEBUG
        if "perfmon-accepted" in self.faults:
            supported |= module.ATTRIBUTE_PERFMON
        return supported

    def _is(self) -> str:
        return self.state.name.lower()


def _gpaw(cpuid: Sequence[CpuidEntry]) -> int:
    """setup_tdparams_eptp_controls; the stand-in's CPU has no EPT of five levels."""
    entry = next((e for e in cpuid if (e.function, e.index) == (_GUEST_PHYS_BITS, 0)), None)
    if entry is None:
        raise Refused(errno.EINVAL, "CPUID leaf 0x80000008 is missing")
    bits = entry.eax >> 16 & 0xFF
    if bits != 48:
        raise Refused(errno.EINVAL, f"guest-physical addresses of {bits} bits")
    return bits


def _virtual(native: CpuidEntry, chosen: CpuidEntry | None) -> CpuidEntry:
    values = native[3:]
    mask = module.configurable(native.function, native.index)
    if mask:
        own = chosen[3:] if chosen else (0,) * 4
        bits = zip(native[3:], mask[3:], own, strict=True)
        values = tuple(value & ~may | given for value, may, given in bits)
    entry = CpuidEntry(*native[:3], *values)
    if native.function == _FUNCTION_X2APIC:
        return entry._replace(ecx=entry.ecx | _ECX_X2APIC)
    if native.function == 0:
        return entry._replace(eax=max(entry.eax, IDENTITY.function))
    return entry


def _overlap(one: MemoryRegion, other: MemoryRegion) -> bool:
    return (
        one.guest_phys_addr < other.guest_phys_addr + other.memory_size
        and other.guest_phys_addr < one.guest_phys_addr + one.memory_size
    )
