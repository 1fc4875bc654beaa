"""The freeze_on_smi knob
======================

Where the kernel shows the sysfs attribute that sets IA32_DEBUGCTL.FREEZE_WHILE_SMM on every CPU
(arch/x86/events/intel/core.c), and what it says. :mod:`kvmtest.host.changes.freeze_knob` writes it.
"""

from dataclasses import dataclass
from pathlib import Path

from kvmtest.errors import KvmtestError
from kvmtest.host.facts.cpu import Cpu
from kvmtest.host.facts.perf_pmus import CORE_NAMES, DEVICES, hardware_pmu
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing

__all__ = ["PATHS", "Knob", "KnobError", "find", "paths"]

#: Where mainline kernels show it. Each PMU of the cores does, whatever its name; all are views of
#: one value for the whole machine.
PATHS = tuple(f"/sys/devices/{pmu}/freeze_on_smi" for pmu in CORE_NAMES)

_NAME = "freeze_on_smi"
_PATTERNS = (f"/sys/devices/*/{_NAME}", f"{DEVICES}/*/{_NAME}")


class KnobError(KvmtestError):
    """The knob can't be read, or holds an impossible value."""


@dataclass(frozen=True, slots=True)
class Knob:
    """The freeze_on_smi attribute at each of ``paths``.

    Its value proves nothing: the kernel ignores an error of the MSR write, so sysfs can say 1 while
    the MSR says 0, as it does wherever a hypervisor above refuses the bit. Check IA32_DEBUGCTL bit
    14 on every CPU (:mod:`kvmtest.host.facts.msr`).
    """

    tree: Tree
    paths: tuple[str, ...]

    def described(self) -> str:
        """Return the value in words, or what is wrong with it."""
        try:
            return str(self.value())
        except KnobError as error:
            return str(error)

    def values(self) -> dict[str, int]:
        """Return the value at each path, 0 or 1. Raises KnobError."""
        return {path: self._read(path) for path in self.paths}

    def value(self) -> int:
        """Return the value, 0 or 1, which proves nothing about the MSRs. Raises KnobError."""
        values = self.values()
        if len(set(values.values())) != 1:
            said = ", ".join(f"{path} says {value}" for path, value in values.items())
            raise KnobError(f"the views of freeze_on_smi disagree ({said}); report a kernel bug")
        return values[self.paths[0]]

    def _read(self, path: str) -> int:
        text = self.tree.read(path)
        if text not in {"0", "1"}:
            said = "can't be read" if text is None else f"says {text!r}"
            raise KnobError(f"{path} {said}, where 0 or 1 is expected; run as root on the host")
        return int(text)


def paths(tree: Tree) -> tuple[str, ...]:
    """Return the attribute's paths, whatever the PMUs are called, each once; PATHS come first."""
    found: dict[Path, str] = {}
    for path in (path for pattern in _PATTERNS for path in tree.glob(pattern)):
        # The bus's folders are links to the devices'.
        found.setdefault(path.resolve(), f"/{path.relative_to(tree.root)}")
    return tuple(sorted(found.values(), key=_rank))


def _rank(path: str) -> tuple[int, str]:
    return PATHS.index(path) if path in PATHS else len(PATHS), path


def find(tree: Tree, cpu: Cpu | Missing | None = None) -> Knob | Missing:
    """Find the knob, or say why this machine has none; pass ``cpu`` where it is already known."""
    if there := paths(tree):
        return Knob(tree, there)
    if cpu is None:
        cpu = Cpu.of(tree)
    return cpu if isinstance(cpu, Missing) else _why_none(tree, cpu)


def _why_none(tree: Tree, cpu: Cpu) -> Missing:
    """Return why the kernel shows no freeze_on_smi for ``cpu``."""
    if cpu.is_amd_kind:
        vendor = {"amd": "AMD"}.get(cpu.vendor, cpu.vendor)
        return Missing(
            f"{vendor} CPUs have no FREEZE_WHILE_SMM bit, so there is no freeze_on_smi",
            "run on an Intel CPU",
        )
    if cpu.vendor != "intel":
        return Missing(
            f"Linux drives FREEZE_WHILE_SMM on Intel CPUs alone, not on those of {cpu.vendor}, so "
            "there is no freeze_on_smi",
            "run on an Intel CPU",
        )
    pmu = hardware_pmu(tree, cpu)
    if isinstance(pmu, Missing):
        return Missing(f"there is no freeze_on_smi: {pmu.what}", pmu.remedy)
    return Missing(
        "the kernel's PMU driver offers no freeze_on_smi (kernel or PMU too old)",
        "boot a kernel whose Intel PMU driver has freeze_on_smi",
    )
