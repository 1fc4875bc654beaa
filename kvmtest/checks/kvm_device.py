"""/dev/kvm
========

Whether /dev/kvm opens for this process, what a refusal means on this machine, and what its KVM says
of itself. access(2) is no answer: it also succeeds on a node without a KVM behind it.
"""

import errno
import os
from errno import errorcode

from kvmtest._native import lib
from kvmtest.host.facts.kvm_module import KvmModule
from kvmtest.host.machine import Machine
from kvmtest.kvm import KvmUnavailable, System
from kvmtest.missing import Missing

__all__ = ["kvm", "offers_quirk"]

STAND_IN = Missing("a stand-in tree has no /dev/kvm", "run on the machine itself")
#: KVM_MINOR (include/linux/miscdevice.h).
MAKE_NODE = "mknod /dev/kvm c 10 232"


def kvm(machine: Machine) -> Missing | None:
    """/dev/kvm opens for this process, and is KVM's."""
    path = machine.tree.path("/dev/kvm")
    if not machine.tree.is_live and path.is_file():
        return STAND_IN
    try:
        System(path).close()
    except KvmUnavailable as error:
        return _why_no_kvm(machine, error)
    return None if machine.tree.is_live else STAND_IN


def offers_quirk(system: System) -> bool:
    """Tell whether KVM says that it lets L1 set bit 14 in vmcs12 unless userspace objects."""
    quirks = system.check_extension("KVM_CAP_DISABLE_QUIRKS2")
    return bool(quirks & lib.KVM_X86_QUIRK_VMCS12_ALLOW_FREEZE_IN_SMM)


def _why_no_kvm(machine: Machine, error: KvmUnavailable) -> Missing:
    """Return what /dev/kvm's refusal to open means here."""
    number, module = error.errno, machine.kvm_module
    if number in _NO_DRIVER:
        return _no_kvm_behind(module, number)
    if number in _OTHER_DEVICE:
        what = f"/dev/kvm is not a KVM device ({errorcode[number]})"
        return Missing(what, f"as root: rm /dev/kvm; {MAKE_NODE}")
    if number == 0:
        what, _, remedy = str(error).partition("; ")
        return Missing(what, remedy)
    refusal = f"/dev/kvm does not open ({errorcode.get(number, number)})"
    if number == errno.EACCES and os.geteuid():
        remedy = "run as root, or join the group that owns it"
        return Missing("no permission for /dev/kvm", remedy)
    why, remedy = _REFUSALS.get(number, (os.strerror(number), "read the kernel log"))
    return Missing(f"{refusal}: {why}", remedy)


#: Errors of open(2) where the node or its driver is missing.
_NO_DRIVER = (errno.ENOENT, errno.ENODEV, errno.ENXIO)
#: Errors of drivers for an ioctl that is not theirs.
_OTHER_DEVICE = (errno.ENOTTY, errno.EINVAL)
_REFUSALS = {
    errno.EACCES: (
        "a user namespace or a security module forbids it to root",
        "run outside the container, or allow it in SELinux's or AppArmor's policy",
    ),
    errno.EPERM: (
        "the container's device rules forbid it",
        "start the container with --device /dev/kvm",
    ),
    errno.EBUSY: ("another hypervisor holds the CPU's virtualisation", "stop it"),
    errno.EMFILE: ("too many files are open", "raise the limit of open files (ulimit -n)"),
}


def _no_kvm_behind(module: KvmModule | Missing, number: int) -> Missing:
    """Return why there is no /dev/kvm, or no KVM behind it."""
    is_there = number != errno.ENOENT
    what = (
        f"no KVM stands behind /dev/kvm ({errorcode[number]})"
        if is_there
        else "there is no /dev/kvm"
    )
    if isinstance(module, Missing):
        return Missing(f"{what}: {module.what}", module.remedy)
    if is_there:
        why = f"{what} although {module.name} runs: the node is of another device"
        return Missing(why, f"as root: rm /dev/kvm; {MAKE_NODE}")
    return Missing(
        f"{what} although {module.name} runs: a container has only the devices that it is given",
        f"start the container with --device /dev/kvm, or as root: {MAKE_NODE}",
    )
