"""Diagnosis
=========

Whether SMIs pollute what is counted on a machine, what it can prove, what keeps it from the rest,
and what to do next.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kvmtest import __version__
from kvmtest.checks.preconditions import answer, lacking, witness_lacks
from kvmtest.evidence.coding import encode
from kvmtest.host.as_json import host_facts, kernel_facts, machine_facts
from kvmtest.host.machine import Machine
from kvmtest.missing import Missing
from kvmtest.pollution import Pollution, observed
from kvmtest.properties import PROPERTIES, WITNESSES
from kvmtest.smi import all_sources

__all__ = ["Diagnosis", "Fact", "diagnose"]

Fact = str | Missing


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Whether SMIs pollute what is counted on a machine, what it can prove and what it lacks.

    ``next_steps`` are commands and their purpose, the best first. ``witnesses`` maps each witness's
    name, and ``properties`` each property's id, to the missing things that stand in the way.
    ``shortened`` maps a missing thing to a shorter text, where the facts state the rest.
    """

    pollution: Pollution
    good_for: str
    next_steps: list[tuple[str, str]]
    facts: list[tuple[str, Fact]]
    witnesses: dict[str, list[Missing]]
    properties: dict[str, list[Missing]]
    shortened: dict[Missing, Missing]

    def to_dict(self, machine: Machine) -> dict[str, Any]:
        """Return the diagnosis and the machine's facts as values for JSON."""
        return {
            "kvmtest": __version__,
            "pollution": self.pollution.to_dict(),
            "good_for": self.good_for,
            "next": [command for command, _ in self.next_steps],
            "machine": encode(machine_facts(machine)),
            "host": encode(host_facts(machine)),
            "kernel": encode(kernel_facts(machine)),
            "properties": {
                property_id: [{"missing": m.what, "remedy": m.remedy} for m in missing]
                for property_id, missing in self.properties.items()
            },
        }


def diagnose(machine: Machine, seconds: float) -> Diagnosis:
    """Return what the machine can prove, and what it lacks for the rest.

    SMIs are counted for so many seconds, 0 for not at all.
    """
    properties = {p.id: lacking(machine, p) for p in PROPERTIES}
    return Diagnosis(
        observed(machine, seconds),
        _good_for(properties),
        list(_next_steps(machine, properties)),
        list(_facts(machine)),
        {name: witness_lacks(machine, name) for name in WITNESSES},
        properties,
        _shortened(machine),
    )


_VMX = ("vmx.", "nvmx.")
_VMX_LEAKS = ("vmx.leak.", "nvmx.leak.")


def _good_for(properties: Mapping[str, list[Missing]]) -> str:
    """Return in one sentence what the machine can prove."""
    can = [property_id for property_id, missing in properties.items() if not missing]
    count = f"{len(can)} of {len(properties)} properties"
    if any(property_id.startswith(_VMX_LEAKS) for property_id in can):
        return f"This machine can prove what guests hold and what SMIs leak: {count}."
    if any(property_id.startswith(_VMX) for property_id in can):
        return f"This machine can prove what guests hold, but no leak: {count}."
    if any(property_id.startswith("svm.") for property_id in can):
        return f"This machine can prove what SVM guests see, nothing of VMX: {count}."
    return f"This machine can prove {'little, and ' * bool(can)}nothing of VMX: {count}."


def _next_steps(
    machine: Machine, properties: Mapping[str, list[Missing]]
) -> Iterator[tuple[str, str]]:
    can = [property_id for property_id, missing in properties.items() if not missing]
    vmx, leaks = (any(p.startswith(ids) for p in can) for ids in (_VMX, _VMX_LEAKS))
    if not machine.tree.is_live:
        yield "kvmtest doctor", "on the machine itself; these are the files of another"
        return
    if vmx:
        yield "kvmtest run", "decide these properties"
    if not leaks and machine.lab is None:
        what = "decide leaks too" if vmx else "decide those of VMX"
        yield "kvmtest lab run", f"{what}, of a stock kernel in an emulated Intel machine"
    if can and not vmx:
        yield "kvmtest run", f"decide the {len(can)} that are open here"


def _shortened(machine: Machine) -> dict[Missing, Missing]:
    missing = answer(machine, "smi-source")
    if missing is None or machine.smi_source is not None:
        return {}
    short = "no SMI source that is tried unasked (see SMIs by)"
    return {missing: Missing(short, missing.remedy)}


def _facts(machine: Machine) -> Iterator[tuple[str, Fact]]:
    cpu, kernel, module = machine.cpu, machine.kernel, machine.kvm_module
    yield "machine", str(machine.virtualisation)
    if isinstance(cpu, Missing):
        yield "CPU", cpu
    else:
        model = f"family {cpu.family} model {cpu.model} stepping {cpu.stepping}"
        yield "CPU", f"{cpu.model_name} ({cpu.vendor}, {model}), {len(cpu.online)} online"
    yield "kernel", kernel if isinstance(kernel, Missing) else kernel.release
    if isinstance(module, Missing):
        yield "KVM", module
    else:
        yield "KVM", f"{module.name}, {'built in' if module.built_in else 'loaded as a module'}"
    mediated = machine.mediated_pmu
    if not isinstance(module, Missing):
        told = "on: guests get the CPU's own counters" if mediated is True else "off"
        yield "mediated PMU", mediated if isinstance(mediated, Missing) else told
    pmus = machine.pmus
    yield "PMU", pmus if isinstance(pmus, Missing) else ", ".join(pmu.name for pmu in pmus)
    yield from _sources(machine)
    yield "lockdown", machine.lockdown
    boot = machine.secure_boot
    yield "Secure Boot", boot if isinstance(boot, Missing) else ("on" if boot else "off")
    others = [str(user) for user in machine.census.processes]
    others += [f"unseen: {spot.what}" for spot in machine.census.blind_spots]
    yield "other VMs, users of KVM", "; ".join(others) or "nobody"


def _sources(machine: Machine) -> Iterator[tuple[str, Fact]]:
    """Give the sources of SMIs that share a fact, with the fact."""
    looks: dict[Missing | None, list[str]] = {}
    for name, source in all_sources(machine).items():
        looks.setdefault(source if isinstance(source, Missing) else None, []).append(name)
    for missing, names in looks.items():
        listed = ", ".join(names)
        if missing is None:
            yield "SMIs by", f"{listed}: looks usable (not fired)"
        else:
            yield f"SMIs by {listed}", missing
