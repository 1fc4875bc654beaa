"""System
======

/dev/kvm itself: what this KVM can do, and the VMs it makes.
"""

import errno
import os
from pathlib import Path
from typing import Any

from kvmtest._native import ffi, lib

from .cpuid import Cpuid
from .errors import CapabilityMissing, KvmError, KvmUnavailable
from .ioctl import ioctl
from .vm import Vm

__all__ = ["CAPABILITIES", "System"]

#: Every capability that the headers know, name to number.
CAPABILITIES: dict[str, int] = {
    name: getattr(lib, name) for name in sorted(dir(lib)) if name.startswith("KVM_CAP_")
}

# Why /dev/kvm does not open, and what to do.
UNAVAILABLE = {
    errno.ENOENT: "there is no such device; load the module (modprobe kvm_intel or kvm_amd), and "
    "switch virtualisation on in the firmware",
    errno.ENXIO: "no KVM stands behind it; load the module (modprobe kvm_intel or kvm_amd)",
    errno.ENODEV: "no KVM stands behind it; load the module (modprobe kvm_intel or kvm_amd)",
    errno.EACCES: "permission denied; run as root, or join the group that owns it (kvm)",
    errno.EPERM: "not permitted; run as root outside a container, or give the container the device",
    errno.EBUSY: "another hypervisor holds the CPU's virtualisation; stop it",
}


class System:
    """/dev/kvm, open.

    Raises :class:`KvmUnavailable` where it can't be opened, or has another API version.
    """

    def __init__(self, path: str | Path = "/dev/kvm") -> None:
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            reason = UNAVAILABLE.get(error.errno or 0, error.strerror)
            raise KvmUnavailable(f"{path}: {reason}", error.errno or 0) from None
        try:
            version = ioctl(self.fd, "KVM_GET_API_VERSION", on=str(path))
            if version != lib.KVM_API_VERSION:
                raise KvmUnavailable(
                    f"{path}: API version {version}, not 12; use a kernel after 2.6.22"
                )
            self.vcpu_mmap_size = ioctl(self.fd, "KVM_GET_VCPU_MMAP_SIZE")
        except KvmError as error:
            os.close(self.fd)
            raise KvmUnavailable(f"{path}: not a KVM device ({error})", error.errno) from None
        except KvmUnavailable:
            os.close(self.fd)
            raise

    def check_extension(self, capability: str) -> int:
        """Return what KVM_CHECK_EXTENSION says of a capability, e.g. "KVM_CAP_X86_SMM"; 0 is no.

        Raises :class:`AttributeError` for a name that the headers do not know.
        """
        return ioctl(self.fd, "KVM_CHECK_EXTENSION", getattr(lib, capability))

    def capabilities(self) -> dict[str, int]:
        """Return every capability that this KVM offers, by name, with its value."""
        values = {name: self.check_extension(name) for name in CAPABILITIES}
        return {name: value for name, value in values.items() if value}

    def get_supported_cpuid(self) -> Cpuid:
        """Return the CPUID table that this KVM offers to guests."""
        return self._cpuid("KVM_GET_SUPPORTED_CPUID")

    def get_emulated_cpuid(self) -> Cpuid:
        """Return the CPUID features that KVM emulates although the host lacks them."""
        return self._cpuid("KVM_GET_EMULATED_CPUID")

    def _cpuid(self, name: str) -> Cpuid:
        room = 128
        while True:
            struct = ffi.new("struct kvm_cpuid2 *", {"nent": room, "entries": room})
            try:
                ioctl(self.fd, name, struct)
            except KvmError as error:
                if error.errno != errno.E2BIG:
                    raise
                room *= 2
            else:
                return Cpuid.from_struct(struct)

    def get_msr_index_list(self) -> list[int]:
        """Return the indices of the MSRs that KVM saves and restores for a guest."""
        return self._msr_list("KVM_GET_MSR_INDEX_LIST")

    def get_msr_feature_index_list(self) -> list[int]:
        """Return the feature MSRs that :meth:`get_feature_msr` reads."""
        return self._msr_list("KVM_GET_MSR_FEATURE_INDEX_LIST")

    def _msr_list(self, name: str) -> list[int]:
        room = 1024
        struct = ffi.new("struct kvm_msr_list *", {"nmsrs": room, "indices": room})
        ioctl(self.fd, name, struct)
        return [struct.indices[at] for at in range(struct.nmsrs)]

    def get_feature_msr(self, index: int) -> int | None:
        """Return the value that KVM supports for a feature MSR, None for another MSR."""
        entry: list[Any] = [{"index": index}]
        msrs = ffi.new("struct kvm_msrs *", {"nmsrs": 1, "entries": entry})
        if ioctl(self.fd, "KVM_GET_MSRS", msrs) != 1:
            return None
        return int(msrs.entries[0].data)

    def create_vm(self, vm_type: int = 0, *, pmu: bool = False) -> Vm:
        """Create a VM of a type, KVM_X86_*_VM; raises :class:`CapabilityMissing`.

        Guests get a PMU only with ``pmu``, where this KVM can withhold it. While a VM has a
        mediated PMU (module parameter enable_mediated_pmu) nobody can open events that count
        guests, and while such an event is open that VM's first vCPU is refused.
        """
        if vm_type and not self.check_extension("KVM_CAP_VM_TYPES") & 1 << vm_type:
            raise CapabilityMissing(f"KVM_CAP_VM_TYPES bit {vm_type}")
        vm = Vm(ioctl(self.fd, "KVM_CREATE_VM", vm_type), self.vcpu_mmap_size)
        if not pmu:
            try:
                vm.disable_pmu()
            except BaseException:
                vm.close()
                raise
        return vm

    def close(self) -> None:
        """Close /dev/kvm; VMs live on until they are closed."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> "System":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
