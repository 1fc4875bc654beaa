"""Facts become JSON, and what is missing stays what it is wherever it stands."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.stand_in import KNOB, intel_host

from kvmtest.evidence.coding import encode
from kvmtest.host.as_json import host_facts, kernel_facts, machine_facts, plain
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing

GONE = Missing("no lid", "open it")
PLAIN = {"missing": "no lid", "remedy": "open it"}


@dataclass(frozen=True)
class Box:
    tree: Tree
    lid: object
    parts: Mapping[str, object]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (GONE, PLAIN),
        ([GONE], [PLAIN]),
        ({1: (GONE, 2)}, {"1": [PLAIN, 2]}),
        (Box(Tree(), GONE, {"a": GONE}), {"lid": PLAIN, "parts": {"a": PLAIN}}),
        (
            Box(Tree(), Box(Tree(), [GONE], {}), {}),
            {"lid": {"lid": [PLAIN], "parts": {}}, "parts": {}},
        ),
        (frozenset({"b", "a"}), ["a", "b"]),
    ],
)
def test_what_is_missing_is_told_at_any_depth(value: object, expected: object) -> None:
    assert plain(value) == expected


def words_missing(facts: object) -> list[object]:
    """Return every object that has a remedy."""
    if isinstance(facts, dict):
        own = [facts] if "remedy" in facts else []
        return own + [each for value in facts.values() for each in words_missing(value)]
    if isinstance(facts, list):
        return [each for value in facts for each in words_missing(value)]
    return []


@pytest.mark.parametrize("empty", [False, True])
def test_every_fact_of_a_machine_is_json_and_tells_alike_what_is_missing(
    tmp_path: Path, empty: bool
) -> None:
    machine = Machine(Tree(tmp_path) if empty else intel_host(tmp_path))
    facts = [encode(of(machine)) for of in (machine_facts, host_facts, kernel_facts)]
    told = words_missing(json.loads(json.dumps(facts)))
    assert told
    assert all(isinstance(each, dict) and "missing" in each for each in told)


def test_the_knob_is_told_by_its_files(tmp_path: Path) -> None:
    assert host_facts(Machine(intel_host(tmp_path, knob=1))).knob == {KNOB: 1}


@pytest.mark.parametrize("text", ["Y", "", "2"])
def test_a_knob_that_says_nothing_known_is_missing_and_the_other_facts_are_there(
    tmp_path: Path, text: str
) -> None:
    tree = intel_host(tmp_path)
    tree.path(KNOB).write_text(text)
    facts = encode(host_facts(Machine(tree)))
    assert f"says {text!r}, where 0 or 1 is expected" in facts["knob"]["missing"]
    assert facts["kvm_module"]["name"] == "kvm_intel"
