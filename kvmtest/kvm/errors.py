"""KVM errors
==========

What /dev/kvm refuses, as exceptions that name the ioctl, the errno and the remedy.
"""

import errno
import os

from kvmtest.errors import KvmtestError

__all__ = ["CapabilityMissing", "KvmError", "KvmUnavailable", "MsrRefused"]

# What to do, by ioctl and errno; "" stands for any ioctl.
HINTS = {
    ("", errno.EINTR): "a signal came in between: run it again",
    (
        "",
        errno.ENOTTY,
    ): "this kernel does not know it: use a newer one, or check the capability first",
    ("", errno.ENOMEM): "free some memory, or give the guest less",
    ("", errno.EMFILE): "raise the limit of open files (ulimit -n)",
    ("KVM_CREATE_VM", errno.EINVAL): "this KVM has no such VM type (KVM_CAP_VM_TYPES)",
    ("KVM_CREATE_VM", errno.EBUSY): "another hypervisor holds VT-x or AMD-V: stop it",
    ("KVM_CREATE_VM", errno.EOPNOTSUPP): "virtualisation is off in the firmware: switch it on",
    ("KVM_CREATE_VCPU", errno.EEXIST): "this vCPU id is taken: use another",
    (
        "KVM_CREATE_VCPU",
        errno.EBUSY,
    ): "KVM gives this VM a mediated PMU (enable_mediated_pmu=Y), and somebody counts guests: end "
    "system-wide perf sessions, sysctl kernel.nmi_watchdog=0, or make the VM without a PMU",
    ("KVM_CREATE_VCPU", errno.EIO): "KVM found the VM broken (TDX: KVM_TDX_INIT_VM first)",
    ("KVM_CREATE_VCPU", errno.EINVAL): "no such vCPU id (TDX: KVM_CAP_SPLIT_IRQCHIP first)",
    ("KVM_SET_USER_MEMORY_REGION", errno.EEXIST): "the slot overlaps another: move it",
    ("KVM_SET_USER_MEMORY_REGION2", errno.EEXIST): "the slot overlaps another: move it",
    (
        "KVM_TDX_INIT_VM",
        errno.EINVAL,
    ): "it is done already, or asks for something outside KVM_TDX_CAPABILITIES",
    ("KVM_TDX_INIT_VM", errno.EBUSY): "a vCPU exists: initialise the VM before its first vCPU",
    ("KVM_TDX_INIT_VM", errno.ENOSPC): "no private KeyID is free: end another TD",
    ("KVM_TDX_INIT_VM", errno.EAGAIN): "the CPU's entropy ran out: try again",
    (
        "KVM_TDX_INIT_VM",
        errno.EIO,
    ): "the TDX module refused: look at the kernel log (each package needs an online CPU)",
    (
        "KVM_TDX_INIT_VCPU",
        errno.EINVAL,
    ): "it is done already, the VM is not initialised or final, or the vCPU's CPUID has no x2APIC",
    (
        "KVM_TDX_INIT_MEM_REGION",
        errno.EINVAL,
    ): "do it between KVM_TDX_INIT_VCPU and KVM_TDX_FINALIZE_VM, with whole private pages of a "
    "slot with a guest_memfd",
    ("KVM_TDX_FINALIZE_VM", errno.EINVAL): "the VM is not initialised, or final already",
    ("KVM_TDX_FINALIZE_VM", errno.EBUSY): "the TDX module is busy: try again",
    ("KVM_TDX_GET_CPUID", errno.EINVAL): "do it between KVM_TDX_INIT_VM and KVM_TDX_FINALIZE_VM",
    (
        "KVM_RUN",
        errno.EFAULT,
    ): "the guest touched memory that no slot backs, or host memory is gone",
    (
        "KVM_RUN",
        errno.EINVAL,
    ): "KVM can't run the vCPU in this state (TDX: first KVM_TDX_INIT_VCPU and "
    "KVM_TDX_FINALIZE_VM)",
    ("KVM_RUN", errno.EIO): "KVM found the vCPU or the VM broken: look at the kernel log",
}


class KvmError(KvmtestError):
    """An ioctl failed; ``ioctl`` is its name, ``errno`` the error number."""

    def __init__(self, ioctl: str, number: int, on: str = "") -> None:
        self.ioctl = ioctl
        self.errno = number
        name = errno.errorcode.get(number, str(number))
        hint = HINTS.get((ioctl, number)) or HINTS.get(("", number))
        where = f" on {on}" if on else ""
        advice = f"; {hint}" if hint else ""
        super().__init__(f"{ioctl}{where}: {os.strerror(number)} ({name}){advice}")


class KvmUnavailable(KvmtestError):
    """There is no usable /dev/kvm; ``errno`` is the kernel's answer, 0 where it gave none."""

    def __init__(self, message: str, number: int = 0) -> None:
        self.errno = number
        super().__init__(message)


class CapabilityMissing(KvmtestError):
    """This KVM lacks a capability; ``capability`` is its name, such as KVM_CAP_X86_SMM."""

    def __init__(self, capability: str) -> None:
        self.capability = capability
        super().__init__(
            f"{capability}: not offered by this KVM; use a kernel or module that has it"
        )


class MsrRefused(KvmtestError):
    """KVM_GET_MSRS or KVM_SET_MSRS stopped at an MSR; ``index`` says which."""

    def __init__(self, ioctl: str, index: int, value: int | None = None) -> None:
        self.ioctl = ioctl
        self.index = index
        self.value = value
        what = f"MSR {index:#x}" if value is None else f"MSR {index:#x} = {value:#x}"
        super().__init__(f"{ioctl}: {what} was refused by this KVM, or by the guest's CPUID")
