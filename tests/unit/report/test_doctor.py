"""doctor says first what the machine is good for and what to do, and each missing thing once."""

import json
import re
from pathlib import Path

import pytest
from support.stand_in import intel_host

from kvmtest.checks.preconditions import PRECONDITIONS, lacking
from kvmtest.cli import main
from kvmtest.host.facts.lab import VARIABLE
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing
from kvmtest.properties import PROPERTIES
from kvmtest.report import doctor, terminal

Capture = pytest.CaptureFixture[str]


def answers(monkeypatch: pytest.MonkeyPatch, *lacks: str) -> dict[str, list[Missing]]:
    """Return what keeps each property from being decided on a machine that lacks these alone."""
    for name in PRECONDITIONS:
        missing = Missing(f"no {name}", f"get {name}") if name in lacks else None
        monkeypatch.setitem(PRECONDITIONS, name, lambda machine, answer=missing: answer)
    return {p.id: lacking(Machine(Tree()), p) for p in PROPERTIES}


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
    found = answers(monkeypatch, *lacks)
    open_here = sum(not missing for missing in found.values())
    count = f"{open_here} of {len(PROPERTIES)} properties"
    assert doctor._good_for(found) == f"This machine can prove {proves}: {count}."
    told = doctor._next(Machine(Tree()), found)
    assert [lead.split(maxsplit=1)[1] for lead, _ in told] == commands
    assert [lead.split()[0] for lead, _ in told] == ["next:", "or:"][: len(commands)]


def test_inside_a_lab_s_machine_no_other_is_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(Tree())
    vars(machine)["lab"] = object()
    assert doctor._next(machine, answers(monkeypatch, *PRECONDITIONS)) == []


def shown(root: Path, capsys: Capture) -> str:
    assert main(["doctor", "--root", str(root)]) == 0
    return capsys.readouterr().out


def test_the_first_line_is_what_the_machine_is_good_for(tmp_path: Path, capsys: Capture) -> None:
    intel_host(tmp_path)
    first, second = shown(tmp_path, capsys).splitlines()[:2]
    assert first.startswith("This machine can prove ")
    assert second.startswith("next: kvmtest doctor  on the machine itself")
    assert main(["doctor", "--json", "--root", str(tmp_path)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["good_for"], told["next"]) == (first, ["kvmtest doctor"])


@pytest.mark.parametrize("there", ["all", "nothing"])
def test_each_missing_thing_is_told_once_and_else_by_its_number(
    tmp_path: Path, capsys: Capture, there: str
) -> None:
    root = tmp_path / "host"
    intel_host(root) if there == "all" else root.mkdir()
    out = shown(root, capsys)
    facts, _, table = out.partition("missing here")
    numbers = re.findall(r"^(\d+) ", table, re.MULTILINE)
    assert numbers == [str(number) for number in range(1, len(numbers) + 1)]
    machine = Machine(Tree(root))
    wanted = {missing for p in PROPERTIES for missing in lacking(machine, p)}
    assert len(numbers) == len(wanted)
    # Sources of SMIs have reasons of their own.
    before, _, after = facts.partition("SMI by")
    told = " ".join(f"{before} {after.partition('lockdown')[2]}".split())
    assert "missing: see" in told
    assert not [missing for missing in wanted if missing.what in told]
    # Every number that anything refers to is in the table.
    referred = re.findall(r"see ([\d ]+)$|  ([\d ]+)$", facts, re.MULTILINE)
    assert {n for pair in referred for n in " ".join(pair).split()} <= set(numbers)


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("make", ["intel", "empty"])
def test_it_fits_any_terminal_and_breaks_no_id(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, make: str, width: int
) -> None:
    monkeypatch.setattr(terminal, "PIPE_WIDTH", width)
    root = tmp_path / "host"
    intel_host(root) if make == "intel" else root.mkdir()
    out = shown(root, capsys)
    assert max(map(len, out.splitlines())) <= width
    assert all(p.id in out.split() for p in PROPERTIES)
