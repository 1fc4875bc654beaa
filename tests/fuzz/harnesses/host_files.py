"""host/: what /proc, /sys and the firmware's tables say, gathered for the record."""

from support.stand_in import FIXED, KNOB, XEON, fadt_table, intel_host

from fuzz.harness import Harness
from fuzz.scratch import scratch
from kvmtest.host.as_json import host_facts, kernel_facts, machine_facts
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree

# In an input they stand in this order, each ended by BREAK.
FILES = (
    "/proc/cpuinfo",
    "/proc/version",
    "/proc/mounts",
    "/proc/sys/kernel/osrelease",
    "/sys/devices/system/cpu/online",
    "/sys/devices/system/cpu/possible",
    KNOB,
    "/sys/bus/event_source/devices/cpu/type",
    "/sys/bus/event_source/devices/cpu/cpus",
    "/sys/module/kvm_intel/refcnt",
    "/sys/module/kvm_intel/parameters/nested",
    "/sys/kernel/security/lockdown",
    "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c",
    "/sys/firmware/acpi/tables/FACP",
    "/sys/class/dmi/id/sys_vendor",
    "/proc/config.gz",
    "/lib/modules/6.1.0-37-amd64/modules.dep",
    "/proc/1/comm",
    "/proc/1/cmdline",
)
BREAK = b"\n--\n"

_written: dict[str, bytes] = {}


def parse(data: bytes) -> None:
    tree = Tree(scratch("host_files"))
    for name, content in zip(FILES, data.split(BREAK), strict=False):
        # Most inputs differ in one file, and writing takes longer than reading.
        if _written.get(name) != content:
            tree.path(name).write_bytes(content)
            _written[name] = content
    machine = Machine(tree)
    for facts in (machine_facts, host_facts, kernel_facts):
        facts(machine)


def seed() -> bytes:
    tree = intel_host(scratch("host_files"))
    more: dict[str, str | bytes] = {
        "/sys/bus/event_source/devices/cpu/cpus": "0-1\n",
        "/sys/kernel/security/lockdown": "none [integrity] confidentiality\n",
        FILES[12]: b"\6\0\0\0\1",
        "/sys/firmware/acpi/tables/FACP": fadt_table(XEON),
        "/sys/class/dmi/id/sys_vendor": "QEMU\n",
        "/lib/modules/6.1.0-37-amd64/modules.dep": "kernel/arch/x86/kvm/kvm-intel.ko.xz: kvm.ko\n",
        "/proc/1/comm": "qemu\n",
        "/proc/1/cmdline": "qemu\0-m\0",
        "/proc/config.gz": b"",
    }
    for name, content in more.items():
        path = tree.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    fd = tree.path("/proc/1/fd")
    fd.mkdir(parents=True, exist_ok=True)
    (fd / "3").symlink_to("anon_inode:kvm-vm")
    return BREAK.join(tree.path(name).read_bytes() for name in FILES)


assert FIXED
HARNESS = Harness(parse=parse, seeds=(seed(),))
