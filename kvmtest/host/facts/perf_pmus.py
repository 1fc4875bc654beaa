"""Perf PMUs
=========

The PMUs that the kernel offers under /sys/bus/event_source/devices, as text: nothing is opened.
See Documentation/ABI/testing/sysfs-bus-event_source-devices-format and its neighbours.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kvmtest.host.facts.cpu import Cpu, CpuListError, cpuid, parse_cpu_list
from kvmtest.host.facts.kernel import read_config
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing

__all__ = [
    "CORE_NAMES",
    "Pmu",
    "core_pmu",
    "hardware_pmu",
    "is_hybrid",
    "nmi_watchdog",
    "perf_event_paranoid",
    "pmu_names",
    "smi_event",
    "watchdog_counts",
]

DEVICES = "/sys/bus/event_source/devices"

# What mainline kernels call the PMUs of the cores. Others exist: sysfs tells which.
CORE_NAMES = ("cpu", "cpu_core", "cpu_atom")

# PERF_TYPE_RAW (include/uapi/linux/perf_event.h): the type of "cpu", and of a hybrid CPU's big
# cores; other PMUs have numbers above those of this header.
_RAW = 4

# Files beside an event that qualify it and are not events themselves.
_EVENT_QUALIFIERS = (".unit", ".scale", ".snapshot", ".per-pkg")


@dataclass(frozen=True, slots=True)
class Pmu:
    """One PMU as sysfs describes it.

    ``type`` goes into ``perf_event_attr.type``. ``format`` maps a term to its bits, such as "event"
    to "config:0-7"; ``events`` maps a name to its terms, such as "smi" to "event=0x04". ``cpus``
    are the CPUs it counts on, or opens on if uncore; None where it names none, which means all.
    ``is_kind_of_core`` tells that it is one of several kinds of core.
    """

    name: str
    type: int
    format: Mapping[str, str]
    events: Mapping[str, str]
    cpus: tuple[int, ...] | None
    is_kind_of_core: bool = False

    @property
    def is_hardware(self) -> bool:
        """Tell whether it is a PMU of the CPU cores.

        One for each kind of core has a file ``cpus`` (intel_hybrid_get_attr_cpus,
        arch/x86/events/intel/core.c), the one of cores that are all alike has not; PMUs outside the
        cores have ``cpumask``.
        """
        return self.is_kind_of_core or self.type == _RAW or self.name in CORE_NAMES

    @classmethod
    def of(cls, tree: Tree, name: str) -> "Pmu | Missing":
        """Read the PMU ``name``, such as "cpu" or "msr"."""
        number = tree.read(f"{DEVICES}/{name}/type")
        if number is None:
            return Missing(f"the kernel has no perf PMU {name}")
        if not (number.isascii() and number.isdigit()):
            return Missing(f"perf PMU {name} has no number: its type is {number!r}")
        return cls(
            name=name,
            type=int(number),
            format=_texts(tree, f"{DEVICES}/{name}/format"),
            events=_texts(tree, f"{DEVICES}/{name}/events", _EVENT_QUALIFIERS),
            cpus=_cpus(tree, name),
            is_kind_of_core=name in CORE_NAMES[1:] or tree.exists(f"{DEVICES}/{name}/cpus"),
        )


def pmu_names(tree: Tree) -> tuple[str, ...]:
    """Return the names of all PMUs; a big machine has hundreds, so read only those you need."""
    try:
        return tuple(sorted(entry.name for entry in os.scandir(tree.path(DEVICES))))
    except OSError:
        return ()


def hardware_pmu(tree: Tree, cpu: Cpu | Missing | None = None) -> tuple[Pmu, ...] | Missing:
    """Return the PMU of each kind of CPU core; pass ``cpu`` where known.

    A kind of core without an online CPU has one too, with empty ``cpus``.
    """
    found = (Pmu.of(tree, name) for name in pmu_names(tree) if _may_be_of_cores(tree, name))
    cores = [pmu for pmu in found if isinstance(pmu, Pmu) and pmu.is_hardware]
    # The big cores' PMU first, which has the lowest number.
    pmus = tuple(sorted(cores, key=lambda pmu: pmu.type))
    return pmus or _why_no_hardware_pmu(tree, Cpu.of(tree) if cpu is None else cpu)


def _may_be_of_cores(tree: Tree, name: str) -> bool:
    """Tell whether a PMU has no cpumask; the hundreds outside the cores have one."""
    return not tree.exists(f"{DEVICES}/{name}/cpumask")


def core_pmu(pmus: Sequence[Pmu], cpu: int) -> Pmu | Missing:
    """Return the core PMU that counts on ``cpu``."""
    for pmu in pmus:
        if pmu.cpus is None or cpu in pmu.cpus:
            return pmu
    names = ", ".join(pmu.name for pmu in pmus)
    return Missing(
        f"no PMU counts on CPU {cpu} (there are {names})",
        "read the line 'Performance Events:' of the kernel log",
    )


def is_hybrid(tree: Tree, cores: Sequence[Pmu]) -> bool:
    """Tell whether the CPU has cores of several kinds; ``cores`` are the PMUs of its cores.

    Each kind has a PMU, and only such a PMU has a file ``cpus``. A hybrid CPU whose other
    cores are switched off is one by CPUID.7:EDX[15] (SDM volume 2, CPUID).
    """
    leaf = cpuid(tree, 7)
    flagged = not isinstance(leaf, Missing) and bool(leaf.edx >> 15 & 1)
    return flagged or any(pmu.is_kind_of_core for pmu in cores)


def smi_event(tree: Tree) -> str | Missing:
    """Return the terms of the event ``msr/smi/``, which counts SMIs on Intel CPUs."""
    msr = Pmu.of(tree, "msr")
    if isinstance(msr, Missing):
        return Missing(msr.what, "boot a kernel with CONFIG_PERF_EVENTS")
    if "smi" not in msr.events:
        return Missing(
            "perf PMU msr has no smi event (the kernel knows no SMI count for this CPU model)",
            "read MSR 0x34 instead, or boot Linux 7.0 or later, which asks the CPU",
        )
    return msr.events["smi"]


def perf_event_paranoid(tree: Tree) -> int | Missing:
    """Return kernel.perf_event_paranoid (Documentation/admin-guide/sysctl/kernel.rst)."""
    text = tree.read("/proc/sys/kernel/perf_event_paranoid")
    try:
        return int(text or "")
    except ValueError:
        return _perf_is_off()


def nmi_watchdog(tree: Tree) -> bool | Missing:
    """Tell whether the hard lockup detector is on; see :func:`watchdog_counts` for its counter."""
    text = tree.read("/proc/sys/kernel/nmi_watchdog")
    if text not in {"0", "1"}:
        return Missing("/proc/sys/kernel/nmi_watchdog is absent: this kernel has no NMI watchdog")
    return text == "1"


def watchdog_counts(tree: Tree) -> bool:
    """Tell whether the NMI watchdog takes one hardware counter of every CPU.

    A kernel that has CPUs watch each other (CONFIG_HARDLOCKUP_DETECTOR_BUDDY) takes none for it,
    and the same sysctl switches that (kernel/watchdog.c).
    """
    if nmi_watchdog(tree) is not True:
        return False
    config = read_config(tree, tree.read("/proc/sys/kernel/osrelease") or "")
    return isinstance(config, Missing) or config.get("HARDLOCKUP_DETECTOR_BUDDY") != "y"


def _why_no_hardware_pmu(tree: Tree, cpu: Cpu | Missing) -> Missing:
    """Return why no PMU of the CPU cores is registered."""
    if isinstance(cpu, Missing):
        return cpu
    if not tree.exists(DEVICES):
        return _perf_is_off()
    if cpu.under_hypervisor:
        return Missing(
            "this virtual machine has no PMU (no cpu PMU in sysfs)",
            "give it one (QEMU: -cpu host,pmu=on), or run on bare metal",
        )
    return Missing(
        "the kernel drives no PMU of this CPU (no cpu PMU in sysfs)",
        "read the line 'Performance Events:' of the kernel log",
    )


def _perf_is_off() -> Missing:
    """Say that perf itself is missing."""
    return Missing(
        "perf is not in this kernel, or /proc and /sys are not mounted",
        "mount /proc and /sys, or boot a kernel with CONFIG_PERF_EVENTS",
    )


def _texts(tree: Tree, folder: str, leave_out: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the text of each readable file in ``folder``, except for endings ``leave_out``."""
    try:
        names = sorted(entry.name for entry in os.scandir(tree.path(folder)))
    except OSError:
        return {}
    texts = ((n, tree.read(f"{folder}/{n}")) for n in names if not n.endswith(leave_out))
    return {name: text for name, text in texts if text is not None}


def _cpus(tree: Tree, name: str) -> tuple[int, ...] | None:
    """Return the CPUs of PMU ``name``: file cpus for a kind of core, cpumask for an uncore.

    A kind of core may have no CPU online; a damaged list names none.
    """
    texts = (tree.read(f"{DEVICES}/{name}/{file}") for file in ("cpus", "cpumask"))
    text = next((text for text in texts if text is not None), None)
    try:
        return parse_cpu_list(text) if text is not None else None
    except CpuListError:
        return ()
