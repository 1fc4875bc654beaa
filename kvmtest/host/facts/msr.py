"""Model-specific registers
========================

Reads MSRs of the host's CPUs through /dev/cpu/N/msr (arch/x86/kernel/msr.c), or says why it can't.
:mod:`kvmtest.host.changes.msr` writes them.
"""

import errno
import os
from dataclasses import dataclass

from kvmtest.errors import KvmtestError
from kvmtest.host.facts.cpu import Cpu
from kvmtest.host.facts.kernel import read_config
from kvmtest.host.facts.modules import Place, how_to_load, whereabouts
from kvmtest.host.facts.security import LOCKDOWN_OFF, lockdown, without_lockdown
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing

__all__ = [
    "IA32_DEBUGCTL",
    "IA32_DEBUGCTL_FREEZE_WHILE_SMM",
    "IA32_PERF_CAPABILITIES",
    "IA32_PERF_CAPABILITIES_FREEZE_WHILE_SMM",
    "IA32_TSC",
    "MSR_SMI_COUNT",
    "MsrAccess",
    "MsrError",
    "access",
    "device",
    "freeze_bit",
]

# Names and numbers of the SDM, volume 4, table 2-2 and (MSR_SMI_COUNT) the tables of the models.
IA32_TSC = 0x10
MSR_SMI_COUNT = 0x34
IA32_DEBUGCTL = 0x1D9
IA32_DEBUGCTL_FREEZE_WHILE_SMM = 1 << 14
IA32_PERF_CAPABILITIES = 0x345
IA32_PERF_CAPABILITIES_FREEZE_WHILE_SMM = 1 << 12


def freeze_bit(debugctl: int) -> int:
    """Return bit 14 of a DEBUGCTL value, FREEZE_WHILE_SMM: 0 or 1."""
    return int(bool(debugctl & IA32_DEBUGCTL_FREEZE_WHILE_SMM))


_NAMES = {
    MSR_SMI_COUNT: "MSR_SMI_COUNT",
    IA32_DEBUGCTL: "IA32_DEBUGCTL",
    IA32_PERF_CAPABILITIES: "IA32_PERF_CAPABILITIES",
}

_CAUSES = {
    errno.EIO: "the CPU or the hypervisor above refuses this MSR",
    errno.ENXIO: "the CPU is offline; bring it online",
    errno.ENOENT: "there is no device for this CPU; modprobe msr",
    errno.EACCES: "not permitted; run as root",
    errno.EPERM: "not permitted; run as root with CAP_SYS_RAWIO and without lockdown",
}


class MsrError(KvmtestError):
    """An MSR of one CPU could not be read or written; ``errno`` is the kernel's answer."""

    def __init__(self, verb: str, cpu: int, index: int, error: int) -> None:
        self.cpu = cpu
        self.index = index
        self.errno = error
        code = errno.errorcode.get(error, str(error))
        cause = _CAUSES.get(error, os.strerror(error))
        super().__init__(f"can't {verb} {_described(index)} on CPU {cpu} ({code}): {cause}")


@dataclass(frozen=True, slots=True)
class MsrAccess:
    """Access to the MSRs of the online ``cpus``.

    ``write_refusal`` says why the kernel refuses writes although reading works (lockdown, the
    parameter msr.allow_writes); None where neither stands in the way.
    """

    tree: Tree
    cpus: tuple[int, ...]
    write_refusal: Missing | None

    def read(self, index: int, cpu: int) -> int:
        """Return the 64 bits of MSR ``index`` of ``cpu``. Raises MsrError."""
        try:
            fd = os.open(self.tree.path(device(cpu)), os.O_RDONLY | os.O_CLOEXEC)
            try:
                data = os.pread(fd, 8, index)
            finally:
                os.close(fd)
        except OSError as error:
            raise MsrError("read", cpu, index, error.errno or 0) from error
        if len(data) != 8:
            raise MsrError("read", cpu, index, errno.EIO)
        return int.from_bytes(data, "little")

    def read_all(self, index: int) -> dict[int, int]:
        """Return MSR ``index`` of every online CPU, by CPU number. Raises MsrError."""
        return {cpu: self.read(index, cpu) for cpu in self.cpus}


def access(
    tree: Tree, index: int = IA32_DEBUGCTL, cpu: Cpu | Missing | None = None
) -> MsrAccess | Missing:
    """Return access to the MSRs if ``index`` is readable on every online CPU, or say why not.

    Pass ``cpu`` where it is already known.
    """
    if cpu is None:
        cpu = Cpu.of(tree)
    if isinstance(cpu, Missing):
        return cpu
    if not any(tree.exists(device(number)) for number in cpu.online):
        return _why_nodevice(tree)
    msrs = MsrAccess(tree, cpu.online, _write_refusal(tree))
    try:
        msrs.read_all(index)
    except MsrError as error:
        return _why_unreadable(error)
    return msrs


def device(cpu: int) -> str:
    """Return the device of the MSRs of ``cpu``."""
    return f"/dev/cpu/{cpu}/msr"


def _described(index: int) -> str:
    """Return how messages name MSR ``index``: in hexadecimal, with its name where known."""
    return f"MSR {index:#x} ({_NAMES[index]})" if index in _NAMES else f"MSR {index:#x}"


def _why_nodevice(tree: Tree) -> Missing:
    """Return why there is no /dev/cpu/N/msr."""
    option, where = _x86_msr_option(tree), whereabouts(tree, "msr")
    if option == "n" and where in (Place.UNKNOWN, Place.NOT_SHIPPED):
        return Missing(
            "this kernel has no MSR device (CONFIG_X86_MSR is off)",
            "boot a kernel with CONFIG_X86_MSR=m or =y",
        )
    if option == "y" or where in (Place.LOADED, Place.BUILT_IN):
        return Missing(
            "the msr driver is here but /dev/cpu/N/msr is not",
            "run outside the container, or give it the devices /dev/cpu/*/msr",
        )
    if where is Place.NOT_SHIPPED:
        return Missing(
            "module msr is not shipped with this kernel (its modules.dep lacks it)",
            "install the package with the rest of the kernel's modules, or boot a kernel with "
            "CONFIG_X86_MSR=y",
        )
    return Missing("module msr is not loaded (no /dev/cpu/N/msr)", how_to_load(tree, "msr"))


def _why_unreadable(error: MsrError) -> Missing:
    """Return why reading failed although the device is there."""
    if error.errno == errno.EACCES:
        return Missing(f"{device(error.cpu)} may not be opened (EACCES)", "run as root")
    if error.errno == errno.EPERM:
        return Missing(
            f"{device(error.cpu)} may not be opened (EPERM): CAP_SYS_RAWIO is missing",
            "run as root, outside a container",
        )
    if error.errno == errno.EIO:
        return Missing(
            f"CPU {error.cpu} or the hypervisor above it refuses {_described(error.index)} (EIO)",
            "run on bare metal, on a CPU that has it",
        )
    return Missing(str(error))


def _write_refusal(tree: Tree) -> Missing | None:
    """Return what forbids writing MSRs: lockdown, or the parameter msr.allow_writes."""
    state = lockdown(tree)
    if not isinstance(state, Missing) and state != LOCKDOWN_OFF:
        return Missing(f"kernel lockdown ({state}) refuses MSR writes", without_lockdown(tree))
    if tree.read("/sys/module/msr/parameters/allow_writes") == "off":
        return Missing(
            "msr.allow_writes is off",
            "echo on > /sys/module/msr/parameters/allow_writes",
        )
    return None


def _x86_msr_option(tree: Tree) -> str | None:
    """Return CONFIG_X86_MSR of the running kernel: "y", "m" or "n"; None where that is unknown."""
    config = read_config(tree, tree.read("/proc/sys/kernel/osrelease") or "")
    return None if isinstance(config, Missing) else config.get("X86_MSR") or "n"
