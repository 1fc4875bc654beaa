"""Facts as JSON
=============

What is known of a machine, as JSON: for evidence and ``kvmtest doctor --json``.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from kvmtest.evidence import CpuRecord, HostRecord, KernelRecord, LabRecord, MachineRecord
from kvmtest.evidence.coding import decode
from kvmtest.host.facts.census import Census
from kvmtest.host.facts.freeze_knob import Knob, KnobError
from kvmtest.host.machine import Machine
from kvmtest.missing import Missing

__all__ = ["host_facts", "kernel_facts", "machine_facts", "plain"]


def plain(value: Any) -> Any:
    """Return a fact as JSON has it; what is missing says so, with its remedy."""
    if isinstance(value, Missing):
        return {"missing": value.what, "remedy": value.remedy}
    if is_dataclass(value) and not isinstance(value, type):
        # Not by asdict, which would make plain objects of what is missing inside.
        names = (field.name for field in fields(value) if field.name != "tree")
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, frozenset | set):
        return sorted(map(plain, value))
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def machine_facts(machine: Machine) -> MachineRecord:
    """Return what the machine is."""
    kind = "lab" if machine.lab else "host" if machine.tree.is_live else "stand-in"
    return MachineRecord(
        kind=kind,
        root=str(machine.tree.root),
        hostname=machine.hostname,
        virtualisation=str(machine.virtualisation),
        cpu=decode(CpuRecord, plain(machine.cpu)),
        lab=decode(LabRecord, plain(machine.lab)) if machine.lab else None,
    )


def kernel_facts(machine: Machine) -> KernelRecord:
    """Return which kernel runs, without its whole configuration."""
    kernel = plain(machine.kernel)
    if not isinstance(machine.kernel, Missing):
        config = machine.kernel.configuration
        kernel["configuration"] = plain(config) if isinstance(config, Missing) else config.source
    return decode(KernelRecord, {**kernel, "fix": plain(machine.fix)})


def host_facts(machine: Machine) -> HostRecord:
    """Return what decides which properties can be decided."""
    return HostRecord(
        kvm_module=plain(machine.kvm_module),
        mediated_pmu=plain(machine.mediated_pmu),
        knob=plain(_knob_values(machine.knob)),
        msr=plain(machine.msr),
        lockdown=plain(machine.lockdown),
        secure_boot=plain(machine.secure_boot),
        pmus=plain(machine.pmus),
        pmu_names=plain(machine.pmu_names),
        fadt=plain(machine.fadt),
        kvm_users=_census(machine.census),
    )


def _census(census: Census) -> dict[str, Any]:
    return {
        "users": plain(census.processes),
        "unreadable": plain(census.unreadable),
        "blind_spots": plain(census.blind_spots),
    }


def _knob_values(knob: Knob | Missing) -> dict[str, int] | Missing:
    try:
        return knob if isinstance(knob, Missing) else knob.values()
    except KnobError as error:
        return Missing(str(error))
