"""A machine is good for something, and there is always a next command."""

import pytest

from kvmtest.checks.preconditions import PRECONDITIONS
from kvmtest.diagnosis import Diagnosis, diagnose
from kvmtest.host.facts.lab import VARIABLE, LabFacts
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing
from kvmtest.properties import PROPERTIES


def diagnosed(monkeypatch: pytest.MonkeyPatch, machine: Machine, *lacks: str) -> Diagnosis:
    """Return the diagnosis of a machine that lacks these alone."""
    for name in PRECONDITIONS:
        missing = Missing(f"no {name}", f"get {name}") if name in lacks else None
        monkeypatch.setitem(PRECONDITIONS, name, lambda machine, answer=missing: answer)
    return diagnose(machine, 0)


@pytest.mark.parametrize(
    ("lacks", "proves", "commands"),
    [
        ((), "what guests hold and what SMIs leak", ["kvmtest run"]),
        (
            ("smi-source", "kvm-amd"), "what guests hold, but no leak",
            ["kvmtest run", "kvmtest lab run"],
        ),
        (
            ("kvm-intel",), "what SVM guests see, nothing of VMX",
            ["kvmtest lab run", "kvmtest run"],
        ),
        (
            ("kvm", "kvm-intel", "kvm-amd"), "little, and nothing of VMX",
            ["kvmtest lab run", "kvmtest run"],
        ),
        (tuple(PRECONDITIONS), "nothing of VMX", ["kvmtest lab run"]),
    ],
)  # fmt: skip
def test_a_machine_is_good_for_something_and_there_is_a_next_command(
    monkeypatch: pytest.MonkeyPatch, lacks: tuple[str, ...], proves: str, commands: list[str]
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    found = diagnosed(monkeypatch, Machine(Tree()), *lacks)
    open_here = sum(not missing for missing in found.properties.values())
    count = f"{open_here} of {len(PROPERTIES)} properties"
    assert found.good_for == f"This machine can prove {proves}: {count}."
    assert [command for command, _ in found.next_steps] == commands


def test_inside_a_lab_s_machine_no_other_is_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(Tree())
    vars(machine)["lab"] = LabFacts("emulator", "a CPU", "1")
    assert diagnosed(monkeypatch, machine, *PRECONDITIONS).next_steps == []
