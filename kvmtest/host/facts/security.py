"""Restrictions and hypervisors above
==================================

What keeps even root from the hardware: kernel lockdown, Secure Boot, and a hypervisor above the
host.
"""

import re
import struct
from dataclasses import dataclass

from kvmtest.host.facts.cpu import Cpu, cpuid
from kvmtest.host.facts.kernel import read_config
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing

__all__ = [
    "CONFIDENTIALITY",
    "LOCKDOWN_OFF",
    "Virtualisation",
    "firmware_hidden",
    "lockdown",
    "secure_boot",
    "virtualisation",
    "without_lockdown",
]

LOCKDOWN_OFF = "none"
CONFIDENTIALITY = "confidentiality"

_LOCKDOWN = "/sys/kernel/security/lockdown"
_EFIVARS = "/sys/firmware/efi/efivars"
_SECURE_BOOT = f"{_EFIVARS}/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"

# CPUID leaf 0x40000000, EBX ECX EDX.
_CPUID_SIGNATURES = {
    b"KVMKVMKVM": "KVM",
    b"Linux KVM Hv": "KVM (Hyper-V enlightenments)",
    b"Microsoft Hv": "Hyper-V, or KVM that poses as it",
    b"VMwareVMware": "VMware",
    b"XenVMMXenVMM": "Xen",
    b"VBoxVBoxVBox": "VirtualBox",
    b"TCGTCGTCGTCG": "QEMU without KVM (TCG)",
    b"bhyve bhyve ": "bhyve",
    b"ACRNACRNACRN": "ACRN",
    b" lrpepyh  vr": "Parallels",
}

# DMI texts that only virtual hardware has. Names of clouds are left out: their bare-metal machines
# have the same names, and there the CPUID flag decides.
_DMI_FILES = ("sys_vendor", "product_name", "board_vendor", "bios_vendor")
_DMI_NAMES = {
    "QEMU": "QEMU",
    "Bochs": "Bochs",
    "VMware": "VMware",
    "VirtualBox": "VirtualBox",
    "innotek GmbH": "VirtualBox",
    "Xen": "Xen",
    "KVM": "KVM",
    "Parallels": "Parallels",
    "BHYVE": "bhyve",
    "Firecracker": "Firecracker",
    "Virtual Machine": "Hyper-V",
}

# OEM ids in the ACPI table FACP; Bochs's id is also QEMU's and Firecracker has no DMI at all.
_ACPI_OEMS = {
    "BOCHS": "Bochs or QEMU",
    "FIRECK": "Firecracker",
    "CLOUDH": "Cloud Hypervisor",
    "VBOX": "VirtualBox",
    "VRTUAL": "Hyper-V",
    "BHYVE": "bhyve",
    "Xen": "Xen",
}


@dataclass(frozen=True, slots=True)
class Virtualisation:
    """Whether the host is a virtual or emulated machine, and by which ``signs``, each in words."""

    is_virtual: bool
    signs: tuple[str, ...]

    def __str__(self) -> str:
        if self.is_virtual:
            return f"a virtual or emulated machine ({'; '.join(self.signs)})"
        return "bare metal (no hypervisor flag in CPUID, no virtual machine's names in DMI or ACPI)"


def lockdown(tree: Tree) -> str | Missing:
    """Return "none", "integrity" or "confidentiality" (security/lockdown/lockdown.c)."""
    text = tree.read(_LOCKDOWN)
    if text is not None:
        chosen = re.search(r"\[(\w+)\]", text)
        return chosen[1] if chosen else Missing(f"{_LOCKDOWN} marks no state in {text!r}")
    mounts = tree.read("/proc/mounts") or ""
    if any(line.split()[2:3] == ["securityfs"] for line in mounts.splitlines()):
        return Missing("this kernel has no lockdown (securityfs is mounted, without lockdown)")
    return Missing(
        "the lockdown state is unknown: securityfs is not mounted",
        "mount -t securityfs securityfs /sys/kernel/security",
    )


def without_lockdown(tree: Tree) -> str:
    """Return how to boot without lockdown; a running kernel does not lift it."""
    words = (tree.read("/proc/cmdline") or "").split()
    asked = [word for word in words if word.startswith("lockdown=")]
    if asked:
        return f"boot without {asked[-1]} on the kernel's command line"
    if secure_boot(tree) is True:
        return "turn Secure Boot off in the firmware setup and reboot"
    config = read_config(tree, tree.read("/proc/sys/kernel/osrelease") or "")
    forced = f"LOCK_DOWN_KERNEL_FORCE_{str(lockdown(tree)).upper()}"
    if not isinstance(config, Missing) and config.get(forced) == "y":
        return f"boot a kernel built without CONFIG_{forced}"
    return f"reboot, with Secure Boot off, and find what writes to {_LOCKDOWN}"


def secure_boot(tree: Tree) -> bool | Missing:
    """Tell whether UEFI Secure Boot is on (UEFI specification, Globally Defined Variables)."""
    data = tree.read_bytes(_SECURE_BOOT)
    if data is not None:
        # efivarfs puts four bytes of attributes before the value.
        return data[4] == 1 if len(data) == 5 else Missing(f"{_SECURE_BOOT} holds {data.hex()}")
    if firmware_hidden(tree):
        return Missing(
            "Secure Boot is unknown: /sys/firmware is empty, as in a container",
            "run outside the container",
        )
    if not tree.exists("/sys/firmware/efi"):
        return Missing("this system was not booted by UEFI, so it has no Secure Boot")
    if not any(tree.path(_EFIVARS).glob("*")):
        return Missing(
            "Secure Boot is unknown: efivarfs is not mounted",
            f"mount -t efivarfs efivarfs {_EFIVARS}",
        )
    return Missing("this UEFI firmware has no variable SecureBoot")


def firmware_hidden(tree: Tree) -> bool:
    """Tell whether /sys/firmware is empty: on a host it never is (acpi, memmap)."""
    try:
        return not any(tree.path("/sys/firmware").iterdir())
    except OSError:
        return False


def virtualisation(tree: Tree, cpu: Cpu | Missing | None = None) -> Virtualisation:
    """Tell whether the host is itself virtual or emulated; pass ``cpu`` where it is known."""
    if cpu is None:
        cpu = Cpu.of(tree)
    flagged = not isinstance(cpu, Missing) and cpu.under_hypervisor
    signs = [
        *(["hypervisor flag in CPUID"] if flagged else []),
        # Without the flag there is no such leaf, and Intel CPUs answer with another leaf's data.
        *(_cpuid_signs(tree) if flagged else []),
        *_hypervisor_signs(tree),
        *_dmi_signs(tree),
        *_acpi_signs(tree),
    ]
    return Virtualisation(bool(signs), tuple(signs))


def _cpuid_signs(tree: Tree) -> list[str]:
    """Return the name in the hypervisor's CPUID leaf."""
    leaf = cpuid(tree, 0x40000000)
    if isinstance(leaf, Missing):
        return []
    signature = struct.pack("<3I", leaf.ebx, leaf.ecx, leaf.edx).rstrip(b"\0")
    known = _CPUID_SIGNATURES.get(signature)
    return [f"CPUID names {known or ascii(signature.decode('latin-1'))}"]


def _hypervisor_signs(tree: Tree) -> list[str]:
    """Return the name in /sys/hypervisor, which exists under Xen only."""
    kind = tree.read("/sys/hypervisor/type")
    return [f"/sys/hypervisor/type is {kind}"] if kind else []


def _dmi_signs(tree: Tree) -> list[str]:
    """Return the DMI texts that only virtual hardware has, one for each name."""
    signs: dict[str, str] = {}
    for file in _DMI_FILES:
        text = tree.read(f"/sys/class/dmi/id/{file}") or ""
        for name, known in _DMI_NAMES.items():
            if re.search(rf"\b{re.escape(name)}\b", text):
                signs.setdefault(known, f"DMI {file} {text!r} names {known}")
    return list(signs.values())


def _acpi_signs(tree: Tree) -> list[str]:
    """Return the OEM id of the ACPI table FACP where an emulator put it there."""
    table = tree.read_bytes("/sys/firmware/acpi/tables/FACP") or b""
    oem = table[10:16].decode("latin-1").strip(" \0")
    return [f"ACPI OEM id {oem!r} names {_ACPI_OEMS[oem]}"] if oem in _ACPI_OEMS else []
