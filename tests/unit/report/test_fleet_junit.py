"""kvmtest/report/fleet_junit.py: a fleet in one document, a case a run."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from junitparser import Error, Failure, JUnitXml
from support.evidence_strategies import RUNS

from kvmtest.evidence import Evidence
from kvmtest.fleet.gaps import Gap, WhyNot
from kvmtest.report.fleet_junit import fleet_junit
from kvmtest.report.fleet_run import FleetRun, with_evidence, without
from kvmtest.report.matrix_run import MatrixRun, of_evidence

PASSED = MatrixRun("h", "6.12.1", "m", "pass", {"any.soak": "pass"}, seconds=1.5, exit_status=0)


def read(runs: list[FleetRun]) -> JUnitXml:
    return JUnitXml.fromstring(fleet_junit(runs).encode())


def test_a_host_is_a_suite_and_a_run_a_case() -> None:
    lost = without("b", "new", 2, WhyNot(Gap.LOST, "no answer"))
    suites = list(read([with_evidence("a", "new", 1, PASSED), lost]))
    assert [(suite.name, suite.hostname, suite.tests) for suite in suites] == [
        ("a", "a", 1), ("b", "b", 1),
    ]  # fmt: skip
    (good,), (bad,) = suites
    assert (good.classname, good.name, good.time) == ("kvmtest.a", "new", 1.5)
    assert good.is_passed
    assert (bad.classname, bad.name) == ("kvmtest.b", "new 2")
    (error,) = bad.result
    assert isinstance(error, Error)
    # Jenkins shows the message, GitLab the text.
    assert error.message == error.text == "lost: no answer"


@pytest.mark.parametrize(("mark", "kind"), [("fail", Failure), ("inconclusive", Error)])
def test_a_run_that_did_not_pass_says_what_is_not_good(mark: str, kind: type) -> None:
    marks = {"any.soak": mark}
    run = replace(PASSED, mark=mark, marks=marks, wrong=["first", "second"])
    ((case,),) = read([with_evidence("a", "new", 1, run)])
    (element,) = case.result
    assert isinstance(element, kind)
    assert (element.message, element.text) == ("first", "first\nsecond")


def test_what_is_open_in_a_run_that_passed_is_no_failure() -> None:
    run = replace(PASSED, marks={"any.soak": "inconclusive"}, wrong=["any.soak: INCONCLUSIVE: r"])
    ((case,),) = read([with_evidence("a", "new", 1, run)])
    assert case.is_passed
    assert case.system_out == "any.soak: INCONCLUSIVE: r"


@given(st.lists(RUNS, min_size=1, max_size=3))
def test_nothing_fails_where_all_runs_end_with_0_and_only_there(evidences: list[Evidence]) -> None:
    runs = [
        with_evidence("h", "k", number, of_evidence("x", each, "l"))
        for number, each in enumerate(evidences, 1)
    ]
    (suite,) = read(runs)
    assert suite.tests == len(evidences)
    passes = suite.failures + suite.errors == 0
    assert passes == all(each.exit_status == 0 for each in evidences)
