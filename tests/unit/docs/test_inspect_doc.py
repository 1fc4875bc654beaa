"""docs/inspect.md: what inspection says agrees with what the lab decided on the same kernels."""

import json
import runpy
from pathlib import Path

import pytest

from kvmtest.kernels.series import FIX, QUIRK, SERIES, Commit, State
from kvmtest.lab.mutants import MUTANTS, REPAIRS

TOOL = runpy.run_path(str(Path(__file__).resolve().parents[3] / "tools" / "inspect_doc.py"))
DATA = TOOL["load"]()
LAB = json.loads(TOOL["KERNELS"].read_text())


def test_the_page_is_the_data_s() -> None:
    assert TOOL["TARGET"].read_text() == TOOL["document"](DATA)


def test_inspection_and_the_lab_agree_on_every_kernel() -> None:
    assert TOOL["not_inspected"](DATA, LAB) == []
    assert TOOL["contradictions"](DATA, LAB) == []


@pytest.mark.parametrize("commit", [FIX, QUIRK])
def test_a_contradiction_would_be_found(commit: Commit) -> None:
    first, *others = DATA["kernels"]
    is_absent = first["states"][commit.id] == State.ABSENT
    turned = State.PRESENT if is_absent else State.ABSENT
    changed = first | {"states": first["states"] | {commit.id: turned}}
    assert TOOL["contradictions"]({"kernels": [changed, *others]}, LAB)


def test_a_kernel_without_a_row_is_named_on_the_page() -> None:
    first, *others = DATA["kernels"]
    assert first["debian_version"] in TOOL["not_inspected"]({"kernels": others}, LAB)
    assert first["debian_version"] in TOOL["document"](DATA | {"kernels": others})


def test_a_kernel_s_row_has_all_commits_and_every_mutant_of_vmx_has_a_row() -> None:
    assert {row["name"] for row in DATA["mutants"]} == {
        mutant.name for mutant in (*MUTANTS, *REPAIRS) if not mutant.owner.startswith("svm.")
    }
    for row in DATA["kernels"]:
        assert set(row["states"]) == {commit.id for commit in SERIES}


def test_a_mutant_that_mends_denies_nothing() -> None:
    rows = {row["name"]: row for row in DATA["mutants"]}
    for repair in REPAIRS:
        assert not rows[repair.name]["code"]
        assert not rows[repair.name]["source"]
