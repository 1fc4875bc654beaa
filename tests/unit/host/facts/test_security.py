"""Lockdown, Secure Boot and a hypervisor above are told in words, absence included."""

import struct
from pathlib import Path

import pytest
from support.stand_in import stand_in

from kvmtest.host.facts.fadt import read_fadt
from kvmtest.host.facts.security import (
    lockdown,
    secure_boot,
    virtualisation,
    without_lockdown,
)
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing
from kvmtest.smi.sources.efivarfs import variables

EFIVARS = "/sys/firmware/efi/efivars"
SECURE_BOOT = f"{EFIVARS}/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
BARE = "processor: 0\nvendor_id: GenuineIntel\nflags: vmx\n"
VIRTUAL = "processor: 0\nvendor_id: GenuineIntel\nflags: vmx hypervisor\n"


def write_hypervisor_leaf(root: Path, signature: bytes) -> None:
    device = root / "dev/cpu/0/cpuid"
    device.parent.mkdir(parents=True)
    with device.open("wb") as file:
        file.seek(0x40000000)
        file.write(struct.pack("<I12s", 0x40000001, signature))


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("[none] integrity confidentiality\n", "none"),
        ("none [integrity] confidentiality\n", "integrity"),
        ("none integrity [confidentiality]\n", "confidentiality"),
    ],
)
def test_the_lockdown_state_is_the_bracketed_word(tmp_path: Path, text: str, state: str) -> None:
    assert lockdown(stand_in(tmp_path, {"/sys/kernel/security/lockdown": text})) == state


LOCKDOWN = "/sys/kernel/security/lockdown"
CONFIG = {"/proc/sys/kernel/osrelease": "6.12\n"}


@pytest.mark.parametrize(
    ("files", "remedy"),
    [
        (
            {"/proc/cmdline": "quiet lockdown=confidentiality\n", SECURE_BOOT: b"\6\0\0\0\1"},
            "boot without lockdown=confidentiality on the kernel's command line",
        ),
        (
            {"/proc/cmdline": "quiet\n", SECURE_BOOT: b"\6\0\0\0\1"},
            "turn Secure Boot off in the firmware setup and reboot",
        ),
        (
            {
                "/boot/config-6.12": "CONFIG_LOCK_DOWN_KERNEL_FORCE_CONFIDENTIALITY=y\n",
                SECURE_BOOT: b"\6\0\0\0\0",
            }
            | CONFIG,
            "boot a kernel built without CONFIG_LOCK_DOWN_KERNEL_FORCE_CONFIDENTIALITY",
        ),
        ({}, f"reboot, with Secure Boot off, and find what writes to {LOCKDOWN}"),
    ],
    ids=["command line", "Secure Boot", "configuration", "nobody knows"],
)
def test_lockdown_is_left_by_what_brought_it(
    tmp_path: Path, files: dict[str, str | bytes], remedy: str
) -> None:
    tree = stand_in(tmp_path, files | {LOCKDOWN: "none integrity [confidentiality]\n"})
    assert without_lockdown(tree) == remedy


@pytest.mark.parametrize(
    ("files", "words", "remedy"),
    [
        ({}, "securityfs is not mounted", "mount -t securityfs"),
        (
            {"/proc/mounts": "securityfs /sys/kernel/security securityfs rw 0 0\n"},
            "this kernel has no lockdown",
            "",
        ),
        ({"/proc/mounts": "sysfs /sys sysfs rw 0 0\n"}, "securityfs is not mounted", "mount"),
        ({"/sys/kernel/security/lockdown": "none integrity\n"}, "marks no state", ""),
    ],
)
def test_an_unknown_lockdown_state_says_why(
    tmp_path: Path, files: dict[str, str | bytes], words: str, remedy: str
) -> None:
    missing = lockdown(stand_in(tmp_path, files))
    assert isinstance(missing, Missing)
    assert words in missing.what
    assert missing.remedy.startswith(remedy)


@pytest.mark.parametrize("on", [True, False])
def test_secure_boot_is_the_byte_after_the_attributes(tmp_path: Path, on: bool) -> None:
    tree = stand_in(tmp_path, {SECURE_BOOT: b"\6\0\0\0" + bytes([on])})
    assert secure_boot(tree) is on


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "not booted by UEFI"),
        ({"/sys/firmware/efi/systab": ""}, "efivarfs is not mounted"),
        ({f"{EFIVARS}/Boot0000-8be4": b"\0"}, "no variable SecureBoot"),
        ({SECURE_BOOT: b"\6\0\0\0"}, "holds 06000000"),
    ],
)
def test_an_unknown_secure_boot_says_why(
    tmp_path: Path, files: dict[str, str | bytes], words: str
) -> None:
    missing = secure_boot(stand_in(tmp_path, files))
    assert isinstance(missing, Missing)
    assert words in missing.what


@pytest.mark.parametrize(
    ("vendor", "product"),
    [
        ("Dell Inc.", "PowerEdge R740"),
        ("Amazon EC2", "m5.metal"),
        ("Supermicro", "SYS-KVMX"),
        ("Microsoft Corporation", "Surface Pro"),
    ],
)
def test_bare_metal_shows_no_sign(tmp_path: Path, vendor: str, product: str) -> None:
    files: dict[str, str | bytes] = {
        "/proc/cpuinfo": BARE,
        "/sys/class/dmi/id/sys_vendor": vendor,
        "/sys/class/dmi/id/product_name": product,
        "/sys/firmware/acpi/tables/FACP": b"FACP".ljust(10, b"\0") + b"DELL  ",
    }
    here = virtualisation(stand_in(tmp_path, files))
    assert not here.is_virtual
    assert str(here).startswith("bare metal")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("/proc/cpuinfo", VIRTUAL, "hypervisor flag"),
        ("/sys/hypervisor/type", "xen\n", "xen"),
        ("/sys/class/dmi/id/sys_vendor", "QEMU\n", "QEMU"),
        ("/sys/class/dmi/id/sys_vendor", "innotek GmbH\n", "VirtualBox"),
        ("/sys/class/dmi/id/product_name", "Virtual Machine\n", "Hyper-V"),
        ("/sys/class/dmi/id/bios_vendor", "Bochs\n", "Bochs"),
        ("/sys/firmware/acpi/tables/FACP", b"FACP".ljust(10, b"\0") + b"BOCHS ", "Bochs"),
        ("/sys/firmware/acpi/tables/FACP", b"FACP".ljust(10, b"\0") + b"FIRECK", "Firecracker"),
    ],
)
def test_each_sign_of_a_virtual_machine_is_enough(
    tmp_path: Path, name: str, content: str | bytes, words: str
) -> None:
    files: dict[str, str | bytes] = {"/proc/cpuinfo": BARE, name: content}
    here = virtualisation(stand_in(tmp_path, files))
    assert here.is_virtual
    assert words in str(here)


@pytest.mark.parametrize(
    ("signature", "words"),
    [
        (b"KVMKVMKVM\0\0\0", "CPUID names KVM"),
        (b"VMwareVMware", "VMware"),
        (b"SomethingNew", "'SomethingNew'"),
    ],
)
def test_the_hypervisor_leaf_gives_the_name(tmp_path: Path, signature: bytes, words: str) -> None:
    write_hypervisor_leaf(tmp_path, signature)
    assert words in str(virtualisation(stand_in(tmp_path, {"/proc/cpuinfo": VIRTUAL})))


def test_the_hypervisor_leaf_is_not_asked_without_the_flag(tmp_path: Path) -> None:
    write_hypervisor_leaf(tmp_path, b"KVMKVMKVM\0\0\0")
    assert not virtualisation(stand_in(tmp_path, {"/proc/cpuinfo": BARE})).is_virtual


def test_this_machine_is_one_or_the_other() -> None:
    here = virtualisation(Tree())
    assert here.is_virtual == bool(here.signs)


def test_a_container_that_hides_the_firmware_is_not_taken_for_an_old_bios(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.path("/sys/firmware").mkdir(parents=True)
    for missing in (secure_boot(tree), read_fadt(tree), variables(tree)):
        assert isinstance(missing, Missing)
        assert "/sys/firmware is empty, as in a container" in missing.what
        assert missing.remedy == "run outside the container"
    stand_in(tmp_path, {"/sys/firmware/memmap/0/start": "0x0\n"})
    assert secure_boot(tree) == Missing(
        "this system was not booted by UEFI, so it has no Secure Boot"
    )
