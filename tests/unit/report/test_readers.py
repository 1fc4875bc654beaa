"""Readers of TAP and of JUnit that others wrote come to the same end as the exit status.

The kernel's own parser of KTAP is held against it in tests/e2e/test_kunit.py.
"""

from hypothesis import given
from junitparser import Error, Failure, JUnitXml, Skipped
from support.evidence_strategies import RUNS
from tap.parser import Parser

from kvmtest.evidence import Evidence
from kvmtest.judge import Verdict
from kvmtest.report.files import junit_of, ktap_of


@given(RUNS)
def test_all_tests_of_tap_are_ok_where_the_run_ends_with_0_and_only_there(run: Evidence) -> None:
    lines = list(Parser().parse_text(ktap_of(run)))
    tests = [line for line in lines if line.category == "test"]
    (plan,) = (line for line in lines if line.category == "plan")
    assert plan.expected_tests == len(tests)
    assert [test.number for test in tests] == list(range(1, len(tests) + 1))
    assert all(test.ok for test in tests) == (run.exit_status == 0)
    named = {test.description: test for test in tests}
    for result in run.results:
        is_decided = result.verdict in (Verdict.PASS, Verdict.FAIL, Verdict.ERROR)
        assert named[result.id].skip == (not is_decided)


@given(RUNS)
def test_a_reader_of_tap_takes_no_subtest_for_a_test(run: Evidence) -> None:
    def tests(text: str) -> list[tuple[str, bool]]:
        lines = Parser().parse_text(text)
        return [(line.description, line.ok) for line in lines if line.category == "test"]

    assert tests(ktap_of(run, subtests=True)) == tests(ktap_of(run))


@given(RUNS)
def test_junit_has_no_failure_and_no_error_where_the_run_ends_with_0_and_only_there(
    run: Evidence,
) -> None:
    (suite,) = JUnitXml.fromstring(junit_of(run).encode())
    assert (suite.failures + suite.errors == 0) == (run.exit_status == 0)
    cases = {f"{case.classname}.{case.name}": case for case in suite}
    assert len(cases) == suite.tests
    outcomes = [type(each) for case in suite for each in case.result]
    assert outcomes.count(Failure) == suite.failures
    assert outcomes.count(Error) == suite.errors
    assert outcomes.count(Skipped) == suite.skipped
    for result in run.results:
        case = cases[f"kvmtest.{result.id}"]
        assert case.is_passed == (result.verdict is Verdict.PASS)


@given(RUNS)
def test_ktap_and_junit_agree_on_every_test(run: Evidence) -> None:
    tap = [line for line in Parser().parse_text(ktap_of(run)) if line.category == "test"]
    (suite,) = JUnitXml.fromstring(junit_of(run).encode())
    for test, case in zip(tap, suite, strict=True):
        assert test.ok == (not case.is_failure and not case.is_error)
