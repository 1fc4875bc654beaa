"""kvmtest/report/matrix_json.py: every run of a fleet, for programs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import fastjsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.evidence_strategies import RUNS, WORDS

import kvmtest.report.matrix_json
from kvmtest.evidence import Evidence
from kvmtest.fleet.gaps import Gap, WhyNot
from kvmtest.report.fleet_run import FleetRun, with_evidence, without
from kvmtest.report.matrix_json import matrix_json
from kvmtest.report.matrix_run import MatrixRun, of_evidence

SCHEMA = Path(kvmtest.report.matrix_json.__file__).with_name("matrix-1.json")
DRAFT = "http://json-schema.org/draft-07/schema"
valid = fastjsonschema.compile({**json.loads(SCHEMA.read_text()), "$schema": DRAFT})

PASSED = MatrixRun(
    "h", "6.12.1", "m", "pass", {"any.soak": "pass", "vmx.x": "known"}, model="m", exit_status=0
)


def read(runs: list[FleetRun]) -> Any:
    return valid(json.loads(matrix_json(runs)))


def test_equal_verdicts_stand_there_once() -> None:
    runs = [with_evidence(f"h{n}", "own", 1, PASSED) for n in range(3)]
    failed = replace(PASSED, mark="fail", marks={"any.soak": "fail"}, wrong=["any.soak: FAIL: r"])
    data = read([*runs, with_evidence("h3", "own", 1, failed)])
    assert data["verdicts"] == [{"any.soak": "PASS", "vmx.x": "known FAIL"}, {"any.soak": "FAIL"}]
    assert [run["verdicts"] for run in data["runs"]] == [0, 0, 0, 1]
    assert [run["good"] for run in data["runs"]] == [True, True, True, False]
    assert data["counts"] == {"runs": 4, "good": 3, "without_evidence": 0}


@pytest.mark.parametrize("gap", Gap)
def test_a_run_without_evidence_says_why(gap: Gap) -> None:
    data = read([without("h", "own", 1, WhyNot(gap, "because"))])
    (run,) = data["runs"]
    assert run == {
        "host": "h", "kernel": "own", "number": 1, "good": False,
        "gap": gap.value, "failure": f"{gap}: because",
    }  # fmt: skip
    assert data["counts"]["without_evidence"] == 1


def test_the_schema_and_the_page_of_formats_have_every_gap() -> None:
    run = json.loads(SCHEMA.read_text())["properties"]["runs"]["items"]["properties"]
    page = (Path(__file__).parents[3] / "docs" / "formats.md").read_text()
    rows = page.partition("| `gap` |")[2].partition("\n\n")[0].splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == [gap.value for gap in Gap]
    assert run["gap"]["enum"] == [gap.value for gap in Gap]


def test_no_runs_are_json_too() -> None:
    assert read([])["runs"] == []


@given(st.lists(RUNS, max_size=3), WORDS)
def test_any_evidence_fits_the_schema(evidences: list[Evidence], name: str) -> None:
    runs = [with_evidence(name, "k", 1, of_evidence("x", each, name)) for each in evidences]
    data = read([*runs, without(name, name, 1, WhyNot(Gap.LOST, name))])
    assert len(data["runs"]) == len(evidences) + 1
    assert matrix_json(runs).isascii()
