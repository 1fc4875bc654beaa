"""The TDX host: its files, and those of them that answer back.

Plain files are a stand-in tree's (``support.stand_in``). What is here behaves: the knob sets the
MSRs, the kernel log takes lines and gives records, a tracing instance has the hits of its probes.
"""

import errno
import os
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kvmtest.host.tree import Tree
from kvmtest.kernels.btf import Btf
from support.btf_blob import Blob
from support.stand_in import (
    BTF,
    FIXED,
    KMSG,
    KNOB,
    KVM_INTEL_BTF,
    PROCESSOR,
    intel_host,
    write,
)

FREEZE_WHILE_SMM = 1 << 14
_IA32_TSC, _MSR_SMI_COUNT, _IA32_DEBUGCTL, _IA32_PERF_CAPABILITIES = 0x10, 0x34, 0x1D9, 0x345
_FREEZE_CAPABLE = 1 << 12
#: What SEAM and its KeyIDs show in: IA32_MTRRCAP bit 15, IA32_MKTME_KEYID_PARTITIONING[63:32].
_IA32_MTRRCAP, _IA32_MKTME_KEYID_PARTITIONING = 0xFE, 0x87
_SEAMRR, _PRIVATE_KEYIDS = 1 << 15 | 10, 64 << 32
TRACING = "/sys/kernel/tracing"
CLEAR = "/sys/kernel/debug/clear_warn_once"
RELEASE = "6.18.15-amd64"
VERSION = (
    f"Linux version {RELEASE} (debian-kernel@lists.debian.org) (gcc-14 (Debian 14.2.0-19) 14.2.0, "
    "GNU ld 2.44) #1 SMP PREEMPT_DYNAMIC Debian 6.18.15-1 (2026-02-27)"
)
#: The functions of kvm_intel that take run flags.
VMX_VCPU_RUN, TDX_VCPU_RUN = "vmx_vcpu_run", "tdx_vcpu_run"
_PARAMETERS = {
    "dump_invalid_vmcs": "N",
    "enable_apicv": "Y",
    "ept": "Y",
    "eptad": "Y",
    "nested": "Y",
    "tdx": "Y",
    "unrestricted_guest": "Y",
}
_USER_FACILITY = 1 << 3
_WARNING = 4
_PLATFORM_FLAG = "tdx_host_platform"
_PARAMETER = "/sys/module/kvm_intel/parameters"


@dataclass(frozen=True)
class Lack:
    """A link that the host lacks: ``said`` begins the reason for which properties are skipped.

    KVM turns kvm_intel.tdx off whatever is missing, and then has no VMs of the type.
    """

    said: str
    files: Mapping[str, str] = field(default_factory=dict)
    msrs: Mapping[int, int] = field(default_factory=dict)
    log: str = ""
    has_platform: bool = True


LACKS = {
    "parameter": Lack("TDX is off (kvm_intel.tdx=N)"),
    "seam": Lack("the CPU has no SEAM", msrs={_IA32_MTRRCAP: 10}, has_platform=False),
    "keyids": Lack("the firmware gives TDX too few private KeyIDs",
                   msrs={_IA32_MKTME_KEYID_PARTITIONING: 0}, has_platform=False),
    "module": Lack("the TDX module does not serve", log="virt/tdx: module not loaded"),
    "ept": Lack("EPT: off", files={f"{_PARAMETER}/ept": "N\n"}),
}  # fmt: skip


def tdx_host(root: Path, cpus: int, lack: Lack | None = None) -> Tree:
    """Make the files of an Intel host with ``cpus``, whose KVM has TDX, but for what it lacks."""
    tree = intel_host(root, cpus=cpus)
    files: dict[str, str | bytes] = {
        "/proc/cpuinfo": "".join(_processor(number, lack) for number in range(cpus)),
        "/proc/version": f"{VERSION}\n",
        "/proc/sys/kernel/osrelease": f"{RELEASE}\n",
        "/proc/sys/kernel/tainted": "0\n",
        CLEAR: "",
        "/sys/module/kvm/parameters/tdp_mmu": "Y\n",
        "/sys/module/kvm/parameters/mmio_caching": "Y\n",
        "/sys/module/kvm/parameters/enable_apicv": "Y\n",
        "/sys/class/misc/kvm/dev": "10:232\n",
        f"{TRACING}/kprobe_events": "",
        f"{TRACING}/instances/.keep": "",
        BTF: FIXED,
        KVM_INTEL_BTF: _btf(),
    }
    for name, value in _PARAMETERS.items():
        files[f"{_PARAMETER}/{name}"] = f"{value}\n"
    if lack:
        files |= {f"{_PARAMETER}/tdx": "N\n", **lack.files}
    for name, content in files.items():
        write(tree, name, content)
    tree.path(f"{TRACING}/instances/.keep").unlink()
    for folder in ("/run/lock", "/var/lib"):
        tree.path(folder).mkdir(parents=True, exist_ok=True)
    return tree


def _processor(number: int, lack: Lack | None) -> str:
    flags = "flags\t\t: msr vmx rtm"
    platform = _PLATFORM_FLAG if lack is None or lack.has_platform else ""
    text = PROCESSOR.format(number=number)
    return text.replace(flags, f"{flags} ss xsave osxsave movdir64b ept x2apic {platform}")


def _btf() -> bytes:
    base = Btf(FIXED)
    blob = Blob()
    blob.strings = bytearray()
    blob.strings_start, blob.next_id = base._strings_end, base._end_id
    u64 = blob.int_("u64", 8)
    for function in (VMX_VCPU_RUN, TDX_VCPU_RUN):
        blob.function(function, u64, ("vcpu", u64), ("run_flags", u64))
    return blob.bytes()


class Device:
    """A file that answers; by default it is empty and takes nothing.

    ``at`` is the offset of pread(2) and pwrite(2), else None. Answers are those of the system call:
    bytes, a count, or a negative errno.
    """

    def read(self, opened: "Opened", count: int, at: int | None) -> bytes | int:
        return b""

    def write(self, data: bytes, at: int | None) -> int:
        return -errno.EINVAL

    def seek(self, opened: "Opened", offset: int, whence: int) -> int:
        opened.at = offset
        return offset


@dataclass
class Opened:
    """A device that a process has open, and where it reads."""

    device: Device
    at: int = 0


@dataclass
class Instance:
    """A tracing instance: the hits that nobody read yet."""

    name: str
    unread: bytearray = field(default_factory=bytearray)


@dataclass
class Probe:
    """A kprobe event: ``fetches`` are places by the names of arguments, such as ``%si``."""

    place: str
    fetches: Mapping[str, str]


class Host:
    """What of the host behaves. ``tree`` has the plain files."""

    def __init__(self, tree: Tree, cpus: int, lack: Lack | None = None) -> None:
        self.tree = tree
        self.cpus = cpus
        self.has_tdx = lack is None
        #: MSRs that never change, alike on every CPU.
        self.constant_msrs = {
            _IA32_PERF_CAPABILITIES: _FREEZE_CAPABLE,
            _MSR_SMI_COUNT: 0,
            _IA32_MTRRCAP: _SEAMRR,
            _IA32_MKTME_KEYID_PARTITIONING: _PRIVATE_KEYIDS,
            **(lack.msrs if lack else {}),
        }
        self.knob = 1
        self.debugctl = dict.fromkeys(range(cpus), FREEZE_WHILE_SMM)
        self.records: list[bytes] = []
        self.instances: dict[str, Instance] = {}
        self.probes: dict[str, Probe] = {}
        self._has_warned = False
        self._devices: dict[str, Device] = {
            KNOB: _KnobFile(self),
            KMSG: _LogFile(self),
            CLEAR: _ClearFile(self),
            f"{TRACING}/kprobe_events": _ProbesFile(self),
        }
        for cpu in range(cpus):
            self._devices[f"/dev/cpu/{cpu}/msr"] = _MsrFile(self, cpu)
        self.log(lack.log if lack and lack.log else "virt/tdx: module initialized")

    def device(self, path: str) -> Device | None:
        """Return the device at a path of the host's, None for a plain file."""
        return self._devices.get(path)

    # What userspace does

    def set_knob(self, value: int) -> None:
        """freeze_on_smi_store (arch/x86/events/intel/core.c): IPIs only for another value."""
        if value != self.knob:
            self.knob = value
            for cpu in self.debugctl:
                self.set_bit(cpu, value)

    def set_bit(self, cpu: int, value: int) -> None:
        """Write bit 14 of a CPU's IA32_DEBUGCTL."""
        others = self.debugctl[cpu] & ~FREEZE_WHILE_SMM
        self.debugctl[cpu] = others | (FREEZE_WHILE_SMM if value else 0)

    def bit(self, cpu: int) -> int:
        return int(bool(self.debugctl[cpu] & FREEZE_WHILE_SMM))

    def made_directory(self, path: str) -> None:
        """Fill a new tracing instance."""
        folder, _, name = path.rpartition("/")
        if folder != f"{TRACING}/instances":
            return
        self.instances[name] = Instance(name)
        self._devices[f"{path}/trace_pipe"] = _TracePipe(self.instances[name])
        for file in ("trace_pipe", "trace_clock", "buffer_percent", "set_event_pid", "tracing_on"):
            write(self.tree, f"{path}/{file}", "")
        for event in self.probes:
            write(self.tree, f"{path}/events/{event}/enable", "0\n")

    def removes_directory(self, path: str) -> None:
        """Empty a tracing instance that is to be removed."""
        name = path.rpartition("/")[2]
        if path == f"{TRACING}/instances/{name}" and self.instances.pop(name, None):
            self._devices.pop(f"{path}/trace_pipe")
            folder = self.tree.path(path)
            shutil.rmtree(folder)
            folder.mkdir()

    def place_probes(self, line: str) -> int:
        """Take a line of kprobe_events."""
        removed = re.fullmatch(r"-:(\w+/\w+)", line)
        if removed:
            return 0 if self.probes.pop(removed[1], None) else -errno.ENOENT
        placed = re.fullmatch(r"p:(\w+/\w+) (?:kvm_intel:)?(\w+)((?: \w+=\S+)*)", line)
        if placed is None or placed[2] not in (VMX_VCPU_RUN, TDX_VCPU_RUN):
            return -errno.EINVAL
        event, place, rest = placed.groups()
        fetches = dict(argument.split("=", 1) for argument in rest.split())
        self.probes[event] = Probe(place, fetches)
        for name in self.instances:
            write(self.tree, f"{TRACING}/instances/{name}/events/{event}/enable", "0\n")
        return 0

    # What the kernel does

    def log(self, message: str, level: int = _WARNING) -> None:
        """Print a line to the kernel log."""
        microseconds = time.monotonic_ns() // 1000
        line = f"{level},{len(self.records) + 1},{microseconds},-;{message}\n"
        self.records.append(line.encode())

    def clear_warn_once(self) -> None:
        """Let WARN_ON_ONCE fire again."""
        self._has_warned = False

    def warn_on_once(self, function: str, cpu: int, tid: int) -> None:
        """The WARN_ON_ONCE of a function of kvm_intel."""
        if self._has_warned:
            return
        self._has_warned = True
        self.log("------------[ cut here ]------------")
        place = f"arch/x86/kvm/vmx/tdx.c:1043 at {function}+0x2f3/0x510 [kvm_intel]"
        self.log(f"WARNING: {place}, CPU#{cpu}: kvmtest/{tid}")
        self.log("---[ end trace 0000000000000000 ]---")

    def hit(self, function: str, tid: int, cpu: int, flags: int) -> None:
        """Have the probes see a call of a function whose second argument is ``flags``."""
        for event, probe in self.probes.items():
            if probe.place != function:
                continue
            for instance in self.instances.values():
                folder = f"{TRACING}/instances/{instance.name}"
                tasks = (self.tree.read(f"{folder}/set_event_pid") or "").split()
                on = self.tree.read(f"{folder}/events/{event}/enable") == "1"
                if on and (not tasks or str(tid) in tasks):
                    instance.unread += _hit(event.split("/")[1], probe, tid, cpu, flags)


def _hit(event: str, probe: Probe, tid: int, cpu: int, flags: int) -> bytes:
    now = time.monotonic_ns() // 1000
    name = Path(f"/proc/{tid}/comm").read_text().strip()
    when = f"{name}-{tid} [{cpu:03}] d..2. {now // 1_000_000}.{now % 1_000_000:06}"
    values = "".join(
        f" {argument}={flags if fetch.startswith('%si') else 0:#x}"
        for argument, fetch in probe.fetches.items()
    )
    return f"{when}: {event}: ({probe.place}+0x0/0x510 [kvm_intel]){values}\n".encode()


class _KnobFile(Device):
    def __init__(self, host: Host) -> None:
        self._host = host

    def read(self, opened: Opened, count: int, at: int | None) -> bytes | int:
        start = opened.at if at is None else at
        data = f"{self._host.knob}\n".encode()[start : start + count]
        if at is None:
            opened.at += len(data)
        return data

    def write(self, data: bytes, at: int | None) -> int:
        try:
            value = int(data.decode().strip(), 0)
        except ValueError:
            return -errno.EINVAL
        if value not in (0, 1):
            return -errno.EINVAL
        self._host.set_knob(value)
        return len(data)


class _MsrFile(Device):
    def __init__(self, host: Host, cpu: int) -> None:
        self._host = host
        self._cpu = cpu

    def read(self, opened: Opened, count: int, at: int | None) -> bytes | int:
        values = {
            _IA32_DEBUGCTL: self._host.debugctl[self._cpu],
            **self._host.constant_msrs,
            _IA32_TSC: time.monotonic_ns(),
        }
        index = opened.at if at is None else at
        if count % 8 or not count:
            return -errno.EINVAL
        if index not in values:
            return -errno.EIO
        return values[index].to_bytes(8, "little")

    def write(self, data: bytes, at: int | None) -> int:
        return -errno.EPERM


class _LogFile(Device):
    """/dev/kmsg (Documentation/ABI/testing/dev-kmsg): a record a read."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def read(self, opened: Opened, count: int, at: int | None) -> bytes | int:
        if opened.at >= len(self._host.records):
            return -errno.EAGAIN
        record = self._host.records[opened.at]
        if len(record) > count:
            return -errno.EINVAL
        opened.at += 1
        return record

    def write(self, data: bytes, at: int | None) -> int:
        prefix = re.match(rb"<(\d)>", data)
        level = int(prefix[1]) if prefix else _WARNING
        message = data[prefix.end() :] if prefix else data
        self._host.log(message.decode().rstrip("\n"), level | _USER_FACILITY)
        return len(data)

    def seek(self, opened: Opened, offset: int, whence: int) -> int:
        if offset:
            return -errno.ESPIPE
        opened.at = len(self._host.records) if whence == os.SEEK_END else 0
        return 0


class _ClearFile(Device):
    def __init__(self, host: Host) -> None:
        self._host = host

    def write(self, data: bytes, at: int | None) -> int:
        self._host.clear_warn_once()
        return len(data)


class _ProbesFile(Device):
    def __init__(self, host: Host) -> None:
        self._host = host

    def write(self, data: bytes, at: int | None) -> int:
        for line in data.decode().splitlines():
            if (answer := self._host.place_probes(line.strip())) < 0:
                return answer
        return len(data)


class _TracePipe(Device):
    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    def read(self, opened: Opened, count: int, at: int | None) -> bytes | int:
        data = bytes(self._instance.unread[:count])
        del self._instance.unread[: len(data)]
        return data or -errno.EAGAIN
