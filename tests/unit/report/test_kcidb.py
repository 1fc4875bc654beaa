"""A document for KernelCI's database says what the evidence says, in that database's words."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from jsonschema import ValidationError
from support.evidence_samples import BOCHS, evidence_of
from support.evidence_strategies import EVIDENCE, RUNS

from kvmtest.errors import UsageError
from kvmtest.evidence import CpuRecord, Evidence, Result, load
from kvmtest.judge import Verdict, claim, control, measure
from kvmtest.report.kcidb import kcidb

RECORDED = Path(__file__).parents[2] / "recorded"
FINDING = "docs/findings/lost-update-while-emulating.md"


def document(*runs: Evidence, **words: str) -> Any:
    named = [(f"run {number}", run) for number, run in enumerate(runs)]
    return json.loads("".join(kcidb(named, **words)))


def of_result(result: Result, **run: Any) -> Any:
    (test,) = document(evidence_of([result], **run))["tests"]
    return test


@pytest.mark.parametrize(
    ("verdict", "status"),
    [
        (Verdict.PASS, "PASS"),
        (Verdict.FAIL, "FAIL"),
        (Verdict.ERROR, "ERROR"),
        (Verdict.SKIP, "SKIP"),
        (Verdict.INCONCLUSIVE, "DONE"),
        (Verdict.MEASURED, "DONE"),
    ],
)
def test_each_verdict_has_its_status_and_keeps_its_word(verdict: Verdict, status: str) -> None:
    test = of_result(Result("vmx.entry.fresh", verdict, "because", 1.5))
    assert (test["path"], test["status"]) == ("kvmtest.vmx.entry.fresh", status)
    assert test["misc"].items() >= {"run": "run 0", "verdict": verdict}.items()
    assert test["comment"] == f"{verdict}: because"
    assert (test["duration"], test["start_time"]) == (1.5, "2026-11-29T14:03:42+00:00")


def test_a_measured_property_has_its_first_number_and_all_its_figures() -> None:
    figures = [
        measure("leak", "KVM intercepts SMIs", True),
        measure("leak", "SMIs that ls_smi_rx counted", "6 in 3 windows"),
        measure("leak", "cycles per SMI", 10.5, smis=6),
        measure("leak", "instructions per SMI", 7),
    ]
    test = of_result(Result("svm.leak.guest-only", Verdict.MEASURED, "r", readings=figures))
    assert test["number"] == {"value": 10.5, "unit": "1/SMI"}
    assert test["misc"]["figures"] == [str(figure) for figure in figures]


def test_a_figure_that_json_can_not_hold_is_no_number() -> None:
    figures = [measure("leak", "a", math.inf), measure("leak", "b", math.nan)]
    measured = Result("any.soak", Verdict.MEASURED, "r", readings=figures)
    test = of_result(measured)
    assert "number" not in test
    assert len(test["misc"]["figures"]) == 2


def test_a_time_without_a_zone_is_left_out() -> None:
    test = of_result(Result("any.soak", Verdict.PASS, "r"), started="2026-11-29T14:03:42")
    assert "start_time" not in test


def test_only_a_measured_property_has_a_number() -> None:
    figure = measure("leak", "entries", 7)
    assert "number" not in of_result(
        Result("any.soak", Verdict.INCONCLUSIVE, "r", readings=[figure])
    )
    test = of_result(Result("any.soak", Verdict.MEASURED, "r", readings=[figure]))
    assert test["number"] == {"value": 7}


def test_a_failure_has_an_excerpt_with_what_spoke_against_it_and_the_controls() -> None:
    readings = [control("vmcs", "the host's bit", 1, 1, "set it"), claim("vmcs", "bit 14", 0, 1)]
    test = of_result(Result("any.soak", Verdict.FAIL, "because", readings=readings))
    assert test["log_excerpt"].splitlines() == [
        "because",
        "vmcs claim: bit 14: 0, expected 1",
        "vmcs control: the host's bit: 1",
    ]
    assert test["misc"]["said"] == "vmcs 0/1"


def test_a_traceback_is_cut_to_what_the_schema_takes() -> None:
    test = of_result(Result("any.soak", Verdict.ERROR, "r" * 2000, detail="x\n" * 20000))
    assert len(test["log_excerpt"]) == 16384
    assert len(test["comment"]) == 1000


@pytest.mark.parametrize(
    ("verdict", "present"), [(Verdict.FAIL, [True]), (Verdict.PASS, [False]), (Verdict.SKIP, [])]
)
def test_a_known_defect_is_an_issue_and_each_test_of_it_an_incident(
    verdict: Verdict, present: list[bool]
) -> None:
    known = Result("vmx.entry.after-emulation", verdict, "because", known_defect=FINDING)
    data = document(evidence_of([known]), origin="me")
    (issue,) = data["issues"]
    assert issue["id"] == "me:lost-update-while-emulating"
    assert issue["report_subject"].startswith("A new host DEBUGCTL is lost")
    assert issue["culprit"] == {"code": True, "tool": False, "harness": False}
    assert issue["misc"]["printed_by"] == "kvmtest finding lost-update-while-emulating"
    assert [each["present"] for each in data["incidents"]] == present
    for incident in data["incidents"]:
        assert incident["test_id"] == data["tests"][0]["id"]
        assert incident["issue_id"] == issue["id"]
        assert incident["issue_version"] == issue["version"]


def test_a_kernel_is_one_checkout_and_one_build_of_all_its_runs() -> None:
    runs = [evidence_of([Result("any.soak", Verdict.PASS, "r", seconds=n)]) for n in (1, 2)]
    other = evidence_of(release="6.18.1")
    data = document(*runs, other)
    assert [each["comment"] for each in data["checkouts"]] == ["Linux 6.12.117", "Linux 6.18.1"]
    assert [each["checkout_id"] for each in data["builds"]] == [c["id"] for c in data["checkouts"]]
    assert [each["build_id"] for each in data["tests"]] == [data["builds"][0]["id"]] * 2
    assert len({each["id"] for each in data["tests"]}) == 2


def test_a_build_is_described_by_the_first_run_of_its_kernel() -> None:
    passed = [Result("any.soak", Verdict.PASS, "r")]
    runs = [evidence_of(passed, started=f"2026-11-29T14:03:4{n}Z") for n in (1, 2)]
    first, second = (
        replace(run, kernel=replace(run.kernel, compiler=compiler))
        for run, compiler in zip(runs, ["gcc 12", "gcc 14"], strict=True)
    )
    data = document(first, second)
    assert len(data["tests"]) == 2
    (build,) = data["builds"]
    assert build["compiler"] == "gcc 12"
    assert (build["architecture"], build["status"]) == ("x86_64", "PASS")


def test_modules_laid_over_a_kernel_make_another_build_of_it() -> None:
    laid = {**BOCHS, "details": {"modules_laid_over": "kvm.ko (abc)"}}
    data = document(evidence_of(lab=BOCHS), evidence_of(lab=laid))
    stock, own = data["builds"]
    assert stock["id"] != own["id"]
    assert "misc" not in stock
    assert own["misc"] == {"modules_laid_over": "kvm.ko (abc)"}


def test_kernels_that_are_not_known_are_not_taken_for_one() -> None:
    unknown = [evidence_of(release="", started=f"2026-11-29T14:03:4{n}Z") for n in (1, 2)]
    assert len(document(*unknown)["builds"]) == 2


def test_a_build_that_the_database_has_is_named_and_not_made() -> None:
    run = evidence_of([Result("any.soak", Verdict.PASS, "r")])
    data = document(run, build="maestro:68f0")
    assert (data["checkouts"], data["builds"]) == ([], [])
    assert [each["build_id"] for each in data["tests"]] == ["maestro:68f0"]


def test_the_environment_says_that_a_machine_is_emulated() -> None:
    (test,) = document(evidence_of([Result("any.soak", Verdict.PASS, "r")], lab=BOCHS))["tests"]
    assert test["environment"]["comment"].startswith("EMULATED Intel (Bochs 2.7, 1 CPU)")
    assert test["environment"]["misc"]["platform"] == "Bochs corei7_skylake_x"


def test_the_environment_has_the_cpu_and_its_microcode() -> None:
    run = evidence_of([Result("any.soak", Verdict.PASS, "r")], hostname="spr")
    cpu = CpuRecord("intel", model_name="Xeon", microcode=0x2B000620)
    (test,) = document(replace(run, machine=replace(run.machine, cpu=cpu)))["tests"]
    assert test["environment"]["misc"].items() >= {
        "hostname": "spr", "cpu_vendor": "Intel", "platform": "Xeon", "microcode": "0x2b000620",
    }.items()  # fmt: skip


def test_the_same_run_comes_once_and_with_the_same_ids() -> None:
    run = load(RECORDED / "intel-lab.json")
    assert document(run) == document(run, run)


@pytest.mark.parametrize("origin", ["", "Me", "a-b", "a:b", "a\n"])
def test_an_origin_that_the_database_refuses_is_refused(origin: str) -> None:
    with pytest.raises(UsageError, match="--origin"):
        kcidb([], origin)


@pytest.mark.parametrize("build", ["68f0", ":68f0", "Maestro:1", "maestro:", "maestro:a\nb"])
def test_a_build_that_the_database_refuses_is_refused(build: str) -> None:
    with pytest.raises(UsageError, match="--build"):
        kcidb([], build=build)


# What no result says


@pytest.mark.parametrize(
    ("exit_status", "about", "status"),
    [
        (0, {}, None),
        (1, {"problems": ["pytest broke"]}, "ERROR"),
        (3, {"problems": ["pytest broke"]}, "ERROR"),
        (4, {}, "SKIP"),
        (130, {"interrupted": True}, "MISS"),
    ],
)
def test_a_run_that_had_a_problem_is_a_test_of_its_own(
    exit_status: int, about: dict[str, Any], status: str | None
) -> None:
    data = document(evidence_of([], exit_status, **about))
    found = [(each["path"], each["status"]) for each in data["tests"]]
    assert found == ([("kvmtest.run", status)] if status else [])


def outcome(data: Any) -> int:
    """Return the exit status that a reader of the database comes to."""
    known = {each["test_id"] for each in data["incidents"] if each["present"]}
    statuses = {each["status"] for each in data["tests"] if each["id"] not in known}
    order = {"FAIL": 1, "ERROR": 3, "MISS": 130, "PASS": 0, "DONE": 4, "SKIP": 4}
    return next((end for status, end in order.items() if status in statuses), 4)


@given(RUNS)
def test_a_reader_comes_to_the_end_that_the_run_had(run: Evidence) -> None:
    # A strict run counts what the database knows as an incident.
    assume(not run.strict)
    assert agrees(outcome(document(run)), run.exit_status)


def agrees(came_to: int, ended: int) -> bool:
    # A run that was interrupted may have failed before.
    return came_to == ended if ended < 128 else came_to in (1, 3, 130)


@given(st.lists(EVIDENCE, max_size=3))
def test_any_evidence_fits_the_schema_and_every_reference_is_there(runs: list[Evidence]) -> None:
    data = document(*runs)
    ids = {kind: {each["id"] for each in data[kind]} for kind in data if kind != "version"}
    assert {each["build_id"] for each in data["tests"]} <= ids["builds"]
    assert {each["checkout_id"] for each in data["builds"]} == ids["checkouts"]
    assert {each["test_id"] for each in data["incidents"]} <= ids["tests"]
    assert {each["issue_id"] for each in data["incidents"]} <= ids["issues"]


@pytest.mark.parametrize("path", sorted(RECORDED.glob("*.json")), ids=lambda path: path.stem)
def test_a_reader_comes_to_the_end_of_every_recorded_run(path: Path) -> None:
    run = load(path)
    data = document(run)
    if run.strict:
        assert {each["status"] for each in data["tests"]} >= {"FAIL"}
        assert all(each["misc"]["strict"] for each in data["tests"])
    else:
        assert agrees(outcome(data), run.exit_status)


def test_many_runs_are_given_in_parts_which_are_checked_one_by_one() -> None:
    good = evidence_of([Result("any.soak", Verdict.PASS, "r")])
    parts = kcidb([("", good), ("", evidence_of([Result("not a path", Verdict.PASS, "r")]))])
    head, test = next(parts), next(parts)
    assert json.loads(f"{head}{test}]}}")["tests"][0]["path"] == "kvmtest.any.soak"
    with pytest.raises(ValidationError, match="not a path"):
        next(parts)
