"""The environment tells of a lab, and nonsense in it is told."""

import json
import os

import pytest

from kvmtest.errors import EnvironmentUnfit
from kvmtest.evidence.coding import encode
from kvmtest.host.as_json import machine_facts
from kvmtest.host.facts.lab import VARIABLE, LabFacts
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree

BOCHS = {
    "emulator": "Bochs",
    "model": "corei7_skylake_x",
    "version": "2.7",
    "lacks": {"pmu": "the emulated machine has no counters"},
    "details": {"cpus": 1, "start": "booted"},
}


def test_a_machine_without_the_variable_is_no_lab() -> None:
    assert LabFacts.of({}) is None


def test_a_lab_is_what_the_variable_says() -> None:
    lab = LabFacts.of({VARIABLE: json.dumps(BOCHS)})
    assert lab == LabFacts("Bochs", "corei7_skylake_x", "2.7", BOCHS["lacks"], BOCHS["details"])
    lacking_nothing = {k: v for k, v in BOCHS.items() if k not in ("lacks", "details")}
    assert LabFacts.of({VARIABLE: json.dumps(lacking_nothing)}) == LabFacts(
        "Bochs", "corei7_skylake_x", "2.7", {}
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "[]",
        "{}",
        '{"emulator": "Bochs"}',
        json.dumps({**BOCHS, "colour": "red"}),
        json.dumps({**BOCHS, "version": 2.7}),
        json.dumps({**BOCHS, "model": ""}),
        json.dumps({**BOCHS, "lacks": ["pmu"]}),
        json.dumps({**BOCHS, "details": ["cpus"]}),
        json.dumps({**BOCHS, "details": {"cpus": [1]}}),
        json.dumps({**BOCHS, "lacks": {"pmu": ""}}),
        "[" * 100_000,
    ],
)
def test_nonsense_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(EnvironmentUnfit, match=f"{VARIABLE} in the environment is no lab") as info:
        LabFacts.of({VARIABLE: text})
    assert "\n" not in str(info.value)


def test_facts_say_that_the_machine_is_a_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, json.dumps(BOCHS))
    facts = machine_facts(Machine(Tree()))
    assert (facts.kind, encode(facts.lab)) == ("lab", BOCHS)
    monkeypatch.delenv(VARIABLE)
    facts = machine_facts(Machine(Tree()))
    assert facts.kind == "host"
    assert facts.lab is None


def test_facts_name_the_host_and_of_an_emulated_machine_the_host_that_emulates_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = os.uname().nodename
    monkeypatch.delenv(VARIABLE, raising=False)
    assert machine_facts(Machine(Tree())).hostname == here
    monkeypatch.setenv(VARIABLE, json.dumps(BOCHS))
    assert machine_facts(Machine(Tree())).hostname == here
    details = {"emulated_on": "runner17"}
    monkeypatch.setenv(VARIABLE, json.dumps({**BOCHS, "details": details}))
    assert machine_facts(Machine(Tree())).hostname == "runner17"


def test_a_stand_in_tree_is_no_lab_wherever_it_is(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, json.dumps(BOCHS))
    machine = Machine(Tree(tmp_path_factory.mktemp("tree")))
    assert machine_facts(machine).kind == "stand-in"
