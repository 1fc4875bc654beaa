"""Processors
==========

What /proc/cpuinfo, /sys/devices/system/cpu and the CPUID device say about the machine's CPUs.
"""

import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from kvmtest.errors import KvmtestError
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing

__all__ = [
    "Cpu",
    "CpuListError",
    "CpuidLeaf",
    "cpu_list",
    "cpuid",
    "parse_cpu_list",
    "parse_cpuinfo",
]

# CONFIG_MAXSMP has NR_CPUS=8192; a number far above that is damage.
MAX_CPUS = 1 << 16

_VENDORS = {"GenuineIntel": "intel", "AuthenticAMD": "amd"}

# CPUs of AMD's architecture: Hygon's are licensed from AMD, and Linux drives them as AMD's.
_AMD_KIND = frozenset({"amd", "HygonGenuine"})


class CpuListError(KvmtestError):
    """A text is no CPU list, such as ``0-3,8``."""


class CpuidLeaf(NamedTuple):
    """The four registers of one CPUID leaf."""

    eax: int
    ebx: int
    ecx: int
    edx: int


@dataclass(frozen=True, slots=True)
class Cpu:
    """The machine's CPUs; ``features`` and ``vmx_features`` are those that all CPUs share.

    ``vendor`` is "intel", "amd" or the vendor id as the CPU spells it. ``microcode`` is the first
    CPU's revision. ``vmx_features`` is the kernel's "vmx flags" line, empty before it existed.
    """

    vendor: str
    family: int
    model: int
    stepping: int
    model_name: str
    microcode: int | None
    features: frozenset[str]
    vmx_features: frozenset[str]
    online: tuple[int, ...]
    possible: tuple[int, ...]

    @property
    def is_amd_kind(self) -> bool:
        """Tell whether AMD's manual describes this CPU: SVM, and AMD's events and MSRs."""
        return self.vendor in _AMD_KIND

    @property
    def under_hypervisor(self) -> bool:
        """Tell whether CPUID.1:ECX[31] says that a hypervisor runs this machine."""
        return "hypervisor" in self.features

    @classmethod
    def of(cls, tree: Tree) -> "Cpu | Missing":
        """Read the CPUs of ``tree``, or say why /proc/cpuinfo describes none."""
        text = tree.read("/proc/cpuinfo")
        if text is None:
            return Missing("/proc/cpuinfo can't be read", "mount /proc")
        cpus = parse_cpuinfo(text)
        if not cpus:
            return Missing("/proc/cpuinfo describes no x86 CPU", "run on an x86-64 machine")
        first = cpus[0]
        listed = tuple(sorted(_number(cpu.get("processor")) for cpu in cpus))
        online = _cpus_of(tree, "/sys/devices/system/cpu/online", listed)
        return cls(
            vendor=_VENDORS.get(first["vendor_id"], first["vendor_id"]),
            family=_number(first.get("cpu family")),
            model=_number(first.get("model")),
            stepping=_number(first.get("stepping")),
            model_name=first.get("model name", ""),
            microcode=_microcode(first.get("microcode")),
            features=_common(cpu.get("flags", "") for cpu in cpus),
            vmx_features=_common(cpu.get("vmx flags", "") for cpu in cpus),
            online=online,
            possible=_cpus_of(tree, "/sys/devices/system/cpu/possible", online),
        )


def parse_cpuinfo(text: str) -> list[dict[str, str]]:
    """Return the fields of each x86 CPU in the ``text`` of /proc/cpuinfo, in its order."""
    cpus = []
    for block in text.split("\n\n"):
        fields = {}
        for line in block.splitlines():
            name, colon, value = line.partition(":")
            if colon:
                fields[name.strip()] = value.strip()
        if "vendor_id" in fields:
            cpus.append(fields)
    return cpus


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """Return the CPU numbers of a list such as ``0-3,8``, ascending and each once.

    The form is that of /sys/devices/system/cpu/online, see
    Documentation/admin-guide/cputopology.rst. Raises CpuListError.
    """
    cpus: set[int] = set()
    for part in text.strip().split(","):
        if part.strip() or text.strip():
            first, last = _range(part.strip(), text)
            cpus.update(range(first, last + 1))
    return tuple(sorted(cpus))


def cpu_list(cpus: Iterable[int]) -> str:
    """Return CPU numbers as a list such as ``0-3,8``, which :func:`parse_cpu_list` reads."""
    ends: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if ends and cpu == ends[-1][1] + 1:
            ends[-1][1] = cpu
        else:
            ends.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ends)


def cpuid(tree: Tree, leaf: int, subleaf: int = 0, cpu: int = 0) -> CpuidLeaf | Missing:
    """Read one CPUID leaf of one CPU through /dev/cpu/N/cpuid (arch/x86/kernel/cpuid.c)."""
    name = f"/dev/cpu/{cpu}/cpuid"
    try:
        fd = os.open(tree.path(name), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return Missing(f"{name} is absent (module cpuid is not loaded)", "modprobe cpuid")
    except OSError as error:
        return Missing(f"{name} can't be opened: {error.strerror}", "run as root")
    try:
        data = os.pread(fd, 16, leaf | subleaf << 32)
    except OSError as error:
        return Missing(f"{name} can't be read: {error.strerror}")
    finally:
        os.close(fd)
    if len(data) != 16:
        return Missing(f"{name} holds no leaf {leaf:#x}")
    return CpuidLeaf(*struct.unpack("<4I", data))


def _range(part: str, text: str) -> tuple[int, int]:
    """Return the first and last CPU of ``part`` of the CPU list ``text``."""
    first, dash, last = part.partition("-")
    if not dash:
        last = first
    if not all(end.isascii() and end.isdigit() and len(end) < 8 for end in (first, last)):
        raise CpuListError(f"{text!r} is not a CPU list: {part!r} is not N or N-M")
    if not int(first) <= int(last) < MAX_CPUS:
        raise CpuListError(f"{text!r} is not a CPU list: {part!r} runs backwards or is too high")
    return int(first), int(last)


def _cpus_of(tree: Tree, name: str, otherwise: tuple[int, ...]) -> tuple[int, ...]:
    """Return the CPU list in the file ``name``, or ``otherwise`` where it holds none."""
    try:
        return parse_cpu_list(tree.read(name) or "") or otherwise
    except CpuListError:
        return otherwise


def _common(texts: Iterator[str]) -> frozenset[str]:
    """Return the words that all ``texts`` share; equal texts are split once."""
    return frozenset.intersection(*(frozenset(text.split()) for text in set(texts)))


def _number(text: str | None) -> int:
    """Return the decimal ``text`` of a /proc/cpuinfo field, 0 where it says "unknown"."""
    return int(text) if text is not None and text.isascii() and text.isdigit() else 0


def _microcode(text: str | None) -> int | None:
    """Return the microcode revision written as 0xHEX, or None where the kernel shows none."""
    try:
        return int(text or "", 16)
    except ValueError:
        return None
