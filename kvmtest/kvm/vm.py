"""VM
==

A virtual machine: its memory slots and its vCPUs. Closing it closes all of them.
"""

import os
from typing import Any

from kvmtest._native import ffi, lib

from .errors import CapabilityMissing
from .ioctl import ioctl
from .memory import Memory
from .stats import Stats
from .vcpu import Vcpu

__all__ = ["Vm"]


class Vm:
    """One VM; made by :meth:`kvmtest.kvm.system.System.create_vm`."""

    def __init__(self, fd: int, vcpu_mmap_size: int) -> None:
        self.fd = fd
        self._vcpu_mmap_size = vcpu_mmap_size
        self.vcpus: list[Vcpu] = []
        self.memories: list[Memory] = []
        self._next_slot = 0
        self._stats: Stats | None = None

    def _ioctl(self, name: str, argument: Any = 0) -> int:
        return ioctl(self.fd, name, argument)

    def check_extension(self, capability: str) -> int:
        """Return what KVM_CHECK_EXTENSION says of a capability, e.g. "KVM_CAP_X86_SMM"; 0 is no."""
        return self._ioctl("KVM_CHECK_EXTENSION", getattr(lib, capability))

    def require(self, capability: str) -> int:
        """Return the capability's value; raises :class:`CapabilityMissing` where it is 0."""
        value = self.check_extension(capability)
        if not value:
            raise CapabilityMissing(capability)
        return value

    def enable_cap(self, capability: str, *arguments: int, flags: int = 0) -> None:
        """Enable a capability of the VM (KVM_ENABLE_CAP) with up to four arguments."""
        padded = [*arguments, 0, 0, 0, 0][:4]
        enable = ffi.new(
            "struct kvm_enable_cap *",
            {"cap": getattr(lib, capability), "flags": flags, "args": padded},
        )
        self._ioctl("KVM_ENABLE_CAP", enable)

    def disable_pmu(self) -> bool:
        """Withhold the PMU from guests; before the first vCPU. Tell whether this KVM can.

        Before Linux kernel commit ba7bb663f554 ("KVM: x86: Provide per VM capability for disabling
        PMU virtualization") (in v5.18), it can't. With module parameter enable_pmu=N no VM has one.
        """
        offered = self.check_extension("KVM_CAP_PMU_CAPABILITY") & lib.KVM_PMU_CAP_DISABLE
        if offered:
            self.enable_cap("KVM_CAP_PMU_CAPABILITY", lib.KVM_PMU_CAP_DISABLE)
        return bool(offered)

    def add_memory(self, size: int, guest_address: int = 0, *, flags: int = 0) -> Memory:
        """Give the guest ``size`` bytes (a multiple of the page) of zeroed memory in a slot.

        ``flags`` are KVM_MEM_*. The memory lives as long as the VM.
        """
        memory = Memory(size, guest_address)
        self.memories.append(memory)
        self.set_user_memory_region(self._next_slot, memory, flags=flags)
        self._next_slot += 1
        return memory

    def set_user_memory_region(
        self, slot: int, memory: Memory, *, flags: int = 0, address_space: int = 0
    ) -> None:
        """Put memory into a slot (KVM_SET_USER_MEMORY_REGION).

        Address space 1 is what the guest sees in SMM (KVM_CAP_MULTI_ADDRESS_SPACE).
        """
        region = ffi.new("struct kvm_userspace_memory_region *")
        region.slot = slot | address_space << 16
        region.flags = flags
        region.guest_phys_addr = memory.guest_address
        region.memory_size = memory.size
        region.userspace_addr = memory.host_address
        self._ioctl("KVM_SET_USER_MEMORY_REGION", region)

    def add_private_memory(self, size: int, guest_address: int = 0) -> Memory:
        """Give the guest memory that the host can't see, in a slot; whole pages, both.

        The result's content is what a TD's first content is copied from. Raises
        :class:`CapabilityMissing` where VMs of this type have no private memory.
        """
        for capability in ("KVM_CAP_USER_MEMORY2", "KVM_CAP_GUEST_MEMFD"):
            self.require(capability)
        if not self.require("KVM_CAP_MEMORY_ATTRIBUTES") & lib.KVM_MEMORY_ATTRIBUTE_PRIVATE:
            raise CapabilityMissing("KVM_CAP_MEMORY_ATTRIBUTES with KVM_MEMORY_ATTRIBUTE_PRIVATE")
        memory = Memory(size, guest_address, self.create_guest_memfd(size))
        self.memories.append(memory)
        self.set_user_memory_region2(self._next_slot, memory)
        self._next_slot += 1
        self.set_memory_attributes(guest_address, size, lib.KVM_MEMORY_ATTRIBUTE_PRIVATE)
        return memory

    def create_guest_memfd(self, size: int, flags: int = 0) -> int:
        """Return a descriptor of private memory of this VM (KVM_CREATE_GUEST_MEMFD)."""
        create = ffi.new("struct kvm_create_guest_memfd *", {"size": size, "flags": flags})
        return self._ioctl("KVM_CREATE_GUEST_MEMFD", create)

    def set_user_memory_region2(
        self, slot: int, memory: Memory, *, flags: int = 0, offset: int = 0
    ) -> None:
        """Put memory into a slot (KVM_SET_USER_MEMORY_REGION2), with its guest_memfd if it has one.

        The slot's private pages are those from ``offset`` on in the guest_memfd.
        """
        region = ffi.new("struct kvm_userspace_memory_region2 *")
        region.slot = slot
        region.flags = flags
        region.guest_phys_addr = memory.guest_address
        region.memory_size = memory.size
        region.userspace_addr = memory.host_address
        if memory.guest_memfd >= 0:
            region.flags |= lib.KVM_MEM_GUEST_MEMFD
            region.guest_memfd = memory.guest_memfd
            region.guest_memfd_offset = offset
        self._ioctl("KVM_SET_USER_MEMORY_REGION2", region)

    def set_memory_attributes(self, address: int, size: int, attributes: int) -> None:
        """Set the attributes of whole pages, KVM_MEMORY_ATTRIBUTE_* (KVM_SET_MEMORY_ATTRIBUTES)."""
        struct = ffi.new(
            "struct kvm_memory_attributes *",
            {"address": address, "size": size, "attributes": attributes},
        )
        self._ioctl("KVM_SET_MEMORY_ATTRIBUTES", struct)

    def set_tss_addr(self, address: int) -> None:
        """Give KVM three pages below 4 GiB, outside every slot; before the first vCPU.

        Intel hosts without unrestricted guest run real mode in vm86 mode, whose TSS is there
        (Documentation/virt/kvm/api.rst, 4.35).
        """
        self._ioctl("KVM_SET_TSS_ADDR", address)

    def create_irqchip(self) -> None:
        """Create in the kernel the PICs, the IOAPIC and a local APIC for each later vCPU."""
        self._ioctl("KVM_CREATE_IRQCHIP")

    def split_irqchip(self, ioapic_routes: int = 24) -> None:
        """Create a local APIC in the kernel for each later vCPU, and no PICs and IOAPIC.

        Interrupts of ``ioapic_routes`` pins are kept for an IOAPIC of userspace's own
        (KVM_CAP_SPLIT_IRQCHIP).
        """
        self.enable_cap("KVM_CAP_SPLIT_IRQCHIP", ioapic_routes)

    def create_vcpu(self, number: int | None = None) -> Vcpu:
        """Create a vCPU; its id (the APIC id) counts up from 0 unless given."""
        number = len(self.vcpus) if number is None else number
        fd = ioctl(self.fd, "KVM_CREATE_VCPU", number, f"vCPU {number}")
        vcpu = Vcpu(fd, number, self._vcpu_mmap_size, self.check_extension)
        self.vcpus.append(vcpu)
        return vcpu

    def stats(self) -> dict[str, int | tuple[int, ...]]:
        """Return KVM's counters of this VM by name; raises :class:`CapabilityMissing`."""
        if self._stats is None:
            self.require("KVM_CAP_BINARY_STATS_FD")
            self._stats = Stats(self._ioctl("KVM_GET_STATS_FD"))
        return self._stats.read()

    def close(self) -> None:
        """Close the VM with its vCPUs and memory."""
        if self.fd < 0:
            return
        for vcpu in self.vcpus:
            vcpu.close()
        if self._stats:
            self._stats.close()
        os.close(self.fd)
        self.fd = -1
        for memory in self.memories:
            memory.close()

    def __enter__(self) -> "Vm":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
