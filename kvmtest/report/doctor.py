"""Doctor
======

What this machine can prove, what it can't, why, and how to change that; as a table and as JSON.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.text import Text

from kvmtest import __version__
from kvmtest.checks.preconditions import lacking, witness_lacks
from kvmtest.host.facts import host_facts, kernel_facts, machine_facts
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing
from kvmtest.properties import PROPERTIES, WITNESSES
from kvmtest.smi import sources

from .terminal import console, facts_table, grouped, missing_table

__all__ = ["as_dict", "show"]


def show(root: Path) -> None:
    """Print the facts, the witnesses and the properties."""
    machine = Machine(Tree(root))
    screen = console()
    screen.print(facts_table(_facts(machine)))
    screen.print("\n[bold]witnesses[/]")
    screen.print(facts_table(_witnesses(machine)))
    answers = _answers(machine)
    screen.print("\n[bold]can be decided here[/]")
    for property_id, missing in answers.items():
        if not missing:
            screen.print(Text(f"  {property_id}", "green"))
    if all(answers.values()):
        screen.print("  nothing")
    screen.print("\n[bold]can't be decided here[/]")
    first = {property_id: missing[0].what for property_id, missing in answers.items() if missing}
    screen.print(facts_table(("\n".join(ids), what) for what, ids in grouped(first).items()))
    screen.print()
    screen.print(missing_table(thing for missing in answers.values() for thing in missing))


def as_dict(root: Path) -> dict[str, Any]:
    """Return the same as JSON has it."""
    machine = Machine(Tree(root))
    return {
        "kvmtest": __version__,
        "machine": machine_facts(machine),
        "host": host_facts(machine),
        "kernel": kernel_facts(machine),
        "properties": {
            property_id: [{"missing": m.what, "remedy": m.remedy} for m in missing]
            for property_id, missing in _answers(machine).items()
        },
    }


def _answers(machine: Machine) -> dict[str, list[Missing]]:
    """Return what keeps each property from being decided, by id."""
    return {p.id: lacking(machine, p) for p in PROPERTIES}


def _witnesses(machine: Machine) -> Iterator[tuple[str, str]]:
    for witness in WITNESSES.values():
        missing = witness_lacks(machine, witness.name)
        answer = "; ".join(map(str, missing)) if missing else f"here: {witness.observes}"
        yield f"  {witness.name}", answer


def _facts(machine: Machine) -> Iterator[tuple[str, str]]:
    cpu, kernel, module, knob = machine.cpu, machine.kernel, machine.kvm_module, machine.knob
    yield "machine", str(machine.virtualisation)
    if isinstance(cpu, Missing):
        yield "CPU", str(cpu)
    else:
        model = f"family {cpu.family} model {cpu.model} stepping {cpu.stepping}"
        yield "CPU", f"{cpu.model_name} ({cpu.vendor}, {model}), {len(cpu.online)} online"
    yield "kernel", str(kernel) if isinstance(kernel, Missing) else kernel.release
    yield "fix in kernel", _fix(machine)
    if isinstance(module, Missing):
        yield "KVM", str(module)
    else:
        yield "KVM", f"{module.name}, {'built in' if module.built_in else 'loaded as a module'}"
    mediated = machine.mediated_pmu
    if not isinstance(module, Missing):
        told = "on: guests get the CPU's own counters" if mediated is True else "off"
        yield "mediated PMU", str(mediated) if isinstance(mediated, Missing) else told
    yield "freeze_on_smi", str(knob) if isinstance(knob, Missing) else str(knob.value())
    yield "MSRs", str(machine.msr) if isinstance(machine.msr, Missing) else "readable"
    pmus = machine.pmus
    yield "PMU", str(pmus) if isinstance(pmus, Missing) else ", ".join(pmu.name for pmu in pmus)
    for name, source in sources(machine).items():
        looks = str(source) if isinstance(source, Missing) else "looks usable (not fired)"
        yield f"SMI by {name}", looks
    yield "lockdown", str(machine.lockdown)
    boot = machine.secure_boot
    yield "Secure Boot", str(boot) if isinstance(boot, Missing) else ("on" if boot else "off")
    others = [str(user) for user in machine.census.users]
    others += [f"unseen: {spot.what}" for spot in machine.census.blind_spots]
    yield "others on /dev/kvm", "; ".join(others) or "nobody"


def _fix(machine: Machine) -> str:
    fix = machine.fix
    if isinstance(fix, Missing):
        return f"unknown: {fix}"
    if not fix.is_of_kvm:
        return f"unknown: {fix.where} does not describe KVM"
    return f"{'present' if fix.is_present else 'absent'} (by {fix.where})"
