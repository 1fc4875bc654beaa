"""Doctor
======

What this machine can prove, what it can't, why, and how to change that; as a table and as JSON.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.text import Text

from kvmtest import __version__
from kvmtest.checks.preconditions import answer, lacking, witness_lacks
from kvmtest.host.facts.recorded import host_facts, kernel_facts, machine_facts
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing
from kvmtest.properties import PROPERTIES, WITNESSES
from kvmtest.smi import sources

from .terminal import console, facts_table, grouped, numbered_table, reasons_table

__all__ = ["as_dict", "show"]

Fact = str | Missing


def show(root: Path) -> None:
    """Print what the machine is good for and what to do next; then facts, witnesses, properties.

    Each missing thing is told once, in a table at the end; all else refers to its number there.
    """
    machine = Machine(Tree(root))
    answers = _answers(machine)
    witnesses = {name: witness_lacks(machine, name) for name in WITNESSES}
    missing = _Numbered([*answers.values(), *witnesses.values()])
    screen = console()
    screen.print(Text(_good_for(answers), "bold"))
    screen.print(facts_table(_next(machine, answers)))
    screen.print()
    screen.print(facts_table((name, missing.fact(fact)) for name, fact in _facts(machine)))
    screen.print("\n[bold]witnesses[/]")
    rows = ((f"  {name}", missing.witness(name, lacks)) for name, lacks in witnesses.items())
    screen.print(facts_table(rows))
    screen.print("\n[bold]can be decided here[/]")
    can = " ".join(property_id for property_id, lacks in answers.items() if not lacks)
    screen.print(facts_table([("", can or "nothing")]))
    cannot = {property_id: missing.numbers(lacks) for property_id, lacks in answers.items()}
    groups = grouped({property_id: numbers for property_id, numbers in cannot.items() if numbers})
    if groups:
        screen.print()
        screen.print(reasons_table((" ".join(ids), numbers) for numbers, ids in groups.items()))
    if missing.rows:
        screen.print()
        screen.print(numbered_table(_shortened(machine, each) for each in missing.rows))


class _Numbered:
    """Missing things with numbers, what is wanted most first."""

    def __init__(self, wanted: Iterable[Iterable[Missing]]) -> None:
        counts = Counter(missing for things in wanted for missing in things)
        self.rows = [missing for missing, _ in counts.most_common()]

    def numbers(self, things: Iterable[Missing]) -> str:
        """Return the numbers of some missing things."""
        return " ".join(str(number) for number in sorted(map(self._number, things)))

    def fact(self, fact: Fact) -> str:
        """Return a fact in words; a missing one by its number, if it has one."""
        if isinstance(fact, str):
            return fact
        return f"missing: see {self._number(fact)}" if fact in self.rows else str(fact)

    def witness(self, name: str, lacks: list[Missing]) -> str:
        """Return whether a witness can look."""
        return f"missing: see {self.numbers(lacks)}" if lacks else WITNESSES[name].observes

    def _number(self, missing: Missing) -> int:
        return self.rows.index(missing) + 1


def _shortened(machine: Machine, missing: Missing) -> Missing:
    """Return a missing thing without what the facts have told already."""
    if missing == answer(machine, "smi-source") and machine.smi_source is None:
        return Missing("no SMI source that is tried unasked (see SMI by)", missing.remedy)
    return missing


def _good_for(answers: Mapping[str, list[Missing]]) -> str:
    """Return in one sentence what the machine can prove."""
    can = [property_id for property_id, missing in answers.items() if not missing]
    count = f"{len(can)} of {len(answers)} properties"
    if any(property_id.startswith(_VMX_LEAKS) for property_id in can):
        return f"This machine can prove what guests hold and what SMIs leak: {count}."
    if any(property_id.startswith(_VMX) for property_id in can):
        return f"This machine can prove what guests hold, but no leak: {count}."
    if any(property_id.startswith("svm.") for property_id in can):
        return f"This machine can prove what SVM guests see, nothing of VMX: {count}."
    return f"This machine can prove {'little, and ' * bool(can)}nothing of VMX: {count}."


def _next(machine: Machine, answers: Mapping[str, list[Missing]]) -> list[tuple[str, str]]:
    """Return what to do next: commands, with what they do. The first is the best."""
    can = [property_id for property_id, missing in answers.items() if not missing]
    vmx, leaks = (any(p.startswith(ids) for p in can) for ids in (_VMX, _VMX_LEAKS))
    if not machine.tree.is_live:
        return [("next: kvmtest doctor", "on the machine itself; these are the files of another")]
    commands = []
    if can:
        what = "decide these properties" if vmx else f"decide the {len(can)} that are open here"
        commands.append(("kvmtest run", what))
    if not leaks and machine.lab is None:
        what = "decide leaks too" if vmx else "decide those of VMX"
        what = f"{what}, of a stock kernel in an emulated Intel machine"
        commands.insert(len(can) if vmx else 0, ("kvmtest lab run", what))
    leads = ["next:", *["  or:"] * len(commands)]
    return [(f"{lead} {name}", what) for lead, (name, what) in zip(leads, commands, strict=False)]


_VMX = ("vmx.", "nvmx.")
_VMX_LEAKS = ("vmx.leak.", "nvmx.leak.")


def as_dict(root: Path) -> dict[str, Any]:
    """Return the same as JSON has it."""
    machine = Machine(Tree(root))
    answers = _answers(machine)
    return {
        "kvmtest": __version__,
        "good_for": _good_for(answers),
        "next": [name.split(maxsplit=1)[1] for name, _ in _next(machine, answers)],
        "machine": machine_facts(machine),
        "host": host_facts(machine),
        "kernel": kernel_facts(machine),
        "properties": {
            property_id: [{"missing": m.what, "remedy": m.remedy} for m in missing]
            for property_id, missing in answers.items()
        },
    }


def _answers(machine: Machine) -> dict[str, list[Missing]]:
    """Return what keeps each property from being decided, by id."""
    return {p.id: lacking(machine, p) for p in PROPERTIES}


def _facts(machine: Machine) -> Iterator[tuple[str, Fact]]:
    cpu, kernel, module, knob = machine.cpu, machine.kernel, machine.kvm_module, machine.knob
    yield "machine", str(machine.virtualisation)
    if isinstance(cpu, Missing):
        yield "CPU", cpu
    else:
        model = f"family {cpu.family} model {cpu.model} stepping {cpu.stepping}"
        yield "CPU", f"{cpu.model_name} ({cpu.vendor}, {model}), {len(cpu.online)} online"
    yield "kernel", kernel if isinstance(kernel, Missing) else kernel.release
    yield "fix in kernel", _fix(machine)
    if isinstance(module, Missing):
        yield "KVM", module
    else:
        yield "KVM", f"{module.name}, {'built in' if module.built_in else 'loaded as a module'}"
    mediated = machine.mediated_pmu
    if not isinstance(module, Missing):
        told = "on: guests get the CPU's own counters" if mediated is True else "off"
        yield "mediated PMU", mediated if isinstance(mediated, Missing) else told
    yield "freeze_on_smi", knob if isinstance(knob, Missing) else knob.described()
    yield "MSRs", machine.msr if isinstance(machine.msr, Missing) else "readable"
    pmus = machine.pmus
    yield "PMU", pmus if isinstance(pmus, Missing) else ", ".join(pmu.name for pmu in pmus)
    looks = {
        name: str(source) if isinstance(source, Missing) else "looks usable (not fired)"
        for name, source in sources(machine).items()
    }
    for look, names in grouped(looks).items():
        yield "SMI by", f"{', '.join(names)}: {look}"
    yield "lockdown", str(machine.lockdown)
    boot = machine.secure_boot
    yield "Secure Boot", boot if isinstance(boot, Missing) else ("on" if boot else "off")
    others = [str(user) for user in machine.census.users]
    others += [f"unseen: {spot.what}" for spot in machine.census.blind_spots]
    yield "other VMs, users of KVM", "; ".join(others) or "nobody"


def _fix(machine: Machine) -> Fact:
    fix = machine.fix
    if isinstance(fix, Missing):
        return fix
    if not fix.is_of_kvm:
        return f"unknown: {fix.where} does not describe KVM"
    return f"{'present' if fix.is_present else 'absent'} (by {fix.where})"
