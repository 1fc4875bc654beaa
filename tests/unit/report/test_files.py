"""The files of reports say what the evidence says: of which machine, and what came of the run."""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from support.evidence_samples import BOCHS, I7, evidence_of
from support.evidence_strategies import EVIDENCE

from kvmtest.errors import EnvironmentUnfit
from kvmtest.evidence import Evidence, Result
from kvmtest.evidence.counting import run_problem
from kvmtest.judge import Verdict
from kvmtest.report.files import junit_of, ktap_of
from kvmtest.run_folder import write_reports


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(EVIDENCE)
def test_each_result_is_in_both(tmp_path: Path, evidence: Evidence) -> None:
    write_reports(evidence, tmp_path, "here")
    ktap = (tmp_path / "ktap.txt").read_text()
    # And one that stands for the run, where there is something to say of it.
    tests = len(evidence.results) + bool(run_problem(evidence))
    assert f"1..{tests}\n" in ktap
    junit = ET.parse(tmp_path / "junit.xml")
    assert len(junit.findall(".//testcase")) == tests
    (suite,) = junit.iter("testsuite")
    assert suite.get("hostname") == (evidence.machine.hostname or "here")


@settings(max_examples=1)
@given(EVIDENCE)
def test_a_folder_that_is_not_there_is_told(evidence: Evidence) -> None:
    with pytest.raises(EnvironmentUnfit, match="No such file"):
        write_reports(evidence, Path("/nowhere/at/all"))


# Of which machine

PASSED = Result("kernel.fix-present", Verdict.PASS, "r")


def evidence_here(hostname: str | None = "runner17", **about: Any) -> Evidence:
    return evidence_of([PASSED], hostname=hostname, **about)


def properties(evidence: Evidence) -> dict[str | None, str | None]:
    root = ET.fromstring(junit_of(evidence))
    return {p.get("name"): p.get("value") for p in root.iter("property")}


def test_reports_of_many_hosts_can_be_told_apart() -> None:
    ktaps, junits = set(), set()
    for number in range(40):
        evidence = evidence_here(f"runner{number}")
        ktap, (suite,) = ktap_of(evidence), ET.fromstring(junit_of(evidence))
        assert f"# hostname: runner{number}\n" in ktap
        assert suite.get("hostname") == f"runner{number}"
        ktaps.add(ktap)
        junits.add(junit_of(evidence))
    assert (len(ktaps), len(junits)) == (40, 40)


def test_the_kernel_and_the_cpu_are_in_the_head() -> None:
    head = ktap_of(evidence_here()).partition("ok 1")[0]
    assert "# kernel: 6.12.117\n" in head
    assert "# machine: host\n" in head
    assert f"# cpu.model: {I7}\n" in head
    known = properties(evidence_here())
    assert (known["kernel"], known["machine.kind"]) == ("6.12.117", "host")
    assert (known["cpu.vendor"], known["cpu.model"]) == ("Intel", I7)
    assert known["kvmtest"] == "0.1.0"
    (suite,) = ET.fromstring(junit_of(evidence_here()))
    assert suite.get("timestamp") == "2026-11-29T14:03:42"


def test_an_emulated_machine_does_not_read_like_hardware() -> None:
    words = "EMULATED Intel (Bochs 2.7, 1 CPU): proves the kernel's code, not hardware"
    evidence = evidence_here(lab=BOCHS)
    ktap = ktap_of(evidence)
    assert f"# machine: {words}\n" in ktap
    known = properties(evidence)
    assert (known["machine"], known["machine.kind"]) == (words, "lab")
    for line in [*ktap.splitlines(), *map(str, known.values())]:
        assert I7 not in line or "calls itself" in line


def test_older_evidence_has_no_hostname_and_is_reported_all_the_same() -> None:
    old = evidence_here(None)
    assert "hostname" not in ktap_of(old)
    (suite,) = ET.fromstring(junit_of(old))
    assert suite.get("hostname") == ""
    assert "# hostname: elsewhere\n" in ktap_of(old, "elsewhere")


# What came of the run


def run_case(evidence: Evidence) -> str | None:
    """Return what JUnit says of the run itself, None where nothing."""
    root = ET.fromstring(junit_of(evidence))
    cases = [c for c in root.iter("testcase") if c.get("classname") == "kvmtest"]
    assert len(cases) <= 1
    if not cases:
        return None
    assert cases[0].get("name") == "run"
    (error,) = cases[0]
    assert error.tag == "error"
    assert error.get("message") == error.text
    return error.text


SKIPPED = Result("any.soak", Verdict.SKIP, "r")
KNOWN = Result("vmx.entry.fresh", Verdict.FAIL, "r", known_defect="docs/findings/x.md")


@pytest.mark.parametrize(
    ("results", "status", "run", "said"),
    [
        ([PASSED, SKIPPED], 0, {}, None),
        ([PASSED, KNOWN], 0, {}, None),
        ([SKIPPED], 4, {}, "exit status 4: nothing was decided"),
        ([], 4, {}, "exit status 4: nothing was decided"),
        ([KNOWN], 4, {}, "exit status 4: nothing was decided but 1 known defect, which does not"),
        ([KNOWN], 1, {"strict": True}, None),
        ([Result("any.soak", Verdict.FAIL, "r")], 1, {}, None),
        ([Result("any.soak", Verdict.ERROR, "r")], 3, {}, None),
        ([PASSED], 3, {"problems": ["pytest broke"]}, "exit status 3: pytest broke"),
        ([PASSED], 3, {}, "exit status 3: no verdict says why"),
        ([PASSED], 130, {"interrupted": True}, "exit status 130: the run was interrupted"),
        ([], 143, {"interrupted": True}, "exit status 143: the run was interrupted"),
    ],
)
def test_what_no_verdict_says_of_the_exit_status_fails_as_a_test_of_its_own(
    results: list[Result], status: int, run: dict[str, object], said: str | None
) -> None:
    evidence = evidence_of(results, status, **run)
    ktap = ktap_of(evidence).splitlines()
    found = run_case(evidence)
    assert ktap[1] == f"1..{len(results) + (said is not None)}"
    if said is None:
        assert found is None
    else:
        assert found is not None
        assert found.startswith(said)
        assert ktap[-2:] == [f"# {found}", f"not ok {len(results) + 1} kvmtest.run"]


@pytest.mark.parametrize("verdict", [Verdict.PASS, Verdict.FAIL])
def test_a_host_that_was_not_put_back_fails_beside_any_verdict(verdict: Verdict) -> None:
    status = 1 if verdict is Verdict.FAIL else 3
    evidence = evidence_of([Result("any.soak", verdict, "r")], status)
    evidence.journal.failures.append("write 1 to /sys/x: No such file")
    assert run_case(evidence) == (
        f"exit status {status}: not undone: write 1 to /sys/x: No such file"
    )
